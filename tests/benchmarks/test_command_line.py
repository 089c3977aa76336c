from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from benchmarks import command_line
from benchmarks.cases import FULL, QUICK
from benchmarks.command_line import Results, write


def results() -> Results:
    return Results("a table", lambda: "{}", lambda path: path.write_text("a drawing") and None)


def parse(*arguments: str) -> argparse.Namespace:
    return command_line.parser("some", "What it does.", "sooner", FULL, QUICK).parse_args(arguments)


def test_the_results_are_printed_and_written_where_they_were_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- some: begin -->\nold\n<!-- some: end -->\nbehind\n")
    write(results(), parse("--json", f"{tmp_path}/j", "--plot", f"{tmp_path}/p", "--page", str(page)), "some")
    assert capsys.readouterr().out == "a table\n"
    assert (tmp_path / "j").read_text() == "{}"
    assert (tmp_path / "p").read_text() == "a drawing"
    assert page.read_text() == ("before\n<!-- some: begin -->\n```text\na table\n```\n<!-- some: end -->\nbehind\n")


def test_nothing_is_written_that_was_not_asked_for(tmp_path: Path) -> None:
    write(results(), parse(), "some")
    assert list(tmp_path.iterdir()) == []


def test_names_are_found_whole_or_by_their_beginnings() -> None:
    known = ["ray", "rayserve", "nginx"]
    assert command_line.named("nginx,ray", known, "peer") == ("ray", "nginx")
    assert command_line.named("ray", known, "peer", beginnings=True) == ("ray", "rayserve")

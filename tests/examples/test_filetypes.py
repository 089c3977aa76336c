"""The file types example: its model beside magika's own answers, the handler in batches, the demo, the measuring."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import servekit

magika = pytest.importorskip("magika")

FILETYPES = Path(__file__).parents[2] / "examples" / "filetypes"


@pytest.fixture
def file_types(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FILETYPES))
    return importlib.import_module("file_types")


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FILETYPES))
    return importlib.import_module("samples")


def test_it_says_what_magika_says(file_types: ModuleType, samples: ModuleType) -> None:
    contents = {name: content for name, (_, content) in samples.made().items()} | samples.found(60)
    contents |= {"spaces": b" " * 5000, "spaces, text": b" \n" * 40 + b"hello you", "few bytes": b"\xff\xfe\x00\x01"}
    assert len(contents) > 40

    answers = file_types.Model(threads=1).identify(list(contents.values()))

    theirs = magika.Magika()
    for (name, content), (label, score) in zip(contents.items(), answers, strict=True):
        expected = theirs.identify_bytes(content)
        assert label == str(expected.output.label), name
        assert score == pytest.approx(expected.score, abs=1e-3), name


def test_what_is_made_is_told_for_what_it_is(file_types: ModuleType, samples: ModuleType) -> None:
    made = samples.made()
    answers = file_types.Model(threads=1).identify([content for _, content in made.values()])
    assert [label for label, _ in answers] == [label for label, _ in made.values()]


def test_no_files_are_no_answers(file_types: ModuleType) -> None:
    assert file_types.Model(threads=1).identify([]) == []


def test_files_are_seen_in_batches(serve_instance: Any, file_types: ModuleType, samples: ModuleType) -> None:
    config = {"max_batch_size": 4, "batch_wait_timeout": 10.0}
    servekit.create_backend("file_types", file_types.FileTypes, config=config)
    servekit.create_endpoint("file_types", "/file_types", methods=["POST"], backend="file_types")
    made = samples.made()

    def ask(content: bytes) -> Any:
        return serve_instance.client.post("/file_types", content=content).json()

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, [content for _, content in made.values()]))

    assert [answer["label"] for answer in answers] == [label for label, _ in made.values()]
    assert max(answer["batch"] for answer in answers) > 1
    assert all(1 <= answer["batch"] <= 4 and 0 < answer["score"] <= 1 for answer in answers)
    assert {answer["mime_type"] for answer in answers} >= {"image/png", "application/zip", "text/html"}


@pytest.mark.runtimes("process")
def test_the_demo_tells_every_file(run_demo: Callable[..., str]) -> None:
    printed = run_demo(FILETYPES, str(FILETYPES / "measure.py"))
    rows = [line.split() for line in printed.splitlines()]
    assert ["archive.zip", "zip"] in [row[:2] for row in rows]
    assert ["python"] in [row[1:2] for row in rows if row and row[0].endswith("filetypes/measure.py")]


@pytest.mark.processes
def test_the_measuring_fills_its_table_into_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- batches: begin -->\nold\n<!-- batches: end -->\nafter\n")
    command = [sys.executable, str(FILETYPES / "measure.py"), "--sizes", "1", "4", "--repeats", "1", "--seconds", "0.5"]
    done = subprocess.run([*command, "--page", str(page)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = page.read_text().splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert "old" not in lines
    assert [line.split("|")[1].strip() for line in lines[4:6]] == ["1", "4"]

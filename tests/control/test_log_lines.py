"""The last lines of a log that are of one replica."""

from __future__ import annotations

from pathlib import Path

import pytest

from servekit.control import log_lines
from servekit.control.log_files import aside
from servekit.control.log_lines import Which, last_lines

TIME = "2026-11-30T12:00:00.000Z"


def line(replica: str, text: object) -> str:
    return f"{TIME} OUTPUT replica {replica} {text}"


@pytest.fixture
def log(tmp_path: Path) -> str:
    """Three files: what was printed first is in the last."""
    path = str(tmp_path / "servekit.log")
    for number, texts in enumerate([("e", "f"), ("c", "d"), ("a", "b")]):
        lines = [
            f"{line(replica, text)}\n" for text, replica in zip(texts, ("v1 r1-aaaaaa", "v2 r2-bbbbbb"), strict=True)
        ]
        Path(aside(path, number)).write_text("".join(lines))
    return path


@pytest.mark.parametrize(
    ("backend", "replica", "most", "texts"),
    [
        (None, None, 10, "abcdef"),
        (None, None, 3, "def"),
        ("v1", None, 10, "ace"),
        ("v2", "r2", 2, "df"),
        ("v2", "r2-bbbbbb", 1, "f"),
        ("v2", "r1", 10, ""),
        ("v3", None, 10, ""),
    ],
)
def test_the_last_ones_over_all_files(
    log: str, backend: str | None, replica: str | None, most: int, texts: str
) -> None:
    assert "".join(found[-1] for found in last_lines(log, Which(backend, replica), most)) == texts


def test_so_much_is_read_and_no_more(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    length = len(line("v1 r1-aaaaaa", "x")) + 1
    monkeypatch.setattr(log_lines, "TAIL_BYTES", 3 * length + 5)
    assert "".join(found[-1] for found in last_lines(log, Which(None, None), 10)) == "def"


def test_what_is_long_is_cut_and_what_is_being_written_left_out(tmp_path: Path) -> None:
    path = tmp_path / "servekit.log"
    path.write_bytes(line("v1 r1-aaaaaa", "x" * 10_000).encode() + b"\n" + line("v1 r1-aaaaaa", "half").encode())
    (found,) = last_lines(str(path), Which("v1", None), 10)
    assert len(found) == log_lines.LONGEST_LINE


def test_where_there_is_no_log_there_are_no_lines(tmp_path: Path) -> None:
    assert last_lines(str(tmp_path / "servekit.log"), Which(None, None), 10) == []

"""``servekit logs``: whose lines it shows, from when on, and how it goes on."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from servekit.cli.logs import LogReader
from servekit.cli.main import main
from servekit.control.log_files import aside
from servekit.logs import stamp

OLD, NEW = stamp(time.time() - 7200), stamp(time.time() - 60)
LINES = [
    f"{OLD} INFO controller replica v1 r1-aaaaaa is ready, 1.00 s after its start",
    f"{OLD} OUTPUT replica v1 r1-aaaaaa hello",
    f"{OLD} OUTPUT replica v10 r2-bbbbbb hello",
    f"{NEW} OUTPUT replica v1 r10-cccccc hello",
    json.dumps({"time": NEW, "level": "OUTPUT", "role": "replica", "backend": "v1", "replica": "r3-dddddd"}).replace(
        '"time": ', '"time":'
    ),
]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "servekit" / "default" / "logs" / "servekit.log"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"{line}\n" for line in LINES[3:]))
    Path(aside(str(path), 1)).write_text("".join(f"{line}\n" for line in LINES[2:3]))
    Path(aside(str(path), 2)).write_text("".join(f"{line}\n" for line in LINES[:2]))
    return path


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ([], [0, 1, 2, 3, 4]),
        (["v1"], [0, 1, 3, 4]),
        (["v1", "r1"], [0, 1]),
        (["v1", "r1-aaaaaa"], [0, 1]),
        (["v1", "r3"], [4]),
        (["v10"], [2]),
        (["v1", "-n", "0"], []),
        (["-n", "2"], [3, 4]),
        (["v1", "-n", "1"], [4]),
        (["--since", "1h"], [3, 4]),
        (["--since", OLD], [0, 1, 2, 3, 4]),
    ],
)
def test_whose_lines(log: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], shown: list[int]) -> None:
    assert main(["logs", *arguments]) == 0
    assert capsys.readouterr().out.splitlines() == [LINES[at] for at in shown]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--since", "yesterday"], 2, "neither a span, as 10m, nor a moment"),
        (["v"], 1, "there is no backend 'v' in the logs; did you mean 'v1'?"),
        (["v1", "r2"], 1, "there is no replica 'r2' of backend 'v1' in the logs"),
        (["--name", "other"], 1, "there is no log of a standing instance 'other'"),
    ],
)
def test_what_is_not_there(
    log: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert main(["logs", *arguments]) == code
    assert said in capsys.readouterr().err


def test_it_follows_over_files_that_are_put_aside(log: Path) -> None:
    command = [sys.executable, "-m", "servekit.cli.main", "logs", "-f", "-n", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown = [process.stdout.readline().strip()]
        for number in range(4):
            if number % 2:
                os.replace(log, aside(str(log), 1))
            with log.open("a") as file:
                file.write(f"{NEW} OUTPUT replica v1 r4-eeeeee line {number}\n")
            shown.append(process.stdout.readline().strip())
        process.kill()
    assert shown == [LINES[-1], *(f"{NEW} OUTPUT replica v1 r4-eeeeee line {number}" for number in range(4))]


def test_no_line_is_missed_or_shown_twice_whenever_files_are_put_aside(log: Path) -> None:
    """Several between two looks, in the middle of a look, and in the middle of being put aside."""

    def put_aside() -> None:
        for number in range(5, -1, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(aside(str(log), number), aside(str(log), number + 1))

    def print_line(*numbers: int) -> None:
        with log.open("a") as file:
            file.write("".join(f"line {number}\n" for number in numbers))

    put_aside()
    print_line(0)
    with contextlib.closing(LogReader(str(log))) as reader:
        reading = reader.read()
        shown = [next(reading)]
        put_aside()
        print_line(1)
        put_aside()
        shown += reading
        shown += reader.read()
        print_line(2)
        put_aside()
        print_line(3)
        with log.open("a") as file:
            file.write("line")
        shown += reader.read()
        with log.open("a") as file:
            file.write(" 4\n")
        shown += reader.read()
    assert shown == LINES + [f"line {number}" for number in range(5)]

"""The log files of an instance: no line is lost or there twice, whenever a controller is killed."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.full_disk import no_room
from tests.support.waiting import until

from servekit.control import log_files
from servekit.control.log_files import LogFiles
from servekit.logs import LogSetup, formatter
from servekit.output import open_output, outputs_in, printing_into, stream_to

NAMES = {"role": "replica", "backend": "v1", "replica": "r1-abcdef"}


class Killed(BaseException):
    """In the place of SIGKILL."""


class Gatherer(LogFiles):
    """Takes each step when it is asked to, and may be killed in one."""

    killed_at = ""

    def _save(self) -> None:
        if self.killed_at == "before":
            raise Killed
        super()._save()
        if self.killed_at == "after":
            raise Killed

    def killed(self, at: str) -> None:
        """Take a step that ends with this process."""
        self.killed_at = at
        with contextlib.suppress(Killed):
            self.step()
        self.left()

    def left(self) -> None:
        """Close what the kernel closes for a process that has ended."""
        os.close(self._log)
        for each in self._outputs.values():
            each.close()

    def look_at_ends(self) -> None:
        self._looked_at_ends = 0.0


def gatherer(folder: Path, *, most_bytes: int = 10**9, most_files: int = 5, format: str = "text") -> Gatherer:
    return Gatherer(LogSetup("info", format, str(folder)), most_bytes, most_files)


def gathered(folder: Path) -> list[str]:
    """All lines, the oldest first, without their times."""
    files = sorted(
        folder.glob("servekit.log*"), key=lambda path: -int(path.suffix.removeprefix(".log").strip(".") or 0)
    )
    return [line.partition(" ")[2] for file in files for line in file.read_text().splitlines()]


STEPS = st.lists(st.sampled_from(["print", "part", "step", "before", "after"]), max_size=25)


@given(STEPS)
def test_no_line_is_lost_or_there_twice_whenever_a_controller_is_killed(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    now = gatherer(folder, most_bytes=200, most_files=1000)
    printed, rest = 0, False
    output = open_output(str(folder), NAMES)
    for step in steps:
        if step == "print":
            os.write(output, b"\n" * rest + b"line %d\n" % printed)
            printed, rest = printed + 1, False
        elif step == "part" and not rest:
            os.write(output, b"line %d" % printed)
            printed, rest = printed + 1, True
        elif step == "step":
            now.step()
        elif step != "part":
            now.killed(step)
            now = gatherer(folder, most_bytes=200, most_files=1000)
    os.close(output)
    now.look_at_ends()
    while now.step():
        pass
    now.left()
    assert gathered(folder) == [f"OUTPUT replica v1 r1-abcdef line {n}" for n in range(printed)]
    assert os.listdir(outputs_in(str(folder))) == []


def test_a_file_stays_as_long_as_a_child_of_the_process_has_it(tmp_path: Path) -> None:
    now = gatherer(tmp_path)
    code = "import os, subprocess; subprocess.Popen(['sh', '-c', 'read x; echo child']); os.kill(os.getpid(), 9)"
    with printing_into(str(tmp_path), NAMES) as output:
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=output, stderr=output)
    assert process.wait(60) == -9
    now.look_at_ends()
    now.step()
    assert len(os.listdir(outputs_in(str(tmp_path)))) == 1
    assert process.stdin is not None
    process.stdin.close()

    def is_over() -> bool:
        now.look_at_ends()
        now.step()
        return not os.listdir(outputs_in(str(tmp_path)))

    until(is_over)
    now.left()
    assert gathered(tmp_path) == ["OUTPUT replica v1 r1-abcdef child"]


def test_a_process_that_was_started_with_another_output_is_moved_there(tmp_path: Path) -> None:
    code = "import os, servekit.output as o; print('before', flush=True); o.gather_output(%r, %r); print('after'); %s"
    child = "os.system('echo child'); os.kill(os.getpid(), 9)"
    command = [sys.executable, "-c", code % (str(tmp_path), NAMES, child)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (-9, "before\n"), ran.stderr
    now = gatherer(tmp_path)
    now.step()
    now.left()
    assert gathered(tmp_path) == ["OUTPUT replica v1 r1-abcdef after", "OUTPUT replica v1 r1-abcdef child"]


def test_files_are_put_aside_and_their_number_and_length_have_a_bound(tmp_path: Path) -> None:
    now, output = gatherer(tmp_path, most_bytes=10_000, most_files=3), open_output(str(tmp_path), NAMES)
    for number in range(100):
        os.write(output, b"%05d %s\n" % (number, b"x" * 900))
        now.step()
    now.left()
    os.close(output)
    assert (tmp_path / "position").stat().st_mode & 0o777 == 0o600
    files = {path.name: path.stat().st_size for path in tmp_path.glob("servekit.log*")}
    assert sorted(files) == ["servekit.log", "servekit.log.1", "servekit.log.2"]
    assert all(size <= 10_000 for size in files.values())
    assert [int(line.split()[4]) for line in gathered(tmp_path)][-1] == 99


def test_the_space_of_what_was_gathered_is_given_back(tmp_path: Path) -> None:
    now, output = gatherer(tmp_path), open_output(str(tmp_path), NAMES)
    for _ in range(16):
        os.write(output, (b"x" * 127 + b"\n") * 2048)
        while now.step():
            pass
    (path,) = Path(outputs_in(str(tmp_path))).iterdir()
    stat = path.stat()
    now.left()
    os.close(output)
    assert stat.st_size > 4_000_000
    assert stat.st_blocks * 512 < 1_000_000
    assert len(gathered(tmp_path)) == 16 * 2048


def test_of_too_much_the_last_is_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "MOST_BEHIND_BYTES", 1000)
    now, output = gatherer(tmp_path), open_output(str(tmp_path), NAMES)
    os.write(output, b"".join(b"line %05d\n" % number for number in range(1000)))
    while now.step():
        pass
    now.left()
    os.close(output)
    lines = gathered(tmp_path)
    assert re.search(r"\(\d+ bytes before this are left out: too much was printed\)", lines[0])
    assert lines[-1].endswith(" line 00999")
    assert 90 < len(lines) < 110


def test_a_full_disk_costs_lines_and_says_how_many(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    now, output = gatherer(tmp_path), open_output(str(tmp_path), NAMES)
    os.write(output, b"one\ntwo\n")
    with no_room():
        now.step()
    os.write(output, b"three\n")
    now.step()
    now.left()
    os.close(output)
    assert gathered(tmp_path) == [
        "OUTPUT controller 2 lines before this are lost: there was no room for them",
        "OUTPUT replica v1 r1-abcdef three",
    ]


def test_a_full_disk_is_no_error_of_whoever_prints(tmp_path: Path) -> None:
    now, output = gatherer(tmp_path), open_output(str(tmp_path), NAMES)
    stream = stream_to(output)
    with no_room():
        print("lost", file=stream)
    print("kept \udcff", file=stream)
    now.step()
    now.left()
    os.close(output)
    assert gathered(tmp_path) == ["OUTPUT replica v1 r1-abcdef kept \\udcff"]


def test_a_terminal_that_is_stopped_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()
    monkeypatch.setattr(log_files, "_STDERR", writes)
    now, output = gatherer(tmp_path), open_output(str(tmp_path), NAMES)
    now.start()
    for _ in range(100):
        os.write(output, (b"x" * 99 + b"\n") * 100)
    until(lambda: len(gathered(tmp_path)) == 10_000)
    with os.fdopen(reads, "rb") as terminal:
        closing = threading.Thread(target=lambda: (now.close(), os.close(writes)))
        closing.start()
        shown = terminal.read()
        closing.join()
    now.left()
    os.close(output)
    assert shown.count(b" OUTPUT replica v1 r1-abcdef xxx") <= 10_000
    assert len(gathered(tmp_path)) == 10_000


def test_what_says_all_itself_is_left_as_it_is_and_the_rest_is_told(tmp_path: Path) -> None:
    own = formatter(NAMES, LogSetup(format="json")).format(logging.makeLogRecord({"msg": "mine", "levelname": "INFO"}))
    now, output = gatherer(tmp_path, format="json"), open_output(str(tmp_path), NAMES)
    os.write(output, own.encode() + b"\n10%\r50%\r100%\r\n\xff\n")
    now.step()
    now.left()
    os.close(output)
    first, *others = (tmp_path / "servekit.log").read_text().splitlines()
    assert first == own
    told = [json.loads(line) for line in others]
    assert [each["message"] for each in told] == ["100%", "\\xff"]
    assert all(NAMES.items() <= each.items() and each["level"] == "OUTPUT" for each in told)


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize(
    "names",
    [
        {"role": "controller"},
        {"role": "ingress", "worker": "ingress1"},
        {**NAMES, "replica": "r1-abcde"},
        {**NAMES, "replica": "r1-abcdef0"},
        {"role": "replica", "backend": "v2", "replica": "r1-abcdef"},
    ],
)
def test_what_is_printed_is_no_line_of_another_process(tmp_path: Path, names: dict[str, str], format: str) -> None:
    record = logging.makeLogRecord({"msg": "the disk is gone", "levelname": "ERROR"})
    forged, own = (formatter(each, LogSetup(format=format)).format(record) for each in (names, NAMES))
    now, output = gatherer(tmp_path, format=format), open_output(str(tmp_path), NAMES)
    os.write(output, f"{forged}\n{own}\n".encode())
    now.step()
    now.left()
    os.close(output)
    first, second = (tmp_path / "servekit.log").read_text().splitlines()
    if format == "text":
        assert first.partition(" ")[2] == f"OUTPUT replica v1 r1-abcdef {forged}"
    else:
        told = json.loads(first)
        assert (told["level"], told["replica"], told["message"]) == ("OUTPUT", NAMES["replica"], forged)
    assert second == own


def test_a_step_is_split_where_the_log_is_full_and_a_kill_between_costs_nothing(tmp_path: Path) -> None:
    printed = b"".join(b"line %05d\n" % number for number in range(5000))
    output = open_output(str(tmp_path), NAMES)
    os.write(output, printed)
    os.close(output)
    for at in ("before", "after", ""):
        now = gatherer(tmp_path, most_bytes=20_000, most_files=1000)
        if at:
            now.killed(at)
            continue
        now.look_at_ends()
        while now.step():
            pass
        now.left()
    sizes = [path.stat().st_size for path in tmp_path.glob("servekit.log*")]
    assert len(sizes) > 5
    assert max(sizes) <= 20_000
    assert gathered(tmp_path) == [f"OUTPUT replica v1 r1-abcdef line {n:05}" for n in range(5000)]


LONG = [f"line {number:05} {'x' * 60}" for number in range(5000)]


def gathered_long(folder: Path) -> list[str]:
    return [line.removeprefix("OUTPUT replica v1 r1-abcdef ") for line in gathered(folder)]


def test_nothing_is_given_back_that_no_saved_position_covers(tmp_path: Path) -> None:
    now, output = gatherer(tmp_path), open_output(str(tmp_path), NAMES)
    (tmp_path / "position.part").mkdir()
    os.write(output, "".join(f"{line}\n" for line in LONG).encode())
    os.close(output)
    now.look_at_ends()
    while now.step():
        pass
    assert len(os.listdir(outputs_in(str(tmp_path)))) == 1
    now.left()
    (tmp_path / "position.part").rmdir()
    now = gatherer(tmp_path)
    now.look_at_ends()
    while now.step():
        pass
    now.left()
    assert gathered_long(tmp_path) == LONG
    assert os.listdir(outputs_in(str(tmp_path))) == []


def test_what_could_not_be_saved_is_saved_later_and_given_back_then(tmp_path: Path) -> None:
    now, output = gatherer(tmp_path), open_output(str(tmp_path), NAMES)
    (tmp_path / "position.part").mkdir()
    os.write(output, b"line\n")
    os.close(output)
    now.look_at_ends()
    now.step()
    (tmp_path / "position.part").rmdir()
    now.step()
    now.left()
    assert os.listdir(outputs_in(str(tmp_path))) == []


@pytest.mark.parametrize("position", [b"", None, "early"])
def test_where_the_position_is_lost_reading_goes_on_behind_what_was_given_back(
    tmp_path: Path, position: bytes | str | None
) -> None:
    now, output = gatherer(tmp_path), open_output(str(tmp_path), NAMES)
    os.write(output, f"{LONG[0]}\n".encode())
    now.step()
    saved = tmp_path / "position"
    early = saved.read_bytes()
    os.write(output, "".join(f"{line}\n" for line in LONG[1:]).encode())
    while now.step():
        pass
    now.left()
    (tmp_path / "servekit.log").rename(tmp_path / "kept")
    if position is None:
        saved.unlink()
    else:
        saved.write_bytes(early if position == "early" else b"")
    os.write(output, b"after\n")
    os.close(output)
    now = gatherer(tmp_path)
    now.look_at_ends()
    while now.step():
        pass
    now.left()
    cut, *lines = gathered_long(tmp_path)
    assert lines[-1] == "after"
    assert lines[:-1] == LONG[len(LONG) - len(lines) + 1 :]  # Less than a page is there twice, and a piece of a line.
    assert LONG[len(LONG) - len(lines)].endswith(cut)
    assert len(lines) < log_files.PUNCH_BYTES // 60


def test_what_cannot_be_opened_costs_no_other_file_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, writes = os.pipe()
    monkeypatch.setattr(log_files, "_STDERR", writes)
    now, output = gatherer(tmp_path), open_output(str(tmp_path), NAMES)
    for name in ("a", "b"):
        Path(outputs_in(str(tmp_path)), name).mkdir()
    os.mkfifo(Path(outputs_in(str(tmp_path)), "c"))
    now.start()
    os.write(output, b"line\n")
    until(lambda: gathered(tmp_path) == ["OUTPUT replica v1 r1-abcdef line"])
    now.close()
    now.left()
    os.close(output)
    os.close(writes)
    with os.fdopen(reads) as terminal:
        assert terminal.read().count("some of what is printed is not gathered") == 1


def test_a_log_that_cannot_be_put_aside_goes_on(tmp_path: Path) -> None:
    now, output = gatherer(tmp_path, most_bytes=100), open_output(str(tmp_path), NAMES)
    (tmp_path / "servekit.log.new").mkdir()
    for number in range(5):
        os.write(output, b"line %d\n" % number)
        now.step()
    (tmp_path / "servekit.log.new").rmdir()
    now.left()
    os.close(output)
    assert gathered(tmp_path) == [f"OUTPUT replica v1 r1-abcdef line {n}" for n in range(5)]

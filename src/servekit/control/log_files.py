"""The log files of an instance: what its processes print is gathered there, with times and names, and rotated.

Each process prints into a file of its own (`servekit.output`). A thread of the controller reads on in all of them, adds
to each line what it lacks, appends the lines to ``servekit.log``, and gives the space of what it has read back. How far
it has read is saved after each step, with the length of the log: a controller that comes after one that was killed cuts
the log to that length, and reads on from there. No space is given back before that is saved.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import queue
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from servekit.logs import LogSetup, as_json, stamp
from servekit.output import HIDDEN, outputs_in
from servekit.private_folders import write_private

LOOK_S = 0.1
"""Between two looks at what was printed."""
LOOK_AT_ENDS_S = 1.0
"""Between two looks at which processes have ended."""
READ_BYTES = 256 * 1024
"""What is read of one file at a time; a longer line is cut."""
MOST_BEHIND_BYTES = 64 * 1024 * 1024
"""Of a process that prints faster than can be gathered, or has printed so much while no controller was there, this
much is gathered, and what was printed before that is left out."""
PUNCH_BYTES = 64 * 1024
"""Space is given back in pieces of this length at the least."""
ECHO_STEPS = 64
"""How many steps the terminal may be behind."""
ECHO_TIMEOUT_S = 1.0
"""How long a terminal that takes nothing is waited for at the end."""
CLOSE_TIMEOUT_S = 5.0
LOG = "servekit.log"
"""The name of the log; those that were put aside have a number behind it, from ``.1`` on."""
OUTPUT = "OUTPUT"
"""In the place of a level: the line was printed, and not logged by servekit."""
_STDERR = 2
_PAGE = 4096
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_TIME = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


class _Position(msgspec.Struct):
    """How far the outputs have been gathered."""

    log_bytes: int
    """The length of the log then."""
    outputs: dict[str, int]
    """What has been read of each file."""


class _Output:
    """The file of one process."""

    def __init__(self, folder: str, name: str, at: int, *, json: bool) -> None:
        self.path = os.path.join(folder, name)
        self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            first = os.pread(self._file, _PAGE, 0).partition(b"\n")[0]
        except OSError:
            os.close(self._file)
            raise
        self.names, begins = {"role": name}, 0
        with contextlib.suppress(msgspec.MsgspecError):
            self.names, begins = msgspec.json.decode(first, type=dict[str, str]), len(first) + 1
        self.is_own = _own(self.names, json=json).match
        """Whether a line is one that this very process has logged by servekit, which says all itself."""
        self.at = _behind_hole(self._file, at or begins)
        self.saved = self.at
        """The next controller reads on from there, at the earliest."""
        self.ended = False
        """No process has the file open any more."""
        self._punched = _PAGE  # The first page has the names.

    def look(self) -> None:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.ended = True

    def read(self) -> Iterator[tuple[bytes, int]]:
        """The lines that follow `at`, each with what `at` is to be once the log has it."""
        at = self.at
        behind = os.fstat(self._file).st_size - at
        if behind > MOST_BEHIND_BYTES:
            left_out = behind - MOST_BEHIND_BYTES
            at += left_out
            yield b"(%d bytes before this are left out: too much was printed)" % left_out, at
        data = os.pread(self._file, READ_BYTES, at)
        whole = data.rfind(b"\n") + 1
        if not whole and (len(data) == READ_BYTES or self.ended):
            whole = len(data)
        if whole:
            end = at + whole
            for line in data[:whole].removesuffix(b"\n").split(b"\n"):
                at = min(at + len(line) + 1, end)
                yield line, at

    @property
    def is_over(self) -> bool:
        return self.ended and self.saved >= os.fstat(self._file).st_size

    def give_back(self) -> None:
        """Give the space of what nobody reads again back."""
        end = self.saved - self.saved % _PAGE
        if end - self._punched >= PUNCH_BYTES:
            punch(self._file, self._punched, end - self._punched)
            self._punched = end

    def close(self) -> None:
        os.close(self._file)


def _own(names: dict[str, str], *, json: bool) -> re.Pattern[bytes]:
    """How the lines begin that a process of these ``names`` logs by servekit."""
    if json:
        said = re.escape(as_json(names)[1:-1].encode())
        return re.compile(rb'\{"time":"' + _TIME + rb'","level":"[A-Z]+",' + said + b",")
    return re.compile(_TIME + b" [A-Z]+ " + re.escape(" ".join(names.values()).encode()) + b" ")


def _behind_hole(file: int, at: int) -> int:
    """``at``, or the end of the hole there: a position that was lost, or is older than what the machine has kept of the
    file, may be before what has been given back."""
    start = max(at, _PAGE)
    try:
        data = os.lseek(file, start, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            return at  # The file system knows of no holes.
        data = os.fstat(file).st_size
    return data if data > start else at


_Line = tuple[bytes, _Output, int]
"""A line as the log is to have it, whose it is, and where it ends there."""


def punch(file: int, start: int, length: int) -> None:
    """Give the space of a part of a file back, which keeps its length. Raises ``OSError``."""
    libc = ctypes.CDLL(None, use_errno=True)
    place = (ctypes.c_int64(start), ctypes.c_int64(length))
    if libc.fallocate(file, _KEEP_SIZE | _PUNCH_HOLE, *place) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class LogFiles(threading.Thread):
    """Gathers the outputs of an instance from `start` to `close`, and shows them on this process's standard error."""

    def __init__(self, setup: LogSetup, most_bytes: int, most_files: int) -> None:
        """``most_bytes``: the length at which a file is put aside; ``most_files``: how many there are."""
        super().__init__(name="log files", daemon=True)
        self._json = setup.format == "json"
        self._path = os.path.join(setup.directory, LOG)
        self._folder = outputs_in(setup.directory)
        self._saved = os.path.join(setup.directory, "position")
        self._most_bytes, self._most_files = most_bytes, most_files
        self._echo = _Echo()
        self._closing = threading.Event()
        self._outputs: dict[str, _Output] = {}
        self._looked_at_ends = 0.0
        self._lost_lines = 0
        """Since the disk took a line last."""
        self._is_saved = False
        """The position that is on the disk is the one that is here."""
        self._warned: set[str] = set()
        os.makedirs(self._folder, 0o700, exist_ok=True)
        self._position = self._resume()
        self._save()  # So that a step that is broken off can be told from what was there before.

    def _resume(self) -> _Position:
        """Where the last controller was; the log is cut to the length that it had then."""
        self._log = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        length = os.fstat(self._log).st_size
        try:
            with open(self._saved, "rb") as file:
                position = msgspec.json.decode(file.read(), type=_Position)
        except FileNotFoundError:
            return _Position(length, {})
        except (OSError, msgspec.MsgspecError) as error:
            self._warn(f"{self._saved} cannot be read, so that lines may be there twice: {error}")
            return _Position(length, {})
        if length > position.log_bytes:
            os.ftruncate(self._log, position.log_bytes)
        position.log_bytes = min(length, position.log_bytes)
        return position

    def run(self) -> None:
        self._echo.start()
        while not self._closing.wait(LOOK_S):
            self._guarded()

    def close(self) -> None:
        """Gather the rest, and end."""
        self._closing.set()
        self.join(CLOSE_TIMEOUT_S)
        if self.is_alive():
            return  # A disk that hangs is not waited for.
        ends = time.monotonic() + CLOSE_TIMEOUT_S
        self._looked_at_ends = 0.0
        while self._guarded() and time.monotonic() < ends:
            pass
        self._echo.close()

    def _guarded(self) -> bool:
        """`step`, of which a failure is said once."""
        try:
            return self.step()
        except Exception as error:
            self._warn(f"what is printed cannot be gathered: {type(error).__name__}: {error}")
            return False

    def step(self) -> bool:
        """Gather what has been printed since, as far as one step goes; whether there was anything."""
        self._find()
        now = time.monotonic()
        if now - self._looked_at_ends >= LOOK_AT_ENDS_S:
            self._looked_at_ends = now
            for each in self._outputs.values():
                each.look()
        lines: list[_Line] = []
        shown: list[bytes] = []
        for each in self._outputs.values():
            told = [(self._told(each, line), each, end) for line, end in each.read()]
            lines += told
            if each.names["role"] != "keeper":  # It shows its lines itself.
                shown += [line for line, _, _ in told]
        self._write(lines)
        if not self._is_saved:
            self._save()
        self._give_back()
        if shown:
            self._echo.put(b"".join(shown))
        return bool(lines)

    def _find(self) -> None:
        """Open the files that are new."""
        for name in self._new_names():
            try:
                self._outputs[name] = _Output(self._folder, name, self._position.outputs.get(name, 0), json=self._json)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._warn(f"some of what is printed is not gathered: {error}")

    def _new_names(self) -> list[str]:
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:  # Whoever deletes the folder wants no log.
            return []
        except OSError as error:
            self._warn(f"what new processes print is not gathered: {error}")
            return []
        return [name for name in names if name not in self._outputs and not name.startswith(HIDDEN)]

    def _told(self, output: _Output, line: bytes) -> bytes:
        """A line with what it lacks."""
        return line + b"\n" if output.is_own(line) else self._with_names(output.names, line)

    def _with_names(self, names: dict[str, str], line: bytes) -> bytes:
        line = line.rstrip(b"\r").rpartition(b"\r")[2]  # What a progress bar has written over is not shown.
        if self._json:
            text = line.decode(errors="backslashreplace")
            return as_json({"time": stamp(time.time()), "level": OUTPUT, **names, "message": text}).encode() + b"\n"
        return f"{stamp(time.time())} {OUTPUT} {' '.join(names.values())} ".encode() + line + b"\n"

    def _write(self, lines: list[_Line]) -> None:
        """Append lines to the log, which is put aside wherever the next line does not fit."""
        while lines:
            room, fit = self._most_bytes - self._position.log_bytes, 0
            while fit < len(lines) and len(lines[fit][0]) <= room:
                room -= len(lines[fit][0])
                fit += 1
            if not fit and self._position.log_bytes:
                if self._rotate():
                    continue
                fit = len(lines)
            fit = max(fit, 1)  # One that is longer than a log may get has a log for itself.
            self._append(lines[:fit])
            lines = lines[fit:]

    def _append(self, lines: list[_Line]) -> None:
        """Append lines to the log, and save how far that is. Where the disk is full, the lines are lost."""
        position, data = self._position, b"".join([line for line, _, _ in lines])
        try:
            if self._lost_lines:
                text = b"%d lines before this are lost: there was no room for them" % self._lost_lines
                data = self._with_names({"role": "controller"}, text) + data
            _write_all(self._log, data)
            position.log_bytes += len(data)
            self._lost_lines = 0
        except OSError as error:
            self._lost_lines += len(lines)
            self._warn(f"lines are lost, for {self._path} cannot be written: {error.strerror}")
            os.ftruncate(self._log, position.log_bytes)
        for _, output, end in lines:
            output.at = end
        for name, each in self._outputs.items():
            position.outputs[name] = each.at
        self._save()

    def _save(self) -> None:
        """Save the position, so that it is there whole or not at all."""
        self._is_saved = False
        try:
            write_private(Path(self._saved), msgspec.json.encode(self._position), durable=False)
        except OSError as error:
            self._warn(f"lines may be there twice after a crash of the controller, for {self._saved}: {error.strerror}")
            return
        self._is_saved = True
        for each in self._outputs.values():
            each.saved = each.at

    def _rotate(self) -> bool:
        """Put the log aside, and begin another; whether that could be done. A crash in here is no harm: the position is
        of a longer log then."""
        try:
            new = os.open(
                f"{self._path}.new", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC, 0o600
            )
            for number in range(self._most_files - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(aside(self._path, number - 1), aside(self._path, number))
            os.replace(f"{self._path}.new", self._path)
        except OSError as error:
            self._warn(f"{self._path} gets longer than it may, for it cannot be put aside: {error}")
            return False
        os.close(self._log)
        self._log, self._position.log_bytes = new, 0
        self._save()
        return True

    def _give_back(self) -> None:
        """Give the space of what has been gathered back, and delete the files of processes that have ended."""
        for name, each in list(self._outputs.items()):
            if self._lost_lines:  # The disk is full: no position can be saved, but the space is what is wanted.
                each.saved = each.at
            if each.is_over:
                del self._outputs[name]
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(each.path)
                each.close()
                self._position.outputs.pop(name, None)  # After the file: its name is never used again.
                continue
            try:
                each.give_back()
            except OSError as error:
                self._warn(f"the space of what has been gathered is not given back: {error}")

    def _warn(self, text: str) -> None:
        """Show a warning, once. It is not logged: its line would have to be gathered."""
        kind = text.partition(":")[0]
        if kind not in self._warned:
            self._warned.add(kind)
            self._echo.put(f"{stamp(time.time())} WARNING controller {text}\n".encode())


def aside(path: str, number: int) -> str:
    """The path of the log that was put aside so many times."""
    return f"{path}.{number}" if number else path


class _Echo(threading.Thread):
    """Shows lines on standard error, in a thread of its own: a terminal that is stopped holds up nothing. What it does
    not take in time is not shown there."""

    def __init__(self) -> None:
        super().__init__(name="terminal", daemon=True)
        self._waiting: queue.Queue[bytes] = queue.Queue(ECHO_STEPS)
        self._skipped = 0

    def put(self, data: bytes) -> None:
        try:
            self._waiting.put_nowait(data)
        except queue.Full:
            self._skipped += data.count(b"\n")

    def close(self) -> None:
        with contextlib.suppress(queue.Full):
            self._waiting.put(b"", timeout=ECHO_TIMEOUT_S)
        self.join(ECHO_TIMEOUT_S)

    def run(self) -> None:
        while data := self._waiting.get():
            if self._skipped:
                data += f"{stamp(time.time())} WARNING controller {self._skipped} lines are in the log alone\n".encode()
                self._skipped = 0
            with contextlib.suppress(OSError):  # The terminal is closed; the log goes on.
                _write_all(_STDERR, data)


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]

"""The file that a process prints into, where an instance gathers what its processes print.

A file neither fills up as a pipe does, nor breaks when its reader ends: nothing that is printed blocks a process or
ends it. `servekit.control.log_files` reads the files.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import fcntl
import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

_log = logging.getLogger("servekit.control")

HIDDEN = "."
"""How the name of a file begins that is not locked yet."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_LINE_BUFFERED = 1
"""``_IOLBF`` of C."""


def open_output(directory: str, names: Mapping[str, str]) -> int:
    """A descriptor for the standard output and error of one process; its first line says the process's ``names``.

    It holds a lock on the file as long as that process, or a child of it, has the file open. The file is new, in the
    folder of outputs in ``directory``. Raises ``OSError``.
    """
    folder = outputs_in(directory)
    os.makedirs(folder, 0o700, exist_ok=True)
    name = f"{[*names.values()][-1]}-{os.urandom(3).hex()}"
    hidden = os.path.join(folder, HIDDEN + name)
    output = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(output, fcntl.LOCK_SH)
        with contextlib.suppress(OSError):  # Without room, the names are lost.
            os.write(output, msgspec.json.encode(names) + b"\n")
        os.rename(hidden, os.path.join(folder, name))
    except BaseException:
        os.close(output)
        raise
    return output


@contextlib.contextmanager
def printing_into(directory: str, names: Mapping[str, str]) -> Iterator[int | None]:
    """An `open_output` for a process that is started meanwhile; None where ``directory`` is empty, or has no room for
    one more file: the process prints where this one prints."""
    output = None
    if directory:
        try:
            output = open_output(directory, names)
        except OSError as error:
            _log.warning("%s prints here, and not into the log: %s", " ".join(names.values()), error)
    try:
        yield output
    finally:
        if output is not None:
            os.close(output)


def outputs_in(directory: str) -> str:
    """The folder of what has not been gathered yet."""
    return os.path.join(directory, "outputs")


def gather_output(directory: str, names: Mapping[str, str]) -> None:
    """Have this process, its C libraries and its children print into such a file, line by line, where there is room for
    one. It may have been started with one already."""
    if not _prints_into(outputs_in(directory)):
        with printing_into(directory, names) as output:
            if output is None:
                return
            os.dup2(output, 1)
            os.dup2(output, 2)
    libc = ctypes.CDLL(None)
    # To a file, C would write in blocks, and lose the last one in a crash.
    libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, _LINE_BUFFERED, 0)
    sys.stdout = sys.__stdout__ = stream_to(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = stream_to(2)  # type: ignore[misc]
    faulthandler.enable()


def _prints_into(folder: str) -> bool:
    try:
        return os.path.dirname(os.readlink("/proc/self/fd/1")) == os.path.realpath(folder)
    except OSError:
        return False


def stream_to(output: int) -> io.TextIOWrapper:
    """A text stream to a descriptor, which writes each line at once, and loses lines where the disk is full."""
    raw = _LossyFile(output, "wb", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)


class _LossyFile(io.FileIO):
    """A file that is printed into: that there is no room for a line is no error of whoever prints."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in _FULL:
                raise
            return memoryview(data).nbytes

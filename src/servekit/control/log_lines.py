"""Lines of an instance's log: which are of a backend or a replica, and the last of those."""

from __future__ import annotations

import itertools
import os
import re
from typing import Any, BinaryIO

import msgspec

from servekit.control.log_files import aside

TAIL_BYTES = 4 * 1024 * 1024
"""So much of the log's end is looked through for lines of one replica, at the most."""
LONGEST_LINE = 4000
_HEAD_TIME = re.compile(r'(?:\{"time":")?(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)')


class Which:
    """Which lines are wanted."""

    def __init__(self, backend: str | None, replica: str | None, since: str = "") -> None:
        self._since = since
        self._names: re.Pattern[str] | None = None
        self._backend, self._replica = backend, replica
        if backend is not None:
            one = r"r\d+-[0-9a-f]{6}\b" if replica is None else rf"{re.escape(replica)}(?![0-9a-f])"
            self._names = re.compile(rf"\breplica {re.escape(backend)} {one}")

    def has(self, line: str) -> bool:
        head = _HEAD_TIME.match(line)
        if self._since and (head is None or head[1] < self._since):
            return False
        if self._names is None or self._names.search(line):
            return True
        return line.startswith("{") and self._is_by(line)

    def _is_by(self, line: str) -> bool:
        backend, replica = written_by(line) or ("", "")
        return backend == self._backend and self._replica in (None, replica, replica.partition("-")[0])


def written_by(line: str) -> tuple[str, str] | None:
    """The backend and the replica of a line of the format ``json``."""
    try:
        fields: Any = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return None
    known = isinstance(fields, dict) and "backend" in fields
    return (str(fields["backend"]), str(fields.get("replica", ""))) if known else None


def last_lines(path: str, which: Which, most: int) -> list[str]:
    """The last lines of the log ``path`` that are wanted, and of those that were put aside; the oldest first."""
    found: list[str] = []
    left = TAIL_BYTES
    for number in itertools.count():
        try:
            with open(aside(path, number), "rb") as file:
                lines, read = _end_of(file, left)
        except FileNotFoundError:
            break
        found = [line[:LONGEST_LINE] for line in lines if which.has(line)] + found
        left -= read
        if len(found) >= most or left <= 0:
            break
    return found[-most:]


def _end_of(file: BinaryIO, most: int) -> tuple[list[str], int]:
    """The whole lines in the last ``most`` bytes, and how many bytes were read."""
    start = max(0, os.fstat(file.fileno()).st_size - most)
    file.seek(start)
    data = file.read(most)
    lines = data.decode(errors="backslashreplace").split("\n")
    return lines[1 if start else 0 : -1], len(data)

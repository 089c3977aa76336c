"""What a generator makes, as a stream of records: a kind, a length, a payload."""

from __future__ import annotations

import enum
import struct

_head = struct.Struct(">BQ")


class RecordKind(enum.IntEnum):
    """What a record holds."""

    ITEM = 1
    FAILURE = 2
    """The generator raised: the last record."""
    DONE = 3
    """The generator ended: the last record. A stream without one was broken off."""


def record(kind: RecordKind, payload: bytes = b"") -> bytes:
    return _head.pack(kind, len(payload)) + payload


class RecordReader:
    """Puts records together again from pieces of whatever length."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        """Before this, everything was returned."""

    def feed(self, piece: bytes) -> None:
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += piece

    def next(self) -> tuple[RecordKind, bytearray] | None:
        """The next record; None where it is not there whole."""
        start = self._at + _head.size
        if len(self._buffer) < start:
            return None
        kind, length = _head.unpack_from(self._buffer, self._at)
        if len(self._buffer) < start + length:
            return None
        self._at = start + length
        return RecordKind(kind), self._buffer[start : self._at]

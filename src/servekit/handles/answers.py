"""The body of an answer to a handle's call.

The content type says what the body is, as in HTTP. Whatever else an answer's type is, it is a refusal in plain text.
"""

from __future__ import annotations

import enum
import struct

VALUE = "application/vnd.servekit.value"
"""A payload of the handler's result."""
FAILURE = "application/vnd.servekit.failure"
"""The exception that the handler raised, as `servekit.handles.failures` packs it."""
STREAM = "application/vnd.servekit.stream"
"""The items of the handler's generator, as records: a kind, a length, a payload."""

_TYPE_LINE = b"content-type: "
_record_head = struct.Struct(">BQ")


def type_of(head: bytes) -> str:
    """The content type that the header lines in ``head`` name; empty for none."""
    for line in head.split(b"\r\n"):
        if line.startswith(_TYPE_LINE):
            return line[len(_TYPE_LINE) :].decode("latin-1")
    return ""


class RecordKind(enum.IntEnum):
    """The meaning of a record."""

    ITEM = 1
    FAILURE = 2
    """The generator raised: the last record."""
    DONE = 3
    """The generator ended: the last record. A stream without one was broken off."""


def record(kind: RecordKind, payload: bytes = b"") -> bytes:
    return _record_head.pack(kind, len(payload)) + payload


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
        """The next record; None where that is not there whole."""
        start = self._at + _record_head.size
        if len(self._buffer) < start:
            return None
        kind, length = _record_head.unpack_from(self._buffer, self._at)
        if len(self._buffer) < start + length:
            return None
        self._at = start + length
        return RecordKind(kind), self._buffer[start : self._at]

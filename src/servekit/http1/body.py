"""Bodies that are handed on in pieces: a request's as it comes in, an answer's as it goes out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

WHOLE_BYTES = 64 * 1024
"""A request's body up to this length is handed over whole, with its head."""
BUFFER_BYTES = 256 * 1024
"""Bytes of one body that nobody has taken, at which the connection stops reading."""


class IncomingBody:
    """The rest of a body that is longer than `WHOLE_BYTES`: the pieces that have come, and have not been taken yet.

    The body of a request for a WebSocket has no end: its pieces are whatever the client sends, as it is.
    """

    __slots__ = ("_pieces", "ended", "received_bytes", "size", "unwanted", "wake")

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self.size = 0
        """Bytes that can be taken."""
        self.received_bytes = 0
        """All that have come while they were wanted."""
        self.ended = False
        """The last piece has come."""
        self.unwanted = False
        self.wake: Callable[[], None] | None = None
        """Called when a piece, or the end, has come; set by whoever takes the pieces. It must not raise."""

    @property
    def is_full(self) -> bool:
        return self.size >= BUFFER_BYTES

    def take(self) -> bytes | None:
        """The next piece; None when there is none yet."""
        if not self._pieces:
            return None
        piece = self._pieces.popleft()
        self.size -= len(piece)
        return piece

    def discard(self) -> None:
        """Nobody will take the pieces that are here, nor those that still come."""
        self._pieces.clear()
        self.size = 0
        self.unwanted = True
        self.wake = None

    # -- by the reader -------------------------------------------------------------------------------------

    def receive(self, piece: bytes) -> None:
        if not (self.unwanted or self.ended):
            self._pieces.append(piece)
            self.size += len(piece)
            self.received_bytes += len(piece)
            if self.wake is not None:
                self.wake()

    def end(self) -> None:
        self.ended = True
        if self.wake is not None:
            self.wake()


class OutgoingBody:
    """The framing of an answer's body that goes out in pieces (RFC 9112, 6 and 7)."""

    __slots__ = ("_chunked", "_left", "_silent")

    def __init__(self, length: int | None, *, chunked: bool, silent: bool) -> None:
        """``length``: as Content-Length promised. ``silent``: no body is sent, in an answer to HEAD, say."""
        self._left = length
        self._chunked = chunked
        self._silent = silent

    def piece(self, data: bytes) -> bytes:
        """``data`` as it goes out, without what is beyond the promised length."""
        if self._silent or not data:
            return b""
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(data), data)
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        return data

    def last(self, *, complete: bool) -> bytes | None:
        """The bytes that end the body; None when it cannot be ended, and the connection must be cut."""
        if self._silent:
            return b""
        if not complete or self._left:
            return None
        return b"0\r\n\r\n" if self._chunked else b""

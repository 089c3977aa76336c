"""Takes the chunks off a body (RFC 9112, 7.1). llhttp does not: it refuses blanks in an extension, which are right, and
takes extensions that are not.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable

EXTENSIONS_BYTES = 16 * 1024
"""What the extensions of one body may hold; they say nothing here. The bound is that of Node (CVE-2024-22019) and of Go
(CVE-2023-39326)."""

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_EXTENSION = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?" % (_TOKEN, _TOKEN, _QUOTED)
# 16 digits are 64 bits; zeros in front are in the grammar, and no bound on them is.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:%b)*)\r\n" % _EXTENSION)
_TRAILER_LINE = re.compile(
    rb"(?!(?:content-length|transfer-encoding):)%b:[\t -~\x80-\xff]*\r\n" % _TOKEN, re.IGNORECASE
)


class BadChunkError(Exception):
    """The body is not in chunks as it should be: for the client."""


class _Line(enum.Enum):
    SIZE = "the size of a chunk"
    END = "the empty line behind the bytes of a chunk"
    TRAILER = "a trailer, or the end"


class ChunkedBody:
    """Hands on the bytes of one chunked body, and forgets extensions and trailers."""

    __slots__ = ("_expected", "_extensions", "_line", "_trailers", "_trailers_bytes", "ended", "left")

    def __init__(self, trailers_bytes: int) -> None:
        """``trailers_bytes``: how long the trailers may be."""
        self.left = 0
        """Of the chunk that is arriving: the bytes that have not come."""
        self.ended = False
        self._trailers_bytes = trailers_bytes
        self._expected = _Line.SIZE
        self._line = b""  # As much of a line as has come.
        self._extensions = 0
        self._trailers = 0

    def feed(self, data: bytes, at: int, on_piece: Callable[[bytes], None]) -> int:
        """Take what is of this body in ``data``, from ``at`` on; returns where that ends. Raises `BadChunkError`, and
        what ``on_piece`` raises, which is given the bytes."""
        while at < len(data) and not self.ended:
            if self.left:
                piece = data[at : at + self.left]
                self.left -= len(piece)
                at += len(piece)
                on_piece(piece)
                continue
            end = data.find(b"\n", at) + 1
            self._line += data[at : end or None]
            at = end or len(data)
            self._check_length()
            if end:
                line, self._line = self._line, b""
                self._take(line)
        return at

    def _check_length(self) -> None:
        """Bound what is kept of a line, whether its end has come or not."""
        size = len(self._line)
        if self._expected is _Line.END:
            if not b"\r\n".startswith(self._line):
                raise BadChunkError("a chunk does not end where it says")
        elif self._expected is _Line.SIZE:
            self._bound_extensions(size - len(b"0123456789abcdef\r\n"))
        elif self._trailers + size > self._trailers_bytes + len(b"\r\n"):
            raise BadChunkError(f"the trailers are larger than {self._trailers_bytes} bytes")

    def _bound_extensions(self, more: int) -> None:
        if self._extensions + more > EXTENSIONS_BYTES:
            raise BadChunkError(f"the chunk extensions are larger than {EXTENSIONS_BYTES} bytes")

    def _take(self, line: bytes) -> None:
        if self._expected is _Line.END:
            self._expected = _Line.SIZE
        elif self._expected is _Line.SIZE:
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                raise BadChunkError("the size of a chunk, or an extension, is malformed")
            self._bound_extensions(len(match[2]))
            self._extensions += len(match[2])
            self.left = int(match[1], 16)
            self._expected = _Line.END if self.left else _Line.TRAILER
        elif line == b"\r\n":
            self.ended = True
        elif _TRAILER_LINE.fullmatch(line):
            self._trailers += len(line)
        else:
            raise BadChunkError("a trailer is malformed, or one that must not be there")

"""The requests that the conformance kit for adapters sends, what handlers see of them, and the answers."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from servekit.interfaces import Handler, Response
from servekit.testing.conformance.helpers import hypothesis

NOTHING = object()
_NEW_EACH_TIME = {"date", "x-request-id"}


@dataclass(frozen=True)
class Seen:
    """The parts of one request as a handler sees them. None: the adapter does not show that part to handlers."""

    body: bytes
    headers: Iterable[tuple[str, str]] | None = None
    path: str | None = None
    query: bytes | str | None = None


Answer = Callable[[Seen], Response]
"""Answers a request. `RequestAdapterTests.handler` makes a handler of it, of the kind that the adapter takes."""


class KitError(Exception):
    """Raised by the kit's handlers and answers. No adapter knows this class."""


def echo(seen: Seen) -> Response:
    """A 200 with the body of the request."""
    return Response(200, [], seen.body if isinstance(seen.body, bytes) else b"")


@dataclass(frozen=True, repr=False)
class Sent:
    """A request. ``piece_bytes``: the size of the pieces in which the body arrives; 0: the body arrives at once."""

    body: bytes = b""
    headers: Sequence[tuple[str, str]] = ()
    path: str = "/kit"
    query: bytes = b""
    piece_bytes: int = 0
    breaks_off: bool = False
    method: str = "POST"

    def __repr__(self) -> str:
        pieces = f" in pieces of {self.piece_bytes}" if self.piece_bytes else ""
        query = f"?{self.query.decode('latin-1')}" if self.query else ""
        return f"{self.method} {self.path}{query} with {len(self.body)} bytes{pieces} and headers {list(self.headers)}"

    @property
    def pieces(self) -> list[bytes]:
        size = self.piece_bytes
        return [self.body[start : start + size] for start in range(0, len(self.body), size)]


@dataclass(frozen=True)
class Got:
    """A whole answer. The names of ``headers`` are in lower case; headers that differ each time are left out."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    calls: list[Seen]
    """The request as the handler saw it, for each call of the handler."""

    @property
    def seen(self) -> Seen:
        return self.calls[0]

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


def same_each_time(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """``headers`` without those that differ each time."""
    return [pair for pair in headers if pair[0].lower() not in _NEW_EACH_TIME]


class HandlerScript:
    """The behaviour of a client's handler, which a test may change, and a record of the handler's calls.

    An object of this class is pickled as nothing, with the handler: in process the original runs.
    """

    def __init__(self) -> None:
        self.answer: Answer = echo
        self.before: Callable[[], object] | None = None
        self.after: Callable[[], object] | None = None
        """Called when the handler begins, and before it returns; both may block."""
        self.instead: Any = NOTHING
        """The handler's result in the place of its own one."""
        self.calls: list[Seen] = []
        self.began = threading.Event()
        """Set when a handler is held in ``before``."""
        self.ended = threading.Event()
        """Set whenever an async handler has ended."""

    def __call__(self, seen: Seen) -> Response:
        if seen.headers is not None:
            seen = Seen(seen.body, same_each_time(seen.headers), seen.path, seen.query)
        self.calls.append(seen)
        return self.answer(seen)

    def __reduce__(self) -> Any:
        return object, ()

    def around(self, handler: Handler) -> Handler:
        """``handler``, which calls this object, with ``before``, ``after`` and ``instead``."""

        @functools.wraps(handler)
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            if self.before is not None:
                self.before()
            result = handler(*arguments, **keywords)
            if self.after is not None:
                self.after()
            return result if self.instead is NOTHING else self.instead

        return wrapped

    def around_async(self, handler: Handler) -> Handler:
        """The same as an ``async def``, whether ``handler`` is one or not."""

        @functools.wraps(handler)
        async def wrapped(*arguments: Any, **keywords: Any) -> Any:
            try:
                if self.before is not None:
                    await asyncio.to_thread(self.before)
                result = handler(*arguments, **keywords)
                if inspect.isawaitable(result):
                    result = await result
                if self.after is not None:
                    await asyncio.to_thread(self.after)
            finally:
                self.ended.set()
            return result if self.instead is NOTHING else self.instead

        return wrapped


# -- bodies of streamed answers ----------------------------------------------------------------------------------------


class _AnswerPieces:
    """The pieces of a streamed answer. After the first piece, the next waits for ``held_until``, for ``patience_s`` at
    most. ``fails``: a `KitError` is raised behind the last piece.
    """

    def __init__(self, pieces: list[bytes], held_until: threading.Event | None, fails: bool, patience_s: float) -> None:
        self.pieces = pieces
        self.times_closed = 0
        self.was_closed = threading.Event()
        self.waited_in_vain = False
        self._taken = 0
        self._held_until = held_until
        self._fails = fails
        self._patience_s = patience_s

    def _take(self) -> bytes | None:
        """The next piece; None behind the last one."""
        if self._taken == 1 and self._held_until is not None and not self._held_until.wait(self._patience_s):
            self.waited_in_vain, self._held_until = True, None
        if self._taken == len(self.pieces):
            if self._fails:
                raise KitError("for the kit, in a streamed answer")
            return None
        self._taken += 1
        return self.pieces[self._taken - 1]

    def _close(self) -> None:
        self.times_closed += 1
        self.was_closed.set()


class IteratorBody(_AnswerPieces):
    """An iterator with a ``close``."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = self._take()
        if piece is None:
            raise StopIteration
        return piece

    def close(self) -> None:
        self._close()


class AsyncIteratorBody(_AnswerPieces):
    """An async iterator with an ``aclose``. Each piece takes a millisecond, so that an adapter that reads a long body
    to its end is too late.
    """

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0.001)
        piece = await asyncio.to_thread(self._take)
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        self._close()


StreamedBody: TypeAlias = "IteratorBody | AsyncIteratorBody"


# -- samples -----------------------------------------------------------------------------------------------------------

BODIES = (b"", b"text", b"\r\n--a line--\r\n", "größer 文".encode(), bytes(range(256)), bytes(range(256)) * 4096)
ODD_PARTS = (b"\0", b"\r\n", b"\n", b"\xff", b"\xef\xbb\xbf", b"%41", b"+", b'"', b"\\", b"{}", b" ")
PIECE_SIZES = (0, 1000, 70_000)
"""Sizes in bytes of the pieces in which a body arrives; 0: the body arrives at once."""
PATHS = ("", "/a b", "/100%", "/%41", "/größer/文", "/a//b", "/a;b=c", "/a+b")
QUERIES = (b"", b"a=1&a=2&b=", b"q=a%20b+c%26", b"%C3%BC=%FF", b"flag", b"a=b=c;d")
STATUSES = (200, 201, 202, 301, 400, 404, 409, 418, 422, 500, 503, 599)
HEADERS = [("X-Kit-A", "1"), ("x-kit-b", "grün"), ("X-Kit-A", "3"), ("X-Kit-C", ""), ("X-Kit-A", "2")]
ANSWERED = [("X-Kit-B", "größer"), ("X-Kit-A", "2"), ("Set-Cookie", "a=1"), ("X-Kit-A", "1"), ("Set-Cookie", "b=2, c")]
CODED = [("Content-Type", "text/x-kit; charset=latin-1"), ("Content-Encoding", "x-kit"), ("Content-Language", "de")]


def any_body() -> Any:
    """A hypothesis strategy: bodies with parts that an adapter might strip, replace or interpret."""
    st = hypothesis().strategies
    return st.lists(st.one_of(st.sampled_from(ODD_PARTS), st.binary(max_size=50)), max_size=30).map(b"".join)


def any_headers() -> Any:
    """A hypothesis strategy: headers of few names, so that names repeat, with all characters but commas."""
    st = hypothesis().strategies
    character = st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters=",\x7f")
    value = st.text(character, max_size=15).map(lambda text: text.strip(" "))
    return st.lists(st.tuples(st.sampled_from(["X-Kit-A", "X-Kit-B", "x-kit-c"]), value), max_size=6)

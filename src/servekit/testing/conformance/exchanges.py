"""What goes to an adapter and its handler, and what comes back."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from servekit.interfaces import Handler, Response

PATIENCE_S = 10.0
"""How long a case waits for what must happen, before it says that it did not."""
NOTHING = object()
_NEW_EACH_TIME = {"date", "x-request-id"}


@dataclass(frozen=True)
class Seen:
    """What a handler saw of one request. None: the adapter does not show it to handlers."""

    body: bytes
    headers: Iterable[tuple[str, str]] | None = None
    path: str | None = None
    query: bytes | str | None = None


Answer = Callable[[Seen], Response]
"""What a handler of the kit does: `RequestAdapterTests.handler` makes a handler of the adapter's kind of it."""


class Fault(Exception):
    """What no adapter can know."""


def echo(seen: Seen) -> Response:
    """A 200 with the body that came."""
    return Response(200, [], seen.body if isinstance(seen.body, bytes) else b"")


@dataclass(frozen=True, repr=False)
class Sent:
    """A request, before it is put into the form that a way takes."""

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

    def having(self, body: bytes) -> Sent:
        return Sent(body, self.headers, self.path, self.query, self.piece_bytes, self.breaks_off, self.method)

    @property
    def pieces(self) -> list[bytes]:
        size = self.piece_bytes
        return [self.body[start : start + size] for start in range(0, len(self.body), size)]


@dataclass(frozen=True)
class Got:
    """An answer, whole; its headers without those that are new each time, by lower-case name."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    calls: list[Seen]
    """What the handler saw, each time that it was called."""

    @property
    def seen(self) -> Seen:
        return self.calls[0]

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


class Act:
    """What the handler of a way does now. Pickled, it is nothing: in process the original runs."""

    def __init__(self) -> None:
        self.answer: Answer = echo
        self.before: Callable[[], object] | None = None
        self.after: Callable[[], object] | None = None
        """Called when the handler begins, and before it returns; they may block."""
        self.instead: Any = NOTHING
        self.calls: list[Seen] = []
        self.began = threading.Event()
        """Set when a handler is held."""
        self.ended = threading.Event()
        """Set whenever a handler that is async has ended."""

    def __call__(self, seen: Seen) -> Response:
        if seen.headers is not None:
            seen = Seen(seen.body, lasting(seen.headers), seen.path, seen.query)
        self.calls.append(seen)
        return self.answer(seen)

    def __reduce__(self) -> Any:
        return object, ()


def watched(act: Act, handler: Handler) -> Handler:
    """``handler``, which calls ``act``, with what else is to happen around it."""

    @functools.wraps(handler)
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        if act.before is not None:
            act.before()
        result = handler(*arguments, **keywords)
        if act.after is not None:
            act.after()
        return result if act.instead is NOTHING else act.instead

    return wrapped


def watched_async(act: Act, handler: Handler) -> Handler:
    """The same as an ``async def``, whatever the handler is."""

    @functools.wraps(handler)
    async def wrapped(*arguments: Any, **keywords: Any) -> Any:
        try:
            if act.before is not None:
                await asyncio.to_thread(act.before)
            result = handler(*arguments, **keywords)
            if inspect.isawaitable(result):
                result = await result
            if act.after is not None:
                await asyncio.to_thread(act.after)
        finally:
            act.ended.set()
        return result if act.instead is NOTHING else act.instead

    return wrapped


def named(error: BaseException) -> str:
    """Its class, and what it says."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def lasting(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that are not new each time."""
    return [pair for pair in headers if pair[0].lower() not in _NEW_EACH_TIME]

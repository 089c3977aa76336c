"""What goes to an adapter and its handler, and what comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from servekit.interfaces import Response

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


class Source:
    """The iterator of a streamed answer. After its first piece it waits for ``waits_for``; ``fails``: at its end."""

    def __init__(self, pieces: list[bytes], *, waits_for: threading.Event | None = None, fails: bool = False) -> None:
        self.pieces = pieces
        self.taken = 0
        self.times_closed = 0
        self.was_closed = threading.Event()
        self.waited_in_vain = False
        self._waits_for = waits_for
        self._fails = fails

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self.taken == 1 and self._waits_for is not None and not self._waits_for.wait(PATIENCE_S):
            self.waited_in_vain, self._waits_for = True, None
        if self.taken == len(self.pieces):
            if self._fails:
                raise Fault("for the kit, in a streamed answer")
            raise StopIteration
        self.taken += 1
        return self.pieces[self.taken - 1]

    def close(self) -> None:
        self.times_closed += 1
        self.was_closed.set()


class Act:
    """What the handler of a way does now. Pickled, it is nothing: in process the original runs."""

    def __init__(self) -> None:
        self.answer: Answer = echo
        self.before: Callable[[], object] = lambda: None
        self.instead: Any = NOTHING
        self.calls: list[Seen] = []

    def __call__(self, seen: Seen) -> Response:
        if seen.headers is not None:
            seen = Seen(seen.body, lasting(seen.headers), seen.path, seen.query)
        self.calls.append(seen)
        return self.answer(seen)

    def __reduce__(self) -> Any:
        return object, ()


def named(error: BaseException) -> str:
    """Its class, and what it says."""
    return f"{type(error).__name__}: {error}"


def lasting(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that are not new each time."""
    return [pair for pair in headers if pair[0].lower() not in _NEW_EACH_TIME]

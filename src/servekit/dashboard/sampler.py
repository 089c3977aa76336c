"""What the tabs are told: one sampler for all, which looks once a second while there is a tab, and sends changes."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Protocol

import msgspec

from servekit.dashboard.differences import changes
from servekit.dashboard.looks import LOOKS
from servekit.dashboard.sessions import Session, Sessions
from servekit.errors import UnavailableError
from servekit.http1.request import HttpRequest
from servekit.tasks import TaskSet

_log = logging.getLogger("servekit.control")

PERIOD_S = 1.0
MOST_STREAMS = 32
"""Tabs at a time, of all browsers."""
SLOW_LOOKS = 5
"""A tab that has not read for so many looks is cut; what it had not read by then is bounded by the connection."""


class AdminApi(Protocol):
    """The admin API, as a program in the same process calls it."""

    async def call(
        self, name: str, body: bytes, *, json: bool = False, who: str = "", reads_only: bool = False
    ) -> bytes:
        """An operation's result, which is for someone who ``reads_only``. Raises a `ServekitError`."""


class Stream:
    """One tab's stream of server-sent events."""

    def __init__(self, request: HttpRequest, session: Session) -> None:
        self.session = session
        self._request = request
        self._behind = 0
        """How many looks ago it was told something last."""
        self.knows = False
        """Whether it was told the whole, and all changes since."""

    @property
    def is_over(self) -> bool:
        return self._request.done

    def send(self, whole: bytes, changed: bytes) -> None:
        """Tell it what has changed, or the whole if it does not know that. One that does not read is told nothing, and
        the whole when it reads again."""
        if not self._request.write(b""):
            self._behind += 1
            self.knows = False
            if self._behind > SLOW_LOOKS:
                self.end()
            return
        self._request.write(changed if self.knows else whole)
        self.knows, self._behind = True, 0

    def end(self) -> None:
        self._request.end(complete=False)


class Sampler:
    """Asks for what there is, and tells all streams what has changed: the same to all, so what all may see."""

    def __init__(self, operations: AdminApi, sessions: Sessions) -> None:
        self._operations = operations
        self._sessions = sessions
        self._streams: list[Stream] = []
        self._tasks = TaskSet()
        self._runs = False
        self._results: dict[str, bytes] = {}
        """Of each operation, as it was encoded."""
        self._state: dict[str, Any] = {}
        self._whole = b""
        """Of that state, encoded; empty: not yet."""
        self._failing: dict[str, str] = {}
        """The operations that failed when they were asked last, with their errors."""

    def add(self, request: HttpRequest, session: Session) -> None:
        """Begin a stream. Raises `UnavailableError`."""
        self._streams = [stream for stream in self._streams if not stream.is_over]
        if len(self._streams) >= MOST_STREAMS:
            raise UnavailableError(f"{MOST_STREAMS} pages are open already, in this browser or others; close one")
        request.begin(200, b"content-type: text/event-stream\r\ncache-control: no-store\r\n", None)
        self._streams.append(Stream(request, session))
        if not self._runs:
            self._runs = True
            self._tasks.spawn(self._run())

    async def close(self) -> None:
        """End all streams."""
        for stream in self._streams:
            stream.end()
        await self._tasks.close()

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            self._streams = [stream for stream in self._streams if not self._is_over(stream)]
            if not self._streams:
                self._runs = False
                return
            changed = await self._look()
            for stream in self._streams:
                if not stream.knows and not self._whole:
                    self._whole = _event("whole", self._state)
                stream.send(self._whole, changed)
            await asyncio.sleep(max(0.0, began + PERIOD_S - time.monotonic()))

    def _is_over(self, stream: Stream) -> bool:
        if not stream.is_over and self._sessions.has_ended(stream.session):
            stream.end()
        return stream.is_over

    async def _look(self) -> bytes:
        """Bring the state up to date; the event of what has changed of it."""
        state: dict[str, Any] = {"at": round(time.time(), 3)}
        for name, look in LOOKS.items():
            before = self._state.get(name)
            result = await self._result(name, msgspec.json.encode(look.arguments(before)))
            if result == self._results.get(name):
                state[name] = before
            elif result:
                state[name], self._results[name] = look.told(before, msgspec.json.decode(result)), result
        state["failing"] = self._failing
        told = changes(self._state, state)
        self._state, self._whole = state, b""
        return _event("changes", told)

    async def _result(self, name: str, arguments: bytes) -> bytes:
        """What the operation says; where it fails, what it said last, and the state says that it fails."""
        try:
            result = await self._operations.call(name, arguments, json=True, reads_only=True)
        except Exception as error:
            if name not in self._failing:
                _log.warning("what the dashboard shows is old: the operation %s failed", name, exc_info=error)
            self._failing = {**self._failing, name: f"{type(error).__name__}: {error}"}
            return self._results.get(name, b"")
        if name in self._failing:
            self._failing = {key: text for key, text in self._failing.items() if key != name}
        return result


def _event(kind: str, data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(data))

"""Runs a sync handler, one call at a time, on the replica's data loop.

The handler runs in the main thread with no thread hop, which is the fastest way there is; between calls the loop gets
its turn, so that cancels are read and answers leave.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections import deque
from collections.abc import Callable

from servekit.interfaces import Request, RequestAdapter
from servekit.replica.render import render, text
from servekit.replica.target import Handlers
from servekit.wire.frames import Answer, Call, Refusal
from servekit.wire.link import Link

_log = logging.getLogger("servekit.replica")
_clock = time.perf_counter

TURN_S = 100e-6
"""An answer waits no longer than this for its neighbours to leave by the same write."""


class InlineExecutor:
    """Calls wait here in the order in which they came. Everything happens on one event loop."""

    def __init__(
        self, backend: str, handlers: Handlers, adapter: RequestAdapter, *, debug: bool, idle: Callable[[], None]
    ) -> None:
        self._backend = backend
        self._handlers = handlers
        self._adapter = adapter
        self._debug = debug
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[Link, Call, float]] = deque()
        self._turn_planned = False
        self.running_since = 0.0
        """When the call that runs now began (perf_counter); 0.0 between calls. Read from other threads."""

    @property
    def outstanding(self) -> int:
        return len(self._waiting) + (self.running_since > 0)

    def submit(self, link: Link, call: Call) -> None:
        """Take a call; `run` answers it."""
        self._waiting.append((link, call, _clock() + call.timeout_ms / 1000))

    def cancel(self, link: Link, call_id: int) -> None:
        """Nobody waits for this call: do not begin it."""
        for entry in self._waiting:
            if entry[0] is link and entry[1].id == call_id:
                self._waiting.remove(entry)
                link.send(Refusal(call_id, "cancelled"))
                return

    def forget(self, link: Link) -> None:
        """The link is gone, and with it whoever waits for its calls."""
        self._waiting = deque(entry for entry in self._waiting if entry[0] is not link)

    def refuse_waiting(self) -> None:
        """The replica leaves: what has not begun goes elsewhere."""
        while self._waiting:
            link, call, _ = self._waiting.popleft()
            link.send(Refusal(call.id, "draining"))

    def run(self) -> None:
        """Answer what waits, until the turn is over; then let the loop read, and go on."""
        if self._turn_planned:
            return
        turn_ends = _clock() + TURN_S
        touched: Link | None = None
        while self._waiting:
            link, call, expires = self._waiting.popleft()
            if touched is not link and touched is not None:
                touched.flush()
            touched = link
            now = _clock()
            if now >= expires:
                link.send(Refusal(call.id, "expired"))
            else:
                self.running_since = now
                status, head, body, failed = self._answer(call.request)
                self.running_since = 0.0
                ended = _clock()
                service_us = int((ended - now) * 1e6)
                link.send(Answer(call.id, status, head, body, len(self._waiting), service_us, failed))
                now = ended
            if now > turn_ends and self._waiting:
                self._turn_planned = True
                self._loop.call_soon(self._next_turn)
                break
        if touched is not None:
            touched.flush()
        if not self._waiting:
            self._idle()

    def _next_turn(self) -> None:
        self._turn_planned = False
        self.run()

    def _answer(self, request: Request) -> tuple[int, bytes, bytes, bool]:
        name = request.call_method
        handler = self._handlers.call if name is None else self._handlers.method(name)
        if handler is None:
            return (400, *text(f"Bad Request: the target of backend {self._backend!r} has no method {name!r}."), True)
        try:
            status, head, body = render(self._adapter.call(handler, request))
            return status, head, body, False
        except BaseException as error:
            # SystemExit too, or a stray CancelledError: the handler is at fault, and its replica must live.
            return self._failure(request, error)

    def _failure(self, request: Request, error: BaseException) -> tuple[int, bytes, bytes, bool]:
        trace = "".join(traceback.format_exception(error))
        _log.error(
            "backend %r: %s %s of endpoint %r failed (request id %s)\n%s",
            self._backend,
            request.method,
            request.path,
            request.endpoint,
            request.id,
            trace.rstrip(),
        )
        message = (
            f"Internal Server Error: backend {self._backend!r} failed on this request. "
            f"The traceback is in the replica's log, beside the request id {request.id}."
        )
        return (500, *text(f"{message}\n\n{trace}" if self._debug else message), True)

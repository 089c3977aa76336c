"""What the connections of one listener share: the app, the limits, the clock."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Protocol

from servekit.config import HttpLimits
from servekit.forks import forks
from servekit.http1.connection import HttpConnection
from servekit.http1.request import HttpRequest
from servekit.http1.responses import LastLines, render_last_lines
from servekit.http1.timeouts import shortest_timeout_s

_SWEEP_S = 0.5
DRAIN_GRACE_S = 0.1
"""While a server drains, a client that asks again within this time of the beginning is answered, and told by that that
the connection ends. Closed at once, it would lose a request that is on its way, which HTTP/1.1 has no word for."""
_REFUSALS = 256
"""Connections beyond the limit that are told so; those beyond these are aborted."""


class HttpApp(Protocol):
    """What answers the requests of an `HttpServer`. Every method is called on the loop, and must not raise."""

    def new_request(self) -> HttpRequest:
        """A new request, or object of a subclass, for the connection to fill in. Assigning the class will do."""

    def handle(self, request: HttpRequest) -> None:
        """A request has arrived, but for what its `IncomingBody` still brings. Answer it by `HttpRequest.respond`, or
        by `HttpRequest.begin` and what follows, now or later."""

    def writable(self, request: HttpRequest) -> None:
        """The client of a request whose answer has begun reads again, after `HttpRequest.write` returned False."""

    def abandoned(self, request: HttpRequest) -> None:
        """The client of a request that was handed over went away before it was answered."""


class HttpServer:
    """Shared by all connections of one listener in one process.

    It does not listen: give `protocol_factory` to ``loop.create_server`` or ``create_unix_server``.
    """

    def __init__(
        self,
        app: HttpApp,
        limits: HttpLimits,
        loop: asyncio.AbstractEventLoop,
        *,
        server_header: str | None = None,
    ) -> None:
        """``server_header``: the value of a Server header in every answer; default: none."""
        self.app = app
        self.limits = limits
        self.loop = loop
        self.connections: set[HttpConnection] = set()
        """Those admitted; the ones refused over the limit are not among them."""
        self.draining = False
        self.last_lines: LastLines = render_last_lines(server_header)
        self._server_header = server_header
        self._refused: set[HttpConnection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event | None = None
        self._sweep_s = min(_SWEEP_S, max(shortest_timeout_s(limits) / 4, 0.02))

    def protocol_factory(self) -> HttpConnection:
        return HttpConnection(self)

    def start(self) -> None:
        """Begin to watch deadlines, and to renew the Date header."""
        if self._timer is None:
            self._sweep()
            forks.hold_those_of(self)

    async def drain(self, timeout_s: float) -> int:
        """Answer what is in flight, and close every connection.

        Idle ones are closed after `DRAIN_GRACE_S`. Returns when all are closed; after ``timeout_s`` seconds it aborts
        the others, and returns how many.
        """
        self.draining = True
        if not self.connections:
            return 0
        self._empty = asyncio.Event()
        ends = self.loop.time() + timeout_s
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._empty.wait(), min(DRAIN_GRACE_S, timeout_s))
        for connection in list(self.connections):
            connection.close_if_idle(spare_fresh=True)
        try:
            await asyncio.wait_for(self._empty.wait(), ends - self.loop.time())
        except asyncio.TimeoutError:
            left = list(self.connections)
            for connection in left:
                connection.abort()
            return len(left)
        return 0

    def close(self) -> None:
        """Abort what is left, and stop the timer."""
        self.draining = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in [*self.connections, *self._refused]:
            connection.abort()

    def sockets(self) -> list[Any]:
        """Those of all connections."""
        return [connection.socket for connection in [*self.connections, *self._refused]]

    # -- called by connections ------------------------------------------------------------------------------

    def admit(self, connection: HttpConnection) -> bool:
        """Whether there is room for one more; if not, it is to say so and close."""
        if len(self.connections) < self.limits.connections:
            self.connections.add(connection)
            return True
        self._refused.add(connection)
        if len(self._refused) > _REFUSALS:
            connection.abort()
        return False

    def forget(self, connection: HttpConnection) -> None:
        self._refused.discard(connection)
        self.connections.discard(connection)
        if self._empty is not None and not self.connections:
            self._empty.set()

    def _sweep(self) -> None:
        self._timer = self.loop.call_later(self._sweep_s, self._sweep)
        self.last_lines = render_last_lines(self._server_header)
        now = self.loop.time()
        for connection in [*self.connections, *self._refused]:
            connection.sweep(now)

"""A server: the app, the limits and the clock that the connections of one listener share."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from servekit.config import HttpLimits
from servekit.forks import forks
from servekit.http1.connection import HttpConnection
from servekit.http1.request import HttpApp
from servekit.http1.responses import LastLines, render_last_lines
from servekit.http1.timeouts import shortest_timeout_s
from servekit.tasks import came_within

_SWEEP_S = 0.5
DRAIN_GRACE_S = 0.1
"""How long a draining server goes on answering clients that ask again; each answer says that the connection ends. A
connection that is closed at once loses a request that is on its way, and HTTP/1.1 has no word for that."""
_REFUSALS = 256
"""So many connections beyond the limit are told so; those beyond these are aborted."""
_OTHER_DESCRIPTORS = 128
"""Left for links, listeners, logs and what else a process has open."""


def most_connections(asked: int, descriptors: int) -> tuple[int, int]:
    """How many connections are served, and how many more are told that there are too many, where a process may have so
    many descriptors (`resource.RLIM_INFINITY`: no limit).

    At that limit a connection could be accepted by nobody, and would be closed without a word. Beside its socket each
    may have a file, for a body or an answer that is spooled.
    """
    if descriptors == resource.RLIM_INFINITY:
        return asked, _REFUSALS
    free = max(2, descriptors - _OTHER_DESCRIPTORS)
    return min(asked, free // 2), min(_REFUSALS, free // 8)


class HttpServer:
    """Shared by all connections of one listener in one process.

    It does not listen: give it to an `Acceptor`, or its `protocol_factory` to ``loop.create_unix_server``.
    """

    def __init__(self, app: HttpApp, limits: HttpLimits, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self.limits = limits
        self.loop = loop
        self.connections: set[HttpConnection] = set()
        """Those admitted; the ones refused over the limit are not among them."""
        self.draining = False
        self.last_lines: LastLines = render_last_lines()
        self._refused: set[HttpConnection] = set()
        self.most, self._most_refused = most_connections(
            limits.connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        )
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
        """Answer the requests in flight, and close every connection.

        Idle ones are closed after `DRAIN_GRACE_S`. Returns when all are closed; after ``timeout_s`` seconds it aborts
        the others, and returns how many.
        """
        self.draining = True
        if not self.connections:
            return 0
        self._empty = asyncio.Event()
        ends = self.loop.time() + timeout_s
        await came_within(self._empty, min(DRAIN_GRACE_S, timeout_s))
        for connection in list(self.connections):
            connection.close_if_idle()
        await came_within(self._empty, ends - self.loop.time())
        left = list(self.connections)
        for connection in left:
            connection.abort()
        return len(left)

    def close(self) -> None:
        """Abort the connections that are left, and stop the timer."""
        self.draining = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in [*self.connections, *self._refused]:
            connection.abort()

    def sockets(self) -> list[Any]:
        """The sockets of all connections."""
        return [connection.socket for connection in [*self.connections, *self._refused]]

    # -- called by connections ------------------------------------------------------------------------------

    def admit(self, connection: HttpConnection) -> bool:
        """Whether there is room for one more connection; if not, the connection is to say so and close."""
        if len(self.connections) < self.most:
            self.connections.add(connection)
            return True
        self._refused.add(connection)
        if len(self._refused) > self._most_refused:
            connection.abort()
        return False

    def forget(self, connection: HttpConnection) -> None:
        self._refused.discard(connection)
        self.connections.discard(connection)
        if self._empty is not None and not self.connections:
            self._empty.set()

    def _sweep(self) -> None:
        self._timer = self.loop.call_later(self._sweep_s, self._sweep)
        self.last_lines = render_last_lines()
        now = self.loop.time()
        for connection in [*self.connections, *self._refused]:
            connection.sweep(now)

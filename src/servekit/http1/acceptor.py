"""Takes the connections of a listening socket, and waits where there is no descriptor for one."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket

from servekit.forks import forks
from servekit.http1.server import HttpServer
from servekit.tasks import TaskSet

_log = logging.getLogger("servekit.ingress")

PAUSE_S = 0.2
TELL_EVERY_S = 60.0
"""Between two lines in the log, at the least."""
_AT_ONCE = 64
"""So many connections are taken in one turn of the loop."""
_OF_ONE_CLIENT = (
    errno.ECONNABORTED,
    errno.EINTR,
    errno.ENETDOWN,
    errno.EPROTO,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.ENONET,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
)
"""That connection is gone, and the next may be there: accept(2) on Linux passes on the network's own errors."""


class Acceptor:
    """The event loop's own (libuv's) accepts connections for which there is no descriptor, and closes them without a
    word. Here they wait in the kernel, or other workers take them."""

    def __init__(self, listening: socket.socket, server: HttpServer) -> None:
        """On the running loop. ``listening`` does not block, and is closed by `close`."""
        self.listening = listening
        self._server = server
        self._loop = server.loop
        self._connecting = TaskSet()
        self._resuming: asyncio.TimerHandle | None = None
        self._told_at = float("-inf")
        self._held = forks.hold(listening)
        self._resume()

    async def stop(self, *, take_rest: bool) -> None:
        """Take no more connections, but for those that the kernel has accepted, where ``take_rest``."""
        if self._held:
            self._pause()
        for _ in range(socket.SOMAXCONN // _AT_ONCE if take_rest else 0):  # There are no more, unless others come.
            if not self._accept():
                break
            await asyncio.sleep(0)
        self.close()
        await self._connecting.wait(PAUSE_S)

    def close(self) -> None:
        if self._held:
            self._pause()
            forks.let_go(self._held)
            self._held = ()
            self.listening.close()

    def _resume(self) -> None:
        self._resuming = None
        self._loop.add_reader(self.listening, self._accept)

    def _pause(self) -> None:
        self._loop.remove_reader(self.listening)
        if self._resuming is not None:
            self._resuming.cancel()

    def _accept(self) -> bool:
        """Whether there may be more."""
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self.listening.accept()
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in _OF_ONE_CLIENT:
                    continue
                self._wait(error)
                return False
            connection.setblocking(False)
            self._connecting.spawn(self._connect(connection))
        return True

    async def _connect(self, connection: socket.socket) -> None:
        await self._loop.connect_accepted_socket(self._server.protocol_factory, connection)

    def _wait(self, error: OSError) -> None:
        self._pause()
        self._resuming = self._loop.call_later(PAUSE_S, self._resume)
        if self._loop.time() - self._told_at > TELL_EVERY_S:
            self._told_at = self._loop.time()
            open_now = len(self._server.connections)
            _log.warning("no connection can be taken (%s), with %d open; others wait", error.strerror, open_now)

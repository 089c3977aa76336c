"""Where links come from: an address is ``unix:PATH``, ``tcp:HOST:PORT`` or, inside one process, ``memory:NAME``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from servekit.backoff import Backoff
from servekit.config import HELLO_TIMEOUT_S
from servekit.errors import DeadlineError, InvalidInputError, LinkError
from servekit.forks import forks
from servekit.wire.link import Link

FIRST_REDIAL_S = 0.02
"""Before the second try at an address that does not answer; then twice as long each time."""
LONGEST_REDIAL_S = 1.0
UNIX_PATH_BYTES = 107
"""What `sockaddr_un` holds on Linux, beside the NUL at its end."""


class Listener(Protocol):
    """A listening address."""

    address: str

    def close(self) -> None:
        """Take no more connections; those there stay."""


class Network(Protocol):
    """Listens and dials. `SocketNetwork` is the real one, `MemoryNetwork` that of the tests."""

    async def listen(self, address: str, protocol: Callable[[], asyncio.Protocol]) -> Listener: ...

    async def connect(self, address: str, protocol: Callable[[], asyncio.Protocol]) -> None: ...


async def dial(network: Network, addresses: Sequence[str], new_link: Callable[[], Link]) -> Link:
    """An open link to the first of ``addresses`` that answers. Raises what the last one raised."""
    error: Exception = LinkError("there is no address to dial")
    for address in addresses:
        link: Link | None = None

        def protocol() -> Link:
            nonlocal link
            link = new_link()
            return link

        # Not `wait_for`: before Python 3.12 it loses a cancellation that meets the end of what it waits for.
        connecting = asyncio.ensure_future(network.connect(address, protocol))
        connecting.add_done_callback(_seen)
        try:
            await asyncio.wait([connecting], timeout=HELLO_TIMEOUT_S)
            if not connecting.done():
                error = DeadlineError(f"{address} did not answer within {HELLO_TIMEOUT_S:g} s")
                continue
            connecting.result()
            assert link is not None
            await link.wait_open()
            return link
        except OSError as problem:
            error = problem
        finally:
            connecting.cancel()
    raise error


def _seen(connecting: asyncio.Future[None]) -> None:
    """Who is cancelled does not look at what came of it."""
    if not connecting.cancelled():
        connecting.exception()


async def keep_dialled(
    network: Network,
    addresses: Callable[[], Sequence[str]],
    new_link: Callable[[], Link],
    *,
    wanted: Callable[[], bool],
    tried: Callable[[OSError | None], None],
) -> None:
    """Keep a link to one of ``addresses()``: dial, and dial again, later and later, while it is ``wanted()``.

    ``tried`` is told of each try: what it raised, or None when the link is open.
    """
    pauses = Backoff(FIRST_REDIAL_S, LONGEST_REDIAL_S)
    while wanted():
        try:
            link = await dial(network, addresses(), new_link)
        except OSError as error:
            tried(error)
            await asyncio.sleep(pauses.next())
        else:
            tried(None)
            pauses.reset()
            await link.wait_lost()


class _SocketListener:
    def __init__(self, server: asyncio.Server, address: str) -> None:
        self.address = address
        self._server = server
        self._descriptors = forks.hold(*server.sockets)
        self._pid = os.getpid()

    def close(self) -> None:
        forks.let_go(self._descriptors)
        self._server.close()
        if os.getpid() != self._pid:
            return  # The path is that of the process which this one was forked from.
        kind, _, rest = self.address.partition(":")
        if kind == "unix" and os.path.exists(rest):
            os.unlink(rest)


class SocketNetwork:
    """Unix and TCP sockets. Unix sockets are made with mode 0600."""

    async def listen(self, address: str, protocol: Callable[[], asyncio.Protocol]) -> Listener:
        """Port 0 takes a free one: see the result's ``address``."""
        loop = asyncio.get_running_loop()
        kind, _, rest = address.partition(":")
        if kind == "unix":
            return _SocketListener(await loop.create_unix_server(protocol, sock=bind_unix(rest)), address)
        if kind == "tcp":
            host, _, port = rest.rpartition(":")
            server = await loop.create_server(protocol, host.strip("[]"), int(port))
            bound = server.sockets[0].getsockname()[1]
            return _SocketListener(server, f"tcp:{host}:{bound}")
        raise InvalidInputError(f"{address!r} is no address: unix:PATH or tcp:HOST:PORT")

    async def connect(self, address: str, protocol: Callable[[], asyncio.Protocol]) -> None:
        loop = asyncio.get_running_loop()
        kind, _, rest = address.partition(":")
        if kind == "unix":
            await loop.create_unix_connection(protocol, rest)
        elif kind == "tcp":
            host, _, port = rest.rpartition(":")
            await loop.create_connection(protocol, host.strip("[]"), int(port))
        else:
            raise LinkError(f"{address!r} cannot be dialled from this process")


def bind_unix(path: str) -> socket.socket:
    """A bound Unix socket of mode 0600; raises `InvalidInputError` where the path is too long for one."""
    if len(os.fsencode(path)) > UNIX_PATH_BYTES:
        raise InvalidInputError(
            f"the socket path {path!r} is longer than {UNIX_PATH_BYTES} bytes; "
            "use a shorter instance name, or a shorter TMPDIR"
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # Left by a controller that crashed: the directory is this instance's alone.
        sock.bind(path)
        os.chmod(path, 0o600)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock

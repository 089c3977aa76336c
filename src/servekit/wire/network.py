"""Listening and dialling, on Unix and TCP sockets: an address is ``unix:PATH`` or ``tcp:HOST:PORT``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from servekit.backoff import Backoff
from servekit.config import HELLO_TIMEOUT_S
from servekit.errors import DeadlineError, InvalidInputError, LinkError
from servekit.forks import forks
from servekit.wire.link import Link

FIRST_REDIAL_S = 0.02
"""Before the second try at an address that does not answer; then twice as long each time."""
LONGEST_REDIAL_S = 1.0
UNIX_PATH_BYTES = 107
"""The most that `sockaddr_un` holds on Linux, beside the NUL at its end."""
SILENT_S = 4
"""A machine that has acknowledged nothing for as long is lost. It is asked every second."""
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, SILENT_S))


class Listener:
    """A listening address."""

    def __init__(self, server: asyncio.Server, address: str) -> None:
        self.address = address
        self._server = server
        self._descriptors = forks.hold(*server.sockets)
        self._pid = os.getpid()
        kind, _, rest = address.partition(":")
        self._path = rest if kind == "unix" else ""
        self._file = _file_at(self._path)

    def close(self) -> None:
        """Take no more connections; those there stay."""
        forks.let_go(self._descriptors)
        self._server.close()
        # The path may be that of the process which this one was forked from, or of another that has bound it since.
        if os.getpid() == self._pid and self._file is not None and _file_at(self._path) == self._file:
            os.unlink(self._path)


def _file_at(path: str) -> tuple[int, int] | None:
    """What tells the file at ``path`` from any other; None where there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def keep_alive(sock: Any, *, peer_reads: bool) -> None:
    """Have the kernel end a TCP connection whose other machine is silent: its kernel acknowledges nothing.

    While nothing is on its way, the kernel asks every second, and nobody need read that. ``peer_reads``: the other end
    always reads what it is sent, or is sent nothing to speak of; then what is sent and not acknowledged ends the
    connection as well. Of a peer that is slow to read that must not be said: a live one would be reset
    (TCP_USER_TIMEOUT, tcp(7)). A socket that listens hands this on to those that it takes.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    if peer_reads:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_S * 1000)


async def listen(address: str, protocol: Callable[[], asyncio.Protocol], *, peer_reads: bool = False) -> Listener:
    """Take connections on ``address``. A Unix socket gets mode 0600; for port 0 the result names a free port.

    ``peer_reads``: see `keep_alive`.
    """
    loop = asyncio.get_running_loop()
    kind, _, rest = address.partition(":")
    if kind == "unix":
        return Listener(await loop.create_unix_server(protocol, sock=bind_unix(rest)), address)
    if kind == "tcp":
        host, _, port = rest.rpartition(":")
        server = await loop.create_server(protocol, host.strip("[]"), int(port))
        for sock in server.sockets:
            keep_alive(sock, peer_reads=peer_reads)
        bound = server.sockets[0].getsockname()[1]
        return Listener(server, f"tcp:{host}:{bound}")
    raise InvalidInputError(f"{address!r} is no address: unix:PATH or tcp:HOST:PORT")


async def connect(address: str, protocol: Callable[[], asyncio.Protocol], *, peer_reads: bool = False) -> None:
    """Dial ``address``, once. Raises an `OSError` where nobody takes the connection."""
    loop = asyncio.get_running_loop()
    kind, _, rest = address.partition(":")
    if kind == "unix":
        await loop.create_unix_connection(protocol, rest)
    elif kind == "tcp":
        host, _, port = rest.rpartition(":")
        transport, _ = await loop.create_connection(protocol, host.strip("[]"), int(port))
        if not transport.is_closing():  # The peer may have reset it already.
            keep_alive(transport.get_extra_info("socket"), peer_reads=peer_reads)
    else:
        raise LinkError(f"{address!r} cannot be dialled from this process")


async def dial(addresses: Sequence[str], new_link: Callable[[], Link], *, peer_reads: bool = False) -> Link:
    """Return an open link to the first of ``addresses`` that answers. Raises what the last one raised.

    ``peer_reads``: see `keep_alive`.
    """
    error: Exception = LinkError("there is no address to dial")
    for address in addresses:
        link: Link | None = None

        def protocol() -> Link:
            nonlocal link
            link = new_link()
            return link

        # Not `wait_for`: before Python 3.12 it loses a cancellation that meets the end of what it waits for.
        connecting = asyncio.ensure_future(connect(address, protocol, peer_reads=peer_reads))
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
    """Look at what came of a dial: the task that waited for it may have been cancelled."""
    if not connecting.cancelled():
        connecting.exception()


async def keep_dialled(
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
            link = await dial(addresses(), new_link)
        except OSError as error:
            tried(error)
            await asyncio.sleep(pauses.next())
        else:
            tried(None)
            pauses.reset()
            await link.wait_lost()


def bind_unix(path: str) -> socket.socket:
    """Return a bound Unix socket of mode 0600; raises `InvalidInputError` where the path is too long for one."""
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

"""Connections without sockets: the transports of the in-process instance.

The two ends may be on different event loops, in different threads, as a client and a server are in different
processes; the protocols above cannot tell the difference.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from servekit.errors import LinkError
from servekit.wire.network import Listener


class _End(enum.Enum):
    """What may come after the last bytes."""

    EOF = enum.auto()
    CLOSED = enum.auto()


class MemoryTransport(asyncio.Transport):
    """One end of a connection in memory. Every method is called on its own event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        super().__init__({"peername": name, "sockname": name})
        self._loop = loop
        self._peer: MemoryTransport
        self._protocol: asyncio.Protocol
        self._closing = False
        self._reading = True
        self._inbox: deque[bytes | _End] = deque()
        """What the peer has sent and this end has not read, in order: the peer's thread appends, this one pops."""
        self._high = 64 * 1024
        self._in_flight = 0
        self._paused = False

    # -- asyncio.Transport ---------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if self._closing or not data:
            return
        piece = bytes(data)
        self._in_flight += len(piece)
        self._peer._deliver(piece)
        if self._in_flight > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()
            self._soon(self._read)  # The peer may have gone.

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._peer._deliver(_End.EOF)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high

    def get_write_buffer_size(self) -> int:
        return self._in_flight

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._soon(self._read)

    def is_reading(self) -> bool:
        return self._reading

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._peer._deliver(_End.CLOSED)
            self._soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    # -- between the two ends ---------------------------------------------------------------------------------

    def _deliver(self, item: bytes | _End) -> None:
        """Called by the peer, in its thread."""
        self._inbox.append(item)
        self._soon(self._read)

    def _read(self) -> None:
        """Hand over what has come: as from a socket, all of it at once, with the end behind it."""
        pieces = []
        while self._inbox and self._reading and not self._closing:
            item = self._inbox.popleft()
            if isinstance(item, bytes):
                pieces.append(item)
                if self._inbox and isinstance(self._inbox[0], bytes):
                    continue
                data, pieces = b"".join(pieces), []
                self._peer._soon(self._peer._taken, len(data))
                self._protocol.data_received(data)
            elif item is _End.CLOSED:
                self._closing = True
                self._protocol.connection_lost(None)
            elif not self._protocol.eof_received():
                self.close()
        if self._paused and not self._closing and self._inbox and self._inbox[-1] is _End.CLOSED:
            # As a socket is reset: nobody will take what was written, and until that this end may not read on.
            self._closing = True
            self._protocol.connection_lost(BrokenPipeError())

    def _taken(self, size: int) -> None:
        self._in_flight -= size
        if self._paused and self._in_flight <= self._high // 4:
            self._paused = False
            self._protocol.resume_writing()

    def _soon(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            # This end's loop has ended, as a process ends: the other end sees a closed connection.
            if not self._closing:
                self._closing = True
                self._peer._deliver(_End.CLOSED)


class MemoryNetwork:
    """The addresses ``memory:NAME`` of one in-process instance. Safe to use from several threads."""

    def __init__(self) -> None:
        self._listening: dict[str, tuple[asyncio.AbstractEventLoop, Callable[[], asyncio.Protocol]]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    async def listen(self, address: str, protocol: Callable[[], asyncio.Protocol]) -> Listener:
        with self._lock:
            self._listening[address] = (asyncio.get_running_loop(), protocol)
        return _MemoryListener(self, address)

    async def connect(self, address: str, protocol: Callable[[], asyncio.Protocol]) -> None:
        with self._lock:
            found = self._listening.get(address)
        if found is None:
            raise LinkError(f"nothing listens on {address}")
        far_loop, far_protocol = found
        self.join(protocol(), asyncio.get_running_loop(), far_protocol, far_loop)

    def join(
        self,
        near: asyncio.Protocol,
        near_loop: asyncio.AbstractEventLoop,
        make_far: Callable[[], asyncio.Protocol],
        far_loop: asyncio.AbstractEventLoop,
    ) -> MemoryTransport:
        """Connect ``near`` to a new protocol on ``far_loop``; return the near end. Called on ``near_loop``."""
        name = f"memory-{next(self._numbers)}"
        near_end, far_end = MemoryTransport(near_loop, name), MemoryTransport(far_loop, name)
        near_end._peer, far_end._peer = far_end, near_end
        near_end.set_protocol(near)

        def accept() -> None:
            far_end.set_protocol(make_far())
            far_end._protocol.connection_made(far_end)

        far_end._soon(accept)
        near.connection_made(near_end)
        return near_end

    def forget(self, address: str) -> None:
        with self._lock:
            self._listening.pop(address, None)


class _MemoryListener:
    def __init__(self, network: MemoryNetwork, address: str) -> None:
        self.address = address
        self._network = network

    def close(self) -> None:
        self._network.forget(self.address)

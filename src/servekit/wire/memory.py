"""Connections without sockets: the transports of the in-process instance.

The two ends may be on different event loops, in different threads, as a client and a server are in different
processes; the protocols above cannot tell the difference.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from typing import Any

from servekit.errors import LinkError
from servekit.wire.network import Listener


class MemoryTransport(asyncio.Transport):
    """One end of a connection in memory. Every method is called on its own event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        super().__init__({"peername": name, "sockname": name})
        self._loop = loop
        self._peer: MemoryTransport
        self._protocol: asyncio.Protocol
        self._closing = False
        self._reading = True
        self._held: list[bytes] = []
        self._high = 64 * 1024
        self._in_flight = 0
        self._paused = False

    # -- asyncio.Transport ---------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if self._closing or not data:
            return
        piece = bytes(data)
        self._in_flight += len(piece)
        self._peer._soon(self._peer._arrive, piece)
        if self._in_flight > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._peer._soon(self._peer._arrive_eof)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high

    def get_write_buffer_size(self) -> int:
        return self._in_flight

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        held, self._held = self._held, []
        for piece in held:
            self._soon(self._arrive, piece)

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
            # Behind the pieces already on their way, as with a socket.
            self._peer._soon(self._peer._peer_closed)
            self._soon(self._lost)

    def abort(self) -> None:
        self.close()

    # -- between the two ends ---------------------------------------------------------------------------------

    def _soon(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            # This end's loop has ended, as a process ends: the other end sees a closed connection.
            if call != self._peer_closed and not self._peer._closing:
                self._peer._soon(self._peer._peer_closed)

    def _arrive(self, piece: bytes) -> None:
        if self._closing:
            return
        if not self._reading:
            self._held.append(piece)
            return
        self._peer._soon(self._peer._taken, len(piece))
        self._protocol.data_received(piece)

    def _taken(self, size: int) -> None:
        self._in_flight -= size
        if self._paused and self._in_flight <= self._high // 4:
            self._paused = False
            self._protocol.resume_writing()

    def _arrive_eof(self) -> None:
        if not self._closing and not self._protocol.eof_received():
            self.close()

    def _peer_closed(self) -> None:
        if not self._closing:
            self._closing = True
            self._lost()

    def _lost(self) -> None:
        self._protocol.connection_lost(None)


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

"""A link: frames over one connection, after a handshake.

Frames that are sent within one turn of the event loop leave by one write; the frames of one read are handed over one
by one, and then `LinkOwner.frames_done` is called, so that what answers them can leave by one write as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Iterable
from typing import Any, Protocol, cast

from servekit.config import HELLO_TIMEOUT_S
from servekit.errors import AuthenticationError, DeadlineError, LinkError
from servekit.forks import forks
from servekit.wire.frames import NO_FRAME, Codec
from servekit.wire.handshake import HANDSHAKE_BYTES, Handshake
from servekit.wire.polling import BusyPoll

_log = logging.getLogger("servekit.link")
_size_at = struct.Struct(">I").unpack_from
_pack_size = struct.Struct(">I").pack
_credentials = struct.Struct("3i")

WRITE_BUFFER_BYTES = 1024 * 1024
"""Unsent bytes at which a link counts as full, and `Link.writable` as False."""


LAST_TIMEOUT_S = 0.5
"""How long a peer may take to make room for what `Link.send_last` sends."""
FINISH_TIMEOUT_S = 5.0
"""How long peers may take to read the last frames and close their links."""


class LinkOwner(Protocol):
    """Who is told what happens on a link. Called on the link's event loop; no method may raise or block."""

    def link_opened(self, link: Link) -> None:
        """The peer is known: ``link.peer_hello``."""

    def frame_received(self, link: Link, frame: Any) -> None: ...

    def frames_done(self, link: Link) -> None:
        """Every frame of one read has been handed over."""

    def link_writable(self, link: Link) -> None:
        """A full link has room again."""

    def link_lost(self, link: Link, error: Exception | None) -> None:
        """An open link is gone. Links that never opened are not heard of here."""


class Link(asyncio.Protocol):
    """One end of a link."""

    def __init__(
        self,
        owner: LinkOwner,
        codec: Codec,
        handshake: Handshake,
        *,
        max_frame_bytes: int,
        polling: BusyPoll | None = None,
        hello_timeout_s: float = HELLO_TIMEOUT_S,
    ) -> None:
        self.owner = owner
        self.peer_hello = b""
        self.writable = True
        self.is_open = False
        self._codec = codec
        self._encode = codec.encode
        self._decode = codec.decode
        self._handshake: Handshake | None = handshake
        self._max_frame_bytes = max_frame_bytes
        self._hello_timeout_s = hello_timeout_s
        self._most_bytes = HANDSHAKE_BYTES
        """The longest message that is taken now."""
        self._polling = polling
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._lost = asyncio.Event()
        self._deadline: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._descriptors: tuple[int, ...] = ()
        self._buffer = bytearray()
        self._needed = 4
        self._out: list[bytes] = []
        self._unsent: list[bytes] = []
        self._flush_planned = False
        self._error: Exception | None = None
        self._peer_ended = False
        self._finished = False

    # -- for the owner ------------------------------------------------------------------------------------

    async def wait_open(self) -> None:
        """Return when the handshake is done; raises what ended it."""
        await asyncio.shield(self._opened)

    async def wait_lost(self) -> None:
        """Return when the connection is gone."""
        await self._lost.wait()

    def send(self, frame: Any) -> None:
        """Send a frame, with the others of this turn of the loop. On a lost link: nothing."""
        if self._error is not None or not self.is_open:
            return
        payload = self._encode(frame)
        self._out += (_pack_size(len(payload)), payload)
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send at once what waits for the end of this turn."""
        self._flush_planned = False
        if self._out:
            out, self._out = self._out, []
            if self._transport.is_closing() or self._finished:
                self._unsent += out
            else:
                self._transport.write(b"".join(out))
                if self._polling is not None:
                    self._polling.touch()

    def unsent(self) -> list[Any]:
        """Return the frames that a lost link never handed to its connection."""
        return [self._codec.decode(payload) for payload in (self._unsent + self._out)[1::2]]

    def close(self) -> None:
        """Send what waits, then close."""
        self.flush()
        self._transport.close()

    def finish(self) -> None:
        """Send what waits, and that nothing follows; the peer closes once it has read that."""
        self.flush()
        self._finished = True
        if not self._transport.is_closing():
            self._transport.write_eof()

    def send_last(self, frame: Any) -> None:
        """Send what waits, ``frame``, and that nothing follows, past an event loop that hangs: from another thread, and
        with its process about to end. Where the connection has yet to take an earlier frame whole, nothing is sent."""
        out, self._out = [*self._out, _pack_size(len(payload := self._encode(frame))), payload], []
        if self.is_open and not self._transport.is_closing() and not self._transport.get_write_buffer_size():
            with socket.socket(fileno=os.dup(self._descriptors[0])) as same, contextlib.suppress(OSError):
                same.settimeout(LAST_TIMEOUT_S)
                same.sendall(b"".join(out))
                same.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        if self._descriptors:  # It is connected, or was.
            self._transport.abort()

    def fail(self, error: Exception) -> None:
        """The peer does what no peer may: cut the link, and say so in the log."""
        _log.warning("link refused: %s", error)
        self._error = error
        self._transport.abort()

    def peer_ended(self) -> None:
        """The peer's process has ended: what it sent before that is read, and then the link is lost.

        The end of the connection itself would come only with that of the last child with a copy of the peer's socket.
        """
        if self._peer_ended or self._transport.is_closing():
            return
        self._peer_ended = True
        with socket.socket(fileno=os.dup(self._descriptors[0])) as same, contextlib.suppress(OSError):
            same.shutdown(socket.SHUT_RD)

    @property
    def error(self) -> Exception | None:
        """Why the link was lost; None while it is there."""
        return self._error

    @property
    def local_address(self) -> Any:
        return self._transport.get_extra_info("sockname")

    @property
    def peer_pid(self) -> int:
        """The process that has dialled here by a Unix socket, by its number in this process's ``/proc``; 0 where it has
        none, or is on TCP (SO_PEERCRED, unix(7))."""
        sock = self._transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            return 0
        pid: int = _credentials.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _credentials.size))[0]
        return pid

    # -- asyncio.Protocol -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._descriptors = forks.hold(transport.get_extra_info("socket"))
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._deadline = self._loop.call_later(self._hello_timeout_s, self._handshake_late)
        assert self._handshake is not None
        first = self._handshake.first()
        if first is not None:
            self._write_message(first)

    def data_received(self, data: bytes) -> None:
        """Hand over the whole frames, and keep the rest until more of it is here."""
        chunk = self._with_rest(data) if self._buffer else data
        view, at, end = memoryview(chunk), 0, len(chunk)
        self._flush_planned = True  # Below: what answers these frames leaves by one write.
        while end - at >= 4:
            (size,) = _size_at(chunk, at)
            start, stop = at + 4, at + 4 + size
            if size > self._most_bytes:
                self.fail(LinkError(f"a frame of {size} bytes is longer than this link takes"))
                return
            if stop > end:
                break
            if self._handshake is not None:
                self._shake(self._handshake, view[start:stop])
                if self._error is not None:
                    return
            else:
                try:
                    frame = self._decode(view[start:stop])
                except NO_FRAME as error:
                    self.fail(LinkError(f"not a frame: {error}"))
                    return
                self.owner.frame_received(self, frame)
            at = stop
        if at < end:
            self._needed = 4 if end - at < 4 else size + 4
            self._buffer = bytearray(view[at:])
        if self.is_open:
            self.owner.frames_done(self)
        self._flush_planned = False
        if self._out:
            self.flush()
        elif self._polling is not None:
            self._polling.touch()

    def eof_received(self) -> None:
        if self._peer_ended:
            self._transport.abort()  # Closed, it would wait for the peer to read what is still to be sent.

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self.is_open:
            self.owner.link_writable(self)

    def connection_lost(self, exc: Exception | None) -> None:
        forks.let_go(self._descriptors)
        if self._deadline is not None:
            self._deadline.cancel()
        error = self._error or exc
        self._error = error or LinkError("the link was closed")
        if not self._opened.done():
            self._opened.set_exception(error or LinkError("the peer closed the link before the handshake was done"))
            self._opened.exception()  # Seen here: not everyone waits for it.
        self._lost.set()
        if self.is_open:
            self.is_open = False
            self.owner.link_lost(self, error)

    # -- inside ------------------------------------------------------------------------------------------------

    def _with_rest(self, data: bytes) -> bytes | bytearray:
        """Return the kept part of a frame with ``data`` behind it; nothing, while that is not all of the frame."""
        self._buffer += data
        if len(self._buffer) < self._needed:
            return b""
        whole, self._buffer = self._buffer, bytearray()
        return whole

    def _shake(self, handshake: Handshake, message: memoryview) -> None:
        try:
            answer = handshake.receive(message)
        except (LinkError, AuthenticationError) as error:
            self.fail(error)
            return
        if answer is not None:
            self._write_message(answer)
        if handshake.peer_hello is not None:
            self._handshake = None
            self._most_bytes = self._max_frame_bytes
            self.peer_hello = handshake.peer_hello
            self.is_open = True
            if self._deadline is not None:
                self._deadline.cancel()
            self.owner.link_opened(self)
            if not self._opened.done():
                self._opened.set_result(None)

    def _write_message(self, message: bytes) -> None:
        self._transport.write(_pack_size(len(message)) + message)

    def _handshake_late(self) -> None:
        if self._handshake is not None:
            self.fail(DeadlineError(f"the peer did not finish the handshake within {self._hello_timeout_s:g} s"))


async def finish_all(links: Iterable[Link]) -> None:
    """Half-close these, and return when their peers have closed them, or after `FINISH_TIMEOUT_S`."""
    links = list(links)
    lost = [asyncio.ensure_future(link.wait_lost()) for link in links]
    for link in links:
        link.finish()
    if lost:
        _, late = await asyncio.wait(lost, timeout=FINISH_TIMEOUT_S)
        for waiter in late:
            waiter.cancel()

"""One client's connection: requests in order, answers in order, and how it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from servekit.http1.body import OutgoingBody
from servekit.http1.checks import Fault
from servekit.http1.lifetime import Lifetime
from servekit.http1.reader import FEED_BYTES
from servekit.http1.request import HttpRequest
from servekit.http1.responses import CHUNKED, CONTINUE, SWITCHED, has_body, length_line, render, status_line

if TYPE_CHECKING:
    from servekit.http1.server import HttpServer

_JOIN_BYTES = 64 * 1024
"""Bodies above this are written by themselves, rather than copied behind their head."""


class HttpConnection(Lifetime):
    """The protocol of one accepted transport.

    Requests are handed to the app strictly one at a time, in order: the next when the one before has been answered.
    """

    __slots__ = ("_advancing", "_handle", "_last", "client")

    def __init__(self, server: HttpServer) -> None:
        super().__init__(server)
        self.client = ""
        self._handle = server.app.handle
        self._last = False  # the current request's answer is the last, or the one before was
        self._advancing = False

    # -- called by the transport --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._server.limits.write_buffer_bytes)
        peer = transport.get_extra_info("peername")
        self.client = peer[0] if isinstance(peer, tuple) else ""
        if not self._server.admit(self) and not self._closing:
            self._refuse(Fault(503, f"more than {self._server.limits.connections} connections; try again later"))

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if len(data) > FEED_BYTES or reader.ended or self._unfed:
            self._receive_much(data)
            return
        reader.feed(data)
        if reader.ready or reader.ended or reader.expects_continue or reader.incoming is not None or self._last:
            self._advance()
        elif reader.tunnel is not None and reader.is_full:
            self._settle()

    def eof_received(self) -> bool:
        """A client may shut down its side once it has asked: what it has asked for is still answered."""
        self._eof = True
        if self._reader.tunnel is not None:
            self._reader.tunnel.end()
        if self._reader.incoming is not None and not self._closing:
            self._reader.fail(Fault(400, "the connection ended within the body"))
            self._settle()
        return not self._closing and (self._current is not None or bool(self._reader.ready or self._unfed))

    def pause_writing(self) -> None:
        self._writable = False
        self._blocks += 1

    def resume_writing(self) -> None:
        self._writable = True
        if self._outgoing is not None and self._current is not None:
            self._server.app.writable(self._current)
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._unfed = b""
        self._reader.close()
        self._server.forget(self)
        self._abandon()

    # -- called by requests -------------------------------------------------------------------------------

    def answer(self, request: HttpRequest, status: int, head: bytes, body: bytes, close: bool) -> None:
        """Write the answer to the current request, and take up the next one."""
        ending = self._ending(request, close)
        head_only = request.method == "HEAD"
        if len(body) > _JOIN_BYTES and not head_only and has_body(status):
            self._transport.write(render(status, head, body, ending, head_only=True))
            self._transport.write(body)
        else:
            self._transport.write(render(status, head, body, ending, head_only=head_only))
        self._answered(request)

    def begin_answer(self, request: HttpRequest, status: int, head: bytes, length: int | None) -> None:
        """Write the head of the answer to the current request."""
        if status == 101:
            self._last = True
            self._outgoing = OutgoingBody(None, chunked=False, silent=False)
            self._transport.write(b"".join((status_line(status), head, SWITCHED, self._server.endings.keep)))
            return
        bodiless = not has_body(status)
        chunked = length is None and request.version == "1.1" and not bodiless
        # To HTTP/1.0 a body of unknown length ends with the connection.
        ending = self._ending(request, length is None and not chunked and not bodiless)
        self._outgoing = OutgoingBody(length, chunked=chunked, silent=bodiless or request.method == "HEAD")
        framing = CHUNKED if chunked else b"" if length is None or bodiless else length_line(length)
        self._transport.write(b"".join((status_line(status), head, framing, ending)))

    def write_answer(self, data: bytes) -> bool:
        """Write a piece of the current answer's body; whether there is room for more."""
        assert self._outgoing is not None
        self._transport.write(self._outgoing.piece(data))
        return self._writable

    def end_answer(self, request: HttpRequest, complete: bool) -> None:
        """End the current answer's body, and take up the next request."""
        assert self._outgoing is not None
        ending = self._outgoing.last(complete=complete)
        self._outgoing = None
        if ending is None:
            self._current = None
            if request.incoming is not None:
                request.incoming.discard()
            self._close()
        else:
            self._transport.write(ending)
            self._answered(request)

    def body_taken(self) -> None:
        """Something of the current request's body was taken: read on, if that was what reading waited for."""
        if self._paused and not self._advancing:
            self._advance()

    def _ending(self, request: HttpRequest, close: bool) -> bytes:
        """The last lines of the current answer's head; notes whether the connection ends with it."""
        server = self._server
        if server.draining and not self._reader.ready and not self._unfed:
            close = True
        if close or not request.keep_alive:
            self._last = True
            return server.endings.close
        return server.endings.keep if request.version == "1.1" else server.endings.keep_1_0

    def _answered(self, request: HttpRequest) -> None:
        self._current = None
        incoming = request.incoming
        if incoming is not None:
            incoming.discard()
            if not incoming.ended:  # What is still to come is read and forgotten: the client may be slow to look.
                self._advance()
                return
        reader = self._reader
        if self._last:
            self._end()
        elif reader.ready or reader.ended or self._unfed or reader.expects_continue or self._eof:
            self._advance()

    # -- one request at a time ------------------------------------------------------------------------------

    def _receive_much(self, data: bytes) -> None:
        if not self._closing:
            self._unfed = b"".join((self._unfed, data)) if self._unfed else data
            self._advance()

    def _advance(self) -> None:
        """Hand over requests until one is not answered at once; then see to whatever else is due.

        A loop, not a recursion: an app that answers at once comes back here through `answer`.
        """
        if self._advancing or self._closing:
            return
        self._advancing = True
        try:
            self._hand_over()
        finally:
            self._advancing = False
        if not self._closing:
            self._settle()

    def _hand_over(self) -> None:
        reader = self._reader
        ready = reader.ready
        while not self._closing:
            if self._current is None and ready and self._writable and not self._last:
                self._current = request = ready.popleft()
                request.connection = self
                self._handle(request)
            elif self._unfed and not reader.ended and not reader.is_full:
                self._feed_some()
            else:
                return

    def _feed_some(self) -> None:
        """Feed until a request is ready, or nothing is left, in pieces that bound how many become ready."""
        reader = self._reader
        view = memoryview(self._unfed)
        at = 0
        while at < len(view) and not reader.ended and not reader.is_full:
            appetite = reader.appetite
            reader.feed(view[at : at + appetite])
            at += appetite
        # A view of the rest: copying that each time would make much of one read cost its square.
        self._unfed = view[at:] if at < len(view) and not self._closing else b""

    def _settle(self) -> None:
        reader = self._reader
        if reader.fault is not None and reader.incoming is not None and self._break_off(reader.fault):
            return
        if self._current is None and self._last and reader.incoming is None:
            self._end()
            return
        if self._current is None and not reader.ready:
            if reader.fault is not None:
                self._refuse(reader.fault)
                return
            if reader.expects_continue:
                reader.expects_continue = False
                self._transport.write(CONTINUE)
            if self._eof:
                self._end()
                return
        pause = bool(self._unfed) or reader.is_full or not self._writable
        if pause is not self._paused:
            self._paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

"""One client's connection: requests in order, answers in order, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, cast

from servekit.http1.body import OutgoingBody
from servekit.http1.checks import Fault
from servekit.http1.reader import FEED_BYTES, Phase, RequestReader
from servekit.http1.request import HttpRequest
from servekit.http1.responses import CHUNKED, CONTINUE, has_body, length_line, render, render_fault, status_line

if TYPE_CHECKING:
    from servekit.http1.server import HttpServer

LINGER_S = 1.5
"""How long a connection that was refused goes on discarding what the client sends."""
FRESH_S = 1.0
"""How long a connection that has not sent anything yet is spared when its server drains."""
PROBE_S = 1.0
"""Between two probes of a client that has half-closed, or closed: only writing tells which."""
_JOIN_BYTES = 64 * 1024
"""Bodies above this are written by themselves, rather than copied behind their head."""


class HttpConnection(asyncio.Protocol):
    """The protocol of one accepted transport.

    Requests are handed to the app strictly one at a time, in order: the next when the one before has been answered.
    Deadlines are the server's business: it calls `sweep` now and then, and nothing here keeps time.
    """

    __slots__ = (
        "_advancing",
        "_blocks",
        "_closing",
        "_current",
        "_eof",
        "_handle",
        "_last",
        "_lingering",
        "_outgoing",
        "_paused",
        "_reader",
        "_seen",
        "_server",
        "_since",
        "_transport",
        "_unfed",
        "_writable",
        "client",
    )

    _transport: asyncio.Transport

    def __init__(self, server: HttpServer) -> None:
        self.client = ""
        self._server = server
        self._handle = server.app.handle
        self._reader = RequestReader(server.app.new_request, server.limits)
        self._current: HttpRequest | None = None
        self._outgoing: OutgoingBody | None = None  # of the current request's answer, once it has begun in pieces
        self._last = False  # the current request's answer is the last, or the one before was
        self._unfed = b""  # received while too many requests were waiting
        self._advancing = False
        self._paused = False
        self._writable = True
        self._eof = False
        self._closing = False
        self._lingering = False
        # What the last sweep saw, and when that began.
        self._seen: object = None
        self._since = 0.0
        self._blocks = 0

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

    def eof_received(self) -> bool:
        """A client may shut down its side once it has asked: what it has asked for is still answered."""
        self._eof = True
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

    def _abandon(self) -> None:
        """Nobody waits for the answer to the current request."""
        request, self._current, self._outgoing = self._current, None, None
        if request is not None:
            request.done = True
            if request.incoming is not None:
                request.incoming.discard()
            self._server.app.abandoned(request)

    # -- one request at a time ------------------------------------------------------------------------------

    def _receive_much(self, data: bytes) -> None:
        if not self._closing:
            self._unfed = self._unfed + data if self._unfed else data
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
        self._unfed = bytes(view[at:])

    def _settle(self) -> None:
        reader = self._reader
        if reader.fault is not None and reader.incoming is not None and self._break_off(reader.fault):
            return
        if self._current is None and not reader.ready:
            if reader.fault is not None:
                self._refuse(reader.fault)
                return
            if self._last and reader.incoming is None:
                self._end()
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

    # -- endings --------------------------------------------------------------------------------------------

    def _break_off(self, fault: Fault) -> bool:
        """A body that arrives in pieces is at fault, or does not come; whether that ends the connection now."""
        reader = self._reader
        reader.incoming = None
        if reader.ready:  # It is the last there, behind what is still to be answered.
            reader.ready.pop()
            return False
        current, begun = self._current, self._outgoing is not None
        self._abandon()
        if begun:
            self._close()
        elif current is not None:
            self._refuse(fault)
        else:
            self._linger()  # It was answered before its body had come.
        return True

    def _refuse(self, fault: Fault) -> None:
        self._transport.write(render_fault(fault, self._server.endings.close))
        self._linger()

    def _end(self) -> None:
        """Nothing more will be answered."""
        reader = self._reader
        if (self._unfed or reader.ready or reader.phase is not Phase.BETWEEN) and not self._eof:
            self._linger()
        else:
            self._close()

    def _close(self) -> None:
        self._stop_reading_requests()
        self._transport.close()

    def _linger(self) -> None:
        """Close the way out and discard what comes in, for `LINGER_S`: closing with unread data resets a connection,
        and the reset can overtake the answer.
        """
        self._stop_reading_requests()
        self._lingering = True
        with contextlib.suppress(NotImplementedError):  # TLS has no half-close
            self._transport.write_eof()
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _stop_reading_requests(self) -> None:
        self._closing = True
        self._unfed = b""
        self._reader.ended = True
        self._reader.ready.clear()

    def abort(self) -> None:
        self._stop_reading_requests()
        self._transport.abort()

    def close_if_idle(self, *, spare_fresh: bool) -> None:
        """Close unless there is a request in hand, or one on its way in."""
        if not self._closing and self._is_idle() and (self._reader.messages or not spare_fresh):
            self._close()

    def _is_idle(self) -> bool:
        reader = self._reader
        return self._current is None and not reader.ready and not self._unfed and reader.phase is Phase.BETWEEN

    # -- deadlines --------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Called by the server now and then: act on what has not changed for too long.

        The state is compared with what the last sweep saw, so that the common path keeps no times.
        """
        state = self._state()
        if state != self._seen:
            self._seen = state
            self._since = now
            return
        elapsed = now - self._since
        server, reader = self._server, self._reader
        limits = server.limits
        match state[0]:
            case "lingering" if elapsed > LINGER_S:
                self._lingering = False
                self._transport.close()
            case "blocked" | "closing" if elapsed > limits.write_timeout_s:
                self.abort()
            case "half-closed" if elapsed > PROBE_S:
                self._probe()
            case Phase.HEAD if elapsed > limits.header_timeout_s:
                self._refuse(Fault(408, f"the headers took more than {limits.header_timeout_s:g} s"))
            case Phase.BODY if elapsed > limits.body_timeout_s:
                late = Fault(408, f"no more of the body came for {limits.body_timeout_s:g} s")
                if reader.incoming is None:
                    self._refuse(late)
                else:
                    reader.fail(late)
                    self._settle()
            case Phase.BETWEEN if elapsed > (FRESH_S if server.draining else limits.idle_timeout_s):
                self._end()

    def _state(self) -> tuple[object, ...]:
        reader = self._reader
        if self._lingering:
            return ("lingering",)
        if self._closing:
            return ("closing",)
        if not self._writable:
            return ("blocked", self._blocks)
        if reader.incoming is not None and not self._paused:
            return (reader.phase, reader.messages, reader.body_size)
        if self._current is not None or reader.ready or self._unfed:
            return ("half-closed",) if self._eof else ("busy",)
        return (reader.phase, reader.messages, reader.body_size)

    def _probe(self) -> None:
        """Write to a client that sends no more: one that has closed for good resets the connection, one that has only
        half-closed takes any number of these before its answer (RFC 9110, 15.2). HTTP/1.0 has no such thing.
        """
        self._seen = None
        if self._current is not None and self._current.version == "1.1" and self._outgoing is None:
            self._transport.write(CONTINUE)

"""One client's connection: requests in order, answers in order, and the end.

The table has what each event does in each state: the next state, or why there is none.

=========  ==================  ========================  ===================  ================  =======================
state      a request is ready  the app's answer          a body breaks off    the client ends   the server drains
=========  ==================  ========================  ===================  ================  =======================
IDLE       ASKED or TUNNEL                               LINGERING            CLOSED            CLOSED, between two
ASKED      waits               whole: IDLE or LAST       refused: LINGERING   is answered yet   the answer says so: LAST
                               in pieces: ANSWERING
ANSWERING  waits               complete: IDLE or LAST    CLOSED               is answered yet   goes on
                               broken off: CLOSED
TUNNEL                         complete: LINGERING       there is none        the app is told   the app is told that
                               broken off: CLOSED                                               the client ends
LAST       is never answered                             LINGERING            LINGERING         goes on
LINGERING  is discarded                                                       CLOSED            goes on
=========  ==================  ========================  ===================  ================  =======================

A body breaks off when it is malformed, too long, too slow, or ended by its client. A head that is at fault is refused
in IDLE, behind the answers to what came before it: LINGERING. LAST ends with the body that it waits for: in LINGERING
where the client has sent more than that, else in CLOSED. `connection_lost` ends every state. `timeouts.py` says how
long a state may last.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import fcntl
import sys
import termios
from typing import Any, Protocol, cast

from servekit.config import HttpLimits
from servekit.http1.body import IncomingBody, OutgoingBody
from servekit.http1.checks import Fault
from servekit.http1.reader import FEED_BYTES, Phase, RequestReader
from servekit.http1.request import HttpApp, HttpRequest
from servekit.http1.responses import (
    BODILESS,
    CHUNKED,
    CONTINUE,
    LENGTH,
    SWITCHED,
    LastLines,
    render,
    render_fault,
    status_line,
)
from servekit.http1.timeouts import Overdue, ReadingTime, Wait, overdue, too_slow

_JOIN_BYTES = 64 * 1024
"""Bodies above this are written by themselves, rather than copied behind their head."""


class ConnectionState(enum.Enum):
    """The state of a connection towards its client."""

    IDLE = "no request is in hand"
    ASKED = "the app has a request, and has not begun to answer it"
    ANSWERING = "the answer goes out in pieces"
    TUNNEL = "the app has a request for a WebSocket: it gets what comes as it is, and answers, by a 101 maybe"
    LAST = "the last answer is written; the rest of its request's body is read and forgotten"
    LINGERING = "nothing more is written; what comes is discarded until the client closes"
    CLOSED = "it is closed, or will be once the client has taken what was written"


# By their names alone, for each request looks at some: a member of an `Enum` costs a descriptor's call in Python 3.11.
IDLE, ASKED, ANSWERING, TUNNEL, LAST, LINGERING, CLOSED = ConnectionState


class ConnectionOwner(Protocol):
    """The `HttpServer`, as its connections use it."""

    app: HttpApp
    limits: HttpLimits
    draining: bool
    last_lines: LastLines

    def admit(self, connection: HttpConnection) -> bool:
        """A client has connected: whether it is served. If not, the connection says so and closes."""

    def forget(self, connection: HttpConnection) -> None:
        """The connection is gone."""


class HttpConnection(asyncio.Protocol):
    """The protocol of one accepted transport.

    Requests are handed to the app strictly one at a time, in order: the next when the one before has been answered.
    """

    __slots__ = (
        "_advancing",
        "_current",
        "_eof",
        "_handle",
        "_outgoing",
        "_paused",
        "_reader",
        "_reading_time",
        "_seen",
        "_server",
        "_since",
        "_state",
        "_transport",
        "_unfed",
        "_writable",
        "_written_bytes",
        "client",
    )

    _transport: asyncio.Transport

    def __init__(self, server: ConnectionOwner) -> None:
        self.client = ""
        self._server = server
        self._handle = server.app.handle
        self._reader = RequestReader(server.app.new_request, server.limits)
        self._state = IDLE
        self._current: HttpRequest | None = None  # in ASKED, ANSWERING and TUNNEL
        self._outgoing: OutgoingBody | None = None  # in ANSWERING and TUNNEL
        self._unfed: bytes | memoryview = b""  # received while too many requests were waiting, or too much of a body
        self._advancing = False
        self._paused = False
        self._writable = True
        self._written_bytes = 0  # by `write_answer`
        self._eof = False
        # The wait that the last sweep saw, and when it began.
        self._seen: object = None
        self._since = 0.0
        self._reading_time = ReadingTime()

    @property
    def socket(self) -> Any:
        return self._transport.get_extra_info("socket")

    @property
    def current(self) -> HttpRequest | None:
        """The request that is being answered, if any."""
        return self._current

    @property
    def _tunnel(self) -> IncomingBody | None:
        """The body that takes the bytes that come, in `TUNNEL`."""
        return self._current.incoming if self._state is TUNNEL and self._current is not None else None

    @property
    def _is_over(self) -> bool:
        return self._state is LINGERING or self._state is CLOSED

    # -- called by the transport --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._server.limits.write_buffer_bytes)
        peer = transport.get_extra_info("peername")
        self.client = peer[0] if isinstance(peer, tuple) else ""
        if not self._server.admit(self) and not self._is_over:
            self._refuse(Fault(503, f"more than {self._server.limits.connections} connections; try again later"))

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if len(data) > FEED_BYTES or reader.ended or self._unfed:
            if not self._is_over:
                self._unfed = b"".join((self._unfed, data)) if self._unfed else data
                self._advance()
            return
        reader.feed(data)
        ready = reader.ready
        if len(ready) == 1 and self._state is IDLE and self._writable and not reader.ended:
            # One request, and nothing else to see to: nearly all data is that.
            self._current = request = ready.popleft()
            request.connection = self
            self._state = ASKED
            self._handle(request)
        else:
            self._advance()

    def eof_received(self) -> bool:
        """A client may shut down its side once it has asked: its requests are still answered."""
        self._eof = True
        if self._tunnel is not None:
            self._tunnel.end()
        elif self._reader.incoming is not None and not self._is_over:
            self._reader.fail(Fault(400, "the connection ended within the body"))
            self._settle()
        return not self._is_over and (self._state is not IDLE or bool(self._reader.ready or self._unfed))

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._outgoing is not None and self._current is not None:
            self._current.writable()
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop(CLOSED)
        self._reader.close()
        self._server.forget(self)
        self._abandon()

    # -- called by requests -------------------------------------------------------------------------------

    def answer(self, request: HttpRequest, status: int, head: bytes, body: bytes) -> None:
        """Write the answer to the current request, and take up the next one."""
        server, reader = self._server, self._reader
        plain = request.keep_alive and request.incoming is None and not server.draining
        lines = server.last_lines.keep if plain and request.version == "1.1" else self._last_lines(request)
        head_only = request.method == "HEAD"
        if len(body) > _JOIN_BYTES and not head_only and status not in BODILESS:
            self._transport.write(render(status, head, body, lines, head_only=True))
            self._transport.write(body)
        else:
            self._transport.write(render(status, head, body, lines, head_only=head_only))
        if plain and not (reader.ready or reader.ended or reader.expects_continue or self._unfed or self._eof):
            self._current = None  # The client sends its next request once it has this answer.
            self._state = IDLE
        else:
            self._answered(request)

    def begin_answer(self, request: HttpRequest, status: int, head: bytes, length: int | None) -> None:
        """Write the head of the answer to the current request."""
        if status == 101:
            self._outgoing = OutgoingBody(None, chunked=False, silent=False)
            self._transport.write(b"".join((status_line(status), head, SWITCHED, self._server.last_lines.keep)))
            return
        bodiless = status in BODILESS
        chunked = length is None and request.version == "1.1" and not bodiless
        if length is None and not chunked and not bodiless:
            request.keep_alive = False  # To HTTP/1.0 a body of unknown length ends with the connection.
        lines = self._last_lines(request)
        self._state = TUNNEL if request.upgrade else ANSWERING
        self._outgoing = OutgoingBody(length, chunked=chunked, silent=bodiless or request.method == "HEAD")
        framing = CHUNKED if chunked else b"" if length is None or bodiless else LENGTH % length
        self._transport.write(b"".join((status_line(status), head, framing, lines)))

    def write_answer(self, data: bytes) -> bool:
        """Write a piece of the current answer's body. Returns whether there is room for more."""
        assert self._outgoing is not None
        piece = self._outgoing.piece(data)
        self._written_bytes += len(piece)
        self._transport.write(piece)
        return self._writable

    def end_answer(self, request: HttpRequest, complete: bool) -> None:
        """End the current answer's body, and take up the next request."""
        assert self._outgoing is not None
        end = self._outgoing.last(complete=complete)
        if end is None:
            self._let_go()
            self._close()
        else:
            self._transport.write(end)
            self._answered(request)

    def body_taken(self) -> None:
        """Bytes of the current request's body were taken: read on, if reading was paused for that."""
        if self._paused and not self._advancing:
            self._advance()

    def _last_lines(self, request: HttpRequest) -> bytes:
        """The last lines of the current answer's head; notes whether the connection goes on behind it."""
        server = self._server
        if server.draining and not self._reader.ready and not self._unfed:
            request.keep_alive = False
        if not request.keep_alive:
            return server.last_lines.close
        return server.last_lines.keep if request.version == "1.1" else server.last_lines.keep_1_0

    def _answered(self, request: HttpRequest) -> None:
        self._let_go()
        self._state = IDLE if request.keep_alive else LAST
        if self._state is LAST and (request.incoming is None or request.incoming.ended or request.upgrade):
            self._end(client_may_send=request.upgrade)
        else:
            self._advance()

    def _let_go(self) -> HttpRequest | None:
        """The current request is over. The rest of its body is read and forgotten: its client may be slow to look for
        the answer.
        """
        request, self._current, self._outgoing = self._current, None, None
        if request is not None and request.incoming is not None:
            request.incoming.discard()
        return request

    # -- one request at a time ------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Hand over requests until one is not answered at once; then `_settle`.

        A loop, not a recursion: an app that answers at once comes back here through `answer`.
        """
        if self._advancing or self._is_over:
            return
        reader = self._reader
        self._advancing = True
        try:
            while True:
                if self._state is IDLE and reader.ready and self._writable:
                    self._current = request = reader.ready.popleft()
                    request.connection = self
                    self._state = TUNNEL if request.upgrade else ASKED
                    self._handle(request)
                elif self._unfed and self._tunnel is not None and not self._tunnel.is_full:
                    self._tunnel.receive(bytes(self._unfed))
                    self._unfed = b""
                elif self._unfed and not reader.ended and not reader.is_full:
                    self._feed_some()
                else:
                    break
        finally:
            self._advancing = False
        if not self._is_over:
            self._settle()

    def _feed_some(self) -> None:
        """Feed until a request is ready, or nothing is left, in pieces that bound how many become ready."""
        reader = self._reader
        view = memoryview(self._unfed)
        at = 0
        while at < len(view) and not reader.ended and not reader.is_full:
            most = reader.feed_bytes
            piece = view[at : at + most]
            reader.feed(piece if reader.phase is Phase.BODY else bytes(piece))
            at += most
        # A view of the rest: copying that each time would make much of one read cost its square.
        self._unfed = view[at:] if at < len(view) and not self._is_over else b""

    def _settle(self) -> None:
        """Do what is due, now that the reader or the current request is in another state."""
        reader = self._reader
        if reader.fault is not None and reader.incoming is not None and self._break_off(reader.fault):
            return
        if self._state is LAST and reader.incoming is None:
            self._end()
            return
        if self._state is IDLE and not reader.ready:
            if reader.fault is not None:
                self._refuse(reader.fault)
                return
            if reader.expects_continue:
                reader.expects_continue = False
                self._transport.write(CONTINUE)
            if self._eof:
                self._end()
                return
        # A client that does not read is not read either; but the two directions of a tunnel do not wait for each other.
        tunnel = self._tunnel
        full = tunnel.is_full if tunnel is not None else reader.is_full or not self._writable
        pause = full or bool(self._unfed)
        if pause is not self._paused:
            self._paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()
        if tunnel is not None and self._eof and not (tunnel.ended or self._unfed):
            tunnel.end()

    # -- how it ends ----------------------------------------------------------------------------------------

    def _break_off(self, fault: Fault) -> bool:
        """A body that arrives in pieces is at fault, or does not come. Returns whether the connection ends now."""
        reader = self._reader
        reader.incoming = None
        if reader.ready:  # It is the last there, behind what is still to be answered.
            reader.ready.pop()
            return False
        self._abandon()
        if self._state is ANSWERING:
            self._close()
        elif self._state is ASKED:
            self._refuse(fault)
        else:
            self._linger()  # It was answered before its body had come.
        return True

    def _abandon(self) -> None:
        """Give the current request up: its client is gone, or will get no answer."""
        request = self._let_go()
        if request is not None:
            request.done = True
            request.abandoned()

    def _refuse(self, fault: Fault) -> None:
        self._transport.write(render_fault(fault, self._reader.headers, self._server.last_lines.close))
        self._linger()

    def _end(self, *, client_may_send: bool = False) -> None:
        """Nothing more will be answered."""
        reader = self._reader
        more = client_may_send or self._unfed or reader.ready or reader.phase is not Phase.BETWEEN
        if more and not self._eof:
            self._linger()
        else:
            self._close()

    def _close(self) -> None:
        self._stop(CLOSED)
        self._transport.close()

    def _linger(self) -> None:
        """Close the way out and discard what comes in, for `LINGER_S`: closing with unread data resets a connection,
        and the reset can overtake the answer.
        """
        self._stop(LINGERING)
        with contextlib.suppress(NotImplementedError):  # TLS has no half-close
            self._transport.write_eof()
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _stop(self, state: ConnectionState) -> None:
        self._state = state
        self._unfed = b""
        self._reader.ended = True
        self._reader.ready.clear()

    def abort(self) -> None:
        self._stop(CLOSED)
        self._transport.abort()

    def close_if_idle(self) -> None:
        """Close unless there is a request in hand, or one on its way in, or the client has not asked yet. A tunnel has
        no end of its own: its handler is told that the client's half is over, so that the handler may end the other.
        """
        reader = self._reader
        if self._tunnel is not None:
            self._tunnel.end()
        busy = self._state is not IDLE or reader.ready or self._unfed or reader.phase is not Phase.BETWEEN
        if not busy and reader.messages:
            self._close()

    # -- timeouts -------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Act on a wait that has lasted too long; called by the server now and then.

        The wait is compared with the one that the last sweep saw, so that the common path keeps no times.
        """
        server, reader = self._server, self._reader
        wait = self._wait()
        due: Overdue | Fault | None = None
        if wait[0] is Phase.BODY:
            self._reading_time.add(reader.messages, now)
            due = too_slow(reader.body_size, self._reading_time.seconds, server.limits)
        else:
            self._reading_time.stop()
        if wait != self._seen:
            self._seen = wait
            self._since = now
        elif due is None:
            due = overdue(wait[0], now - self._since, server.limits, draining=server.draining)
        match due:
            case Overdue.PROBE:
                self._probe()
            case Overdue.CLOSE:
                self._close()
            case Overdue.ABORT:
                self.abort()
            case Fault() as late:
                reader.fail(late)
                self._settle()

    def _wait(self) -> tuple[Any, ...]:
        """The reason why the connection waits, and whatever changes as long as the client goes on."""
        reader, state = self._reader, self._state
        unsent_bytes = self._transport.get_write_buffer_size()
        if unsent_bytes or state is CLOSED:
            # How much the client has taken, but for a constant. An answer that is one write moves it as well, once.
            return (Wait.CLIENT_READS, self._written_bytes - unsent_bytes - _bytes_in_kernel(self.socket))
        if state is LINGERING:
            return (Wait.CLIENT_CLOSES,)
        if state is TUNNEL:
            return (Wait.APP,)  # It may be silent for as long as its handler lets it.
        arrives = reader.incoming is not None and not self._paused
        if not arrives and (state is not IDLE or reader.ready or self._unfed):
            return (Wait.HALF_CLOSED if self._eof else Wait.APP,)
        return (reader.phase, reader.messages, reader.body_size)

    def _probe(self) -> None:
        """Write to a client that sends no more: one that has closed for good resets the connection, one that has only
        half-closed takes any number of these before its answer (RFC 9110, 15.2). HTTP/1.0 has no such thing.
        """
        self._seen = None
        if self._state is ASKED and self._current is not None and self._current.version == "1.1":
            self._transport.write(CONTINUE)


def _bytes_in_kernel(socket: Any) -> int:
    """How many bytes the peer has not acknowledged (SIOCOUTQ, tcp(7)). The transport may write more only when a third
    of the kernel's buffer is free, which is too late to tell a slow reader from none.
    """
    return int.from_bytes(fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)

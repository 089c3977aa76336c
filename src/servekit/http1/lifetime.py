"""When a connection ends, and how: refusals, the last answer, and whatever has stood still for too long."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from servekit.http1.body import OutgoingBody
from servekit.http1.checks import Fault
from servekit.http1.reader import Phase, RequestReader
from servekit.http1.request import HttpRequest
from servekit.http1.responses import CONTINUE, render_fault

if TYPE_CHECKING:
    from servekit.http1.server import HttpServer

LINGER_S = 1.5
"""How long a connection that was refused goes on discarding what the client sends."""
FRESH_S = 1.0
"""How long a connection that has not sent anything yet is spared when its server drains."""
PROBE_S = 1.0
"""Between two probes of a client that has half-closed, or closed: only writing tells which."""


class Lifetime(asyncio.Protocol):
    """The half of `HttpConnection` that knows its end. The other half has what is received and answered until then.

    Deadlines are the server's business: it calls `sweep` now and then, and nothing here keeps time.
    """

    __slots__ = (
        "_blocks",
        "_closing",
        "_current",
        "_eof",
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
    )

    _transport: asyncio.Transport

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._reader = RequestReader(server.app.new_request, server.limits)
        self._current: HttpRequest | None = None
        self._outgoing: OutgoingBody | None = None  # of the current request's answer, once it has begun in pieces
        self._unfed: bytes | memoryview = b""  # received while too many requests were waiting, or too much of a body
        self._paused = False
        self._writable = True
        self._eof = False
        self._closing = False
        self._lingering = False
        # What the last sweep saw, and when that began.
        self._seen: object = None
        self._since = 0.0
        self._blocks = 0

    @property
    def socket(self) -> Any:
        """None: the connection is in memory."""
        return self._transport.get_extra_info("socket")

    def _settle(self) -> None:
        """See to whatever is due, now that the reader or the current request is in another state."""
        raise NotImplementedError

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

    def _abandon(self) -> None:
        """Nobody waits for the answer to the current request."""
        request, self._current, self._outgoing = self._current, None, None
        if request is not None:
            request.done = True
            if request.incoming is not None:
                request.incoming.discard()
            self._server.app.abandoned(request)

    def _refuse(self, fault: Fault) -> None:
        self._transport.write(render_fault(fault, self._server.endings.close))
        self._linger()

    def _end(self) -> None:
        """Nothing more will be answered."""
        reader = self._reader
        more = self._unfed or reader.ready or reader.phase is not Phase.BETWEEN or reader.tunnel is not None
        if more and not self._eof:
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
        """Close unless there is a request in hand, or one on its way in. A tunnel has no end of its own: its handler
        is told that the client's half is over, so that it may say goodbye.
        """
        if self._reader.tunnel is not None:
            self._reader.tunnel.end()
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
        if reader.tunnel is not None:
            return ("tunnel",)  # It may be silent for as long as its handler lets it.
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

"""The links that handles dial: their calls become exchanges, and the answers go back as frames.

No pickle is loaded here: arguments and results are opaque bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Set
from typing import Any, cast

from servekit.ingress.exchange import HandleExchange
from servekit.ingress.router import Router
from servekit.wire.data_frames import UNKNOWN, Answer, Credit, Invoke, Refusal
from servekit.wire.data_links import DataLinks
from servekit.wire.incoming_calls import IncomingCalls, IncomingLink
from servekit.wire.streams import Incoming, Outgoing

_log = logging.getLogger("servekit.ingress")


class Callers:
    """Every handle's link to this ingress worker."""

    def __init__(self, router: Router, links: DataLinks) -> None:
        self._router = router
        self.calls: IncomingCalls[CallerConnection] = IncomingCalls(self, links, Invoke)

    async def drain(self, timeout_s: float) -> None:
        """Wait until every call is answered, for ``timeout_s`` at most. Callers have been asked to go elsewhere."""
        if left := await self.calls.wait_answered(timeout_s):
            _log.warning("%d calls of handles are cut off: not answered within %g s", left, timeout_s)

    def ended(self, replica_ids: Set[str]) -> None:
        """The processes of these replicas have ended, and with them whoever waits for what their handles called."""
        for origin in list(self.calls.origins):
            if origin.link.peer_hello.decode(errors="replace") in replica_ids:
                origin.link.peer_ended()

    # -- CallsAnswerer -----------------------------------------------------------------------------------------------

    def called(self, origin: IncomingLink[CallerConnection], frame: Invoke) -> None:
        # While this worker drains, it takes what handlers call: such a call is part of a request that is to be
        # finished, and maybe there is no other worker.
        if self.calls.leaving and not frame.chain:
            origin.link.send(Refusal(frame.id, "draining"))
            return
        exchange = HandleExchange()
        call = origin.open[frame.id] = CallerConnection(self.calls, origin, frame, exchange)
        exchange.connection = call
        exchange.body = frame.body
        exchange.incoming = cast(Any, call.upload)
        exchange.call_method = frame.method
        exchange.chain = frame.chain
        self._router.handle_call(exchange, frame)

    def cancelled(self, call: CallerConnection) -> None:
        call.over()
        if not call.exchange.done:
            call.exchange.done = True
            call.exchange.abandoned()

    def calls_done(self) -> None: ...


class CallerConnection:
    """One call of a handle. To its exchange, it is the connection that the request came by."""

    __slots__ = ("_calls", "_number", "_origin", "download", "exchange", "upload")

    client = ""

    def __init__(
        self,
        calls: IncomingCalls[CallerConnection],
        origin: IncomingLink[CallerConnection],
        invoke: Invoke,
        exchange: HandleExchange,
    ) -> None:
        self._calls = calls
        self._origin = origin
        self._number = number = invoke.id
        self.exchange = exchange
        link = origin.link
        self.upload = Incoming(lambda size: link.send(Credit(number, size))) if invoke.more else None
        """The part of the arguments that follows the `Invoke`."""
        self.download: Outgoing | None = None

    def over(self) -> None:
        """Nothing more will be sent for the call."""
        self._origin.open.pop(self._number, None)
        if self._calls.leaving:
            self._calls.check()

    # -- RequestConnection -------------------------------------------------------------------------------------------

    def answer(self, request: object, status: int, head: bytes, body: bytes) -> None:
        self._origin.link.send(Answer(self._number, status, head, body, 0, 0))
        self.over()

    def begin_answer(self, request: object, status: int, head: bytes, length: int | None) -> None:
        rest = UNKNOWN if length is None else length
        self._origin.link.send(Answer(self._number, status, head, b"", 0, 0, False, rest, True))
        self.download = Outgoing(self._origin.link, self._number)
        self.download.wake = self._writable

    def write_answer(self, data: bytes) -> bool:
        assert self.download is not None
        return not data or self.download.write(data)

    def end_answer(self, request: object, complete: bool) -> None:
        assert self.download is not None
        self.download.end(complete=complete)
        self.over()

    def body_taken(self) -> None:
        """Nothing: `Incoming` grants credit by itself, as it is read."""

    def _writable(self) -> None:
        if not self.exchange.done:
            self.exchange.writable()

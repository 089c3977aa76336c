"""The links that handles dial: their calls become exchanges, and what becomes of those goes back as frames.

No pickle is loaded here: arguments and results are opaque bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set
from typing import TYPE_CHECKING, Any, cast

from servekit.http1.body import IncomingBody
from servekit.ingress.exchange import HandleExchange
from servekit.wire.credit import Debt
from servekit.wire.data_frames import (
    BODY_WINDOW_BYTES,
    DATA_FRAME_BYTES,
    UNKNOWN,
    Answer,
    Bye,
    Cancel,
    Chunk,
    Credit,
    End,
    Invoke,
    Refusal,
    data_codec,
)
from servekit.wire.handshake import Handshake
from servekit.wire.link import Link, finish_all
from servekit.wire.polling import BusyPoll

if TYPE_CHECKING:
    from servekit.http1.connection import HttpConnection
    from servekit.ingress.router import Router

_log = logging.getLogger("servekit.ingress")


class Callers:
    """Every handle's link to this ingress worker."""

    def __init__(self, router: Router, token: bytes, worker_id: str, polling: BusyPoll) -> None:
        self.router = router
        self._token = token
        self._hello = worker_id.encode()
        self._polling = polling
        self._codec = data_codec()
        self._links: set[CallerLink] = set()
        self._idle = asyncio.Event()
        self.leaving = False
        self.over = False
        """No call is begun any more."""

    def new_link(self) -> Link:
        handshake = Handshake(self._token, self._hello, dialing=False)
        owner = CallerLink(self)
        return Link(owner, self._codec, handshake, max_frame_bytes=DATA_FRAME_BYTES, polling=self._polling)

    def leave(self) -> None:
        """Ask callers to go elsewhere. What a handler calls meanwhile is taken all the same: it is part of a request
        that is to be finished, and maybe there is nowhere else."""
        self.leaving = True
        for link in self._links:
            link.say_bye()

    async def drain(self, timeout_s: float) -> None:
        """After `leave`: until every call is answered, for ``timeout_s`` at most."""
        ends = asyncio.get_running_loop().time() + timeout_s
        while calls := sum(len(link.calls) for link in self._links):
            self._idle.clear()
            left_s = ends - asyncio.get_running_loop().time()
            try:
                await asyncio.wait_for(self._idle.wait(), max(0.0, left_s))
            except asyncio.TimeoutError:
                _log.warning("%d calls of handles are cut off: not answered within %g s", calls, timeout_s)
                break

    async def finish(self) -> None:
        """Close the links, behind the last answers. Where one is missing the link is cut, for its call was begun."""
        self.over = True
        for caller in list(self._links):
            caller.finish()
        await finish_all([caller.link for caller in self._links])

    def ended(self, replica_ids: Set[str]) -> None:
        """The processes of these replicas have ended, and with them who waits for what their handles called."""
        for caller in list(self._links):
            if caller.link.peer_hello.decode(errors="replace") in replica_ids:
                caller.link.peer_ended()

    def close(self) -> None:
        """Cut what is left."""
        for link in list(self._links):
            link.abort()

    # -- by the links -----------------------------------------------------------------------------------------

    def opened(self, link: CallerLink) -> None:
        self._links.add(link)
        if self.over:
            link.finish()
        elif self.leaving:
            link.say_bye()

    def lost(self, link: CallerLink) -> None:
        self._links.discard(link)
        self._idle.set()

    def call_over(self) -> None:
        self._idle.set()


class CallerLink:
    """One link, and the calls that came by it. It is the `LinkOwner`."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self.link: Link
        self.calls: dict[int, CallerConnection] = {}

    def say_bye(self) -> None:
        self.link.send(Bye())

    def finish(self) -> None:
        if self.calls:
            self.link.abort()
        else:
            self.link.send(Bye(last=True))

    def abort(self) -> None:
        self.link.abort()

    def call_over(self, number: int) -> None:
        self.calls.pop(number, None)
        if self._callers.leaving:
            self._callers.call_over()

    # -- LinkOwner --------------------------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        self.link = link
        self._callers.opened(self)

    def frame_received(self, link: Link, frame: Any) -> None:
        kind = type(frame)
        if kind is Invoke:
            self._invoked(link, frame)
            return
        call = self.calls.get(getattr(frame, "id", -1))
        if call is None:
            return  # Answered meanwhile.
        if kind is Credit:
            call.grant(frame.size_bytes)
        elif kind is Chunk:
            call.feed(frame.data)
        elif kind is End and frame.complete:
            call.fed()
        elif kind is Cancel or kind is End:
            call.abandon()

    def frames_done(self, link: Link) -> None: ...

    def link_writable(self, link: Link) -> None: ...

    def link_lost(self, link: Link, error: Exception | None) -> None:
        for call in list(self.calls.values()):
            call.abandon()
        self._callers.lost(self)

    def _invoked(self, link: Link, invoke: Invoke) -> None:
        if self._callers.over:
            return  # Its caller has yet to read that no call is begun any more, and will look elsewhere.
        if self._callers.leaving and not invoke.chain:
            link.send(Refusal(invoke.id, "draining"))
            return
        exchange = HandleExchange()
        call = self.calls[invoke.id] = CallerConnection(self, link, invoke.id, self._callers.router, exchange)
        exchange.connection = cast("HttpConnection", call)
        exchange.body = invoke.body
        exchange.incoming = call.incoming = IncomingBody() if invoke.more else None
        exchange.call_method = invoke.method
        exchange.chain = invoke.chain
        exchange.own_timeout_s = None if invoke.timeout_ms is None else invoke.timeout_ms / 1000
        exchange.limit_s = None if invoke.limit_ms is None else invoke.limit_ms / 1000
        self._callers.router.handle_call(exchange, invoke.endpoint, invoke.request_id.encode(errors="replace"))


class CallerConnection:
    """One call of a handle. To the router, and its exchange, it is the connection that the request came by."""

    __slots__ = ("_credit", "_debt", "_exchange", "_link", "_number", "_owner", "_router", "_untaken", "incoming")

    client = ""

    def __init__(self, owner: CallerLink, link: Link, number: int, router: Router, exchange: HandleExchange) -> None:
        self._owner = owner
        self._link = link
        self._number = number
        self._router = router
        self._exchange = exchange
        self.incoming: IncomingBody | None = None
        """The part of the arguments that follows the `Invoke`."""
        self._untaken = 0
        self._debt = Debt()
        self._credit = BODY_WINDOW_BYTES

    # -- from the caller --------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        if self.incoming is not None:
            self._untaken += len(data)
            self.incoming.receive(data)
            if self.incoming.size > 2 * BODY_WINDOW_BYTES:
                _log.warning("a handle's link is cut: its peer sends more than it has credit for")
                self._link.abort()
            elif self.incoming.unwanted:
                self.body_taken()

    def fed(self) -> None:
        if self.incoming is not None:
            self.incoming.end()

    def grant(self, size_bytes: int) -> None:
        waited = self._credit <= 0
        self._credit += size_bytes
        if waited and self._credit > 0 and not self._exchange.done:
            self._router.writable(self._exchange)

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        self._owner.call_over(self._number)
        exchange = self._exchange
        if not exchange.done:
            exchange.done = True
            self._router.abandoned(exchange)

    # -- what the router and the exchange call ----------------------------------------------------------------

    def answer(self, request: object, status: int, head: bytes, body: bytes, close: bool) -> None:
        self._link.send(Answer(self._number, status, head, body, 0, 0))
        self._owner.call_over(self._number)

    def begin_answer(self, request: object, status: int, head: bytes, length: int | None) -> None:
        rest = UNKNOWN if length is None else length
        self._link.send(Answer(self._number, status, head, b"", 0, 0, False, rest, True))

    def write_answer(self, data: bytes) -> bool:
        if data:
            self._credit -= len(data)
            self._link.send(Chunk(self._number, data))
        return self._credit > 0

    def end_answer(self, request: object, complete: bool) -> None:
        self._link.send(End(self._number, complete))
        self._owner.call_over(self._number)

    def body_taken(self) -> None:
        """Something of the arguments went on its way: so much more may come."""
        assert self.incoming is not None
        taken, self._untaken = self._untaken - self.incoming.size, self.incoming.size
        if owed := self._debt.taken(taken):
            self._link.send(Credit(self._number, owed))

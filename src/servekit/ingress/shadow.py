"""The shadow of an endpoint: copies of some of its requests go to another backend, once the live answers are sent.

A copy is a request of its own, which no client waits for. So all that may become of the copy ends here: in a count, and
maybe in a pair of answers for the controller, which compares them. Where there is no room for a copy, it is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections import Counter, deque
from collections.abc import Mapping
from time import monotonic

from servekit.config import SAFE_METHODS
from servekit.error_answers import ErrorAnswer
from servekit.http1.request import HttpRequest, RequestConnection
from servekit.ingress.backend import Backend
from servekit.ingress.copy_room import free_for_copies
from servekit.ingress.endpoint import Endpoint
from servekit.ingress.exchange import Exchange
from servekit.ingress.no_connection import NoConnection
from servekit.ingress.shared import Shared
from servekit.interfaces import Outcome, Request
from servekit.tallies import COUNT
from servekit.wire.control_frames import ShadowAnswer, ShadowEntry, ShadowPair
from servekit.wire.data_frames import Answer

_log = logging.getLogger("servekit.ingress")

HEADER = b"x-servekit-shadow"
MOST_BODY_BYTES = 64 * 1024
"""Of a request that is copied, and of an answer that is compared."""
MOST_WAITING = 64
"""Copies of one endpoint's requests that wait; what is beyond is dropped."""
MOST_IN_FLIGHT = 8
"""Copies that a backend has at a time, of one ingress worker: with those that were given up, whose handlers still
run."""
MOST_BESIDE_LIVE = 1
"""Likewise, where the backend has live requests to answer: and only in a slot that none of those has, with one left for
the next, unless there is one slot in all."""
PAIR_BYTES = 8 * 1024
"""A pair counts as so many bytes beside those of its answers, in the following two."""
PAIRS_BYTES_S = 1024 * 1024
"""What goes to the controller in a second."""
MOST_PAIRS_BYTES = 4 * 1024 * 1024
"""What may go at once, after a while in which less did."""
SETTLED = ("", "handler_failed")
"""The errors of live answers that are a version's own: the others say nothing of it."""

_NO_CONNECTION = NoConnection()
_content_type = re.compile(rb"(?im)^content-type: *([^\r\n]{0,200})").search


class LiveTap:
    """Stands between a live request and its connection, and has the shadow see the answer once it was sent."""

    __slots__ = ("_connection", "_shadow", "client")

    def __init__(self, connection: RequestConnection, shadow: Shadow) -> None:
        self._connection = connection
        self._shadow = shadow
        self.client = connection.client

    def answer(self, request: HttpRequest, status: int, head: bytes, body: bytes) -> None:
        request.connection = self._connection
        self._connection.answer(request, status, head, body)
        assert isinstance(request, Exchange)
        self._shadow.live_answered(request, ShadowAnswer(status, content_type_of(head), body))

    def begin_answer(self, request: HttpRequest, status: int, head: bytes, length: int | None) -> None:
        """The answer comes in pieces, as long ones do: of those there are no copies."""
        request.connection = self._connection
        self._connection.begin_answer(request, status, head, length)
        self._shadow.drop("in_pieces")

    def write_answer(self, data: bytes) -> bool:
        return self._connection.write_answer(data)

    def end_answer(self, request: HttpRequest, complete: bool) -> None:
        self._connection.end_answer(request, complete)

    def body_taken(self) -> None:
        self._connection.body_taken()


class ShadowExchange(Exchange):
    """A copy of a request. It is in no count, log or record of requests, nobody is suspected for its sake, and it is
    sent once."""

    __slots__ = ("holds_slot", "live", "repeat", "scheme", "shadow", "told_client")

    counts = False
    holds_slot: bool
    """A replica has it, and has not said that it is over."""
    live: ShadowAnswer
    repeat: bool
    """It goes to the version that has given the live answer."""
    shadow: Shadow
    scheme: str  # type: ignore[misc]  # a slot here, as the next
    told_client: str
    """The address of the live request's client."""

    def __init__(self, of: Exchange, shadow: Shadow, backend: str, live: ShadowAnswer, *, repeat: bool) -> None:
        self.shadow, self.live, self.repeat, self.backend = shadow, live, repeat, backend
        self.method, self.path, self.query, self.version = of.method, of.path, of.query, of.version
        self.sent_target, self.body, self.view_args, self.call_method = (
            of.sent_target,
            of.body,
            of.view_args,
            of.call_method,
        )
        self.raw_headers = [each for each in of.raw_headers if each[0] != HEADER] + [(HEADER, b"1")]
        self.fields = {**of.fields, HEADER: b"1"}
        self.id = f"{of.id}~{'repeat' if repeat else 'shadow'}"
        self.scheme, self.told_client = of.scheme, of.client
        self.connection, self.incoming, self.upgrade = _NO_CONNECTION, None, False
        self.keep_alive, self.done, self.holds_slot, self.received_at = False, False, False, monotonic()
        self.owner, self.shared, self.timeout_s = shadow, shadow.shared, shadow.entry.timeout_s
        self.replica = self.queue = self.steps = self.body_rest = None
        self.upload = self.download = self.answer_rest = None
        self.tries = self.deaths = self.ahead = self.queued = self.batch_size = self.snapshot = 0
        self.expires = self.sent_at = self.began_at = 0.0
        self.digest, self.unusual, self.service_us = b"", True, -1
        self.trace, self.parent, self.error = of.trace, of.parent, ""

    def request(self) -> Request:
        request = super().request()
        request.client, request.scheme, request.shadow = self.told_client, self.scheme, True
        return request

    # -- its replica has it no more: each comes to `Shadow.left`, also where it has ended long before ---------------

    def answered(self, answer: Answer) -> None:
        super().answered(answer)
        self.shadow.left(self)

    def ended(self, *, complete: bool) -> None:
        self.shadow.left(self)

    def refused(self, reason: str) -> None:
        super().refused(reason)
        self.shadow.left(self)

    def lost(self, *, sent: bool) -> None:
        super().lost(sent=sent)
        self.shadow.left(self)

    # -- how it ends: each comes to `Shadow.over` once -------------------------------------------------------------

    def finish(self, status: int, head: bytes, body: bytes) -> None:
        if not self.done:
            self._end("answered")
            self.shadow.answered(self, ShadowAnswer(status, content_type_of(head), body))

    def begun(self, answer: Answer) -> None:
        """The live answer was whole, and this one comes in pieces."""
        assert self.download is not None
        if not self.done:
            self.shadow.give_up(self)
            self._end("failed")
            assert self.replica is not None
            self.replica.calls.cancel(self)
        self.download.discard()

    def refuse(self, error: ErrorAnswer) -> None:
        """Its deadline has passed, in the replica or here."""
        if not self.done:
            self.shadow.give_up(self)
            self._end("late")

    def suspect(self) -> None:
        """A copy is no evidence against live requests that are like it."""

    def _again(self, *, sent: bool) -> None:
        self._end("failed")

    def _end(self, what: str) -> None:
        self.done = True
        self.shared.deadlines.open.discard(self)
        self.shadow.over(self, what)


class Shadow:
    """The shadow of one endpoint in one ingress worker. It is the `ExchangeOwner` of the copies."""

    watches = picks_replica = False
    judged = None
    slow_s = math.inf

    def __init__(self, endpoint: Endpoint, entry: ShadowEntry, backends: Mapping[str, Backend], shared: Shared) -> None:
        """From now on the endpoint's requests come by here, until `stop`. ``backends``: all that there are, which may
        change."""
        self.name, self.route_text, self.mount = endpoint.name, endpoint.route_text, endpoint.mount
        self.policy = endpoint.policy
        self.entry = entry
        self.shared = shared
        self._endpoint = endpoint
        self._backends = backends
        self._dispatch = endpoint.dispatch
        self._seen = self._copied = 0
        self._waiting: deque[ShadowExchange] = deque()
        self._in_flight: Counter[str] = Counter()
        """Its copies at replicas, by backend: the end of one is what others wait for."""
        self._planned = self._stopped = self._warned = False
        self._room_bytes, self._looked_at = float(MOST_PAIRS_BYTES), monotonic()
        # In the place of the method: an endpoint without a shadow has no step more.
        vars(endpoint)["dispatch"] = self.dispatch

    def stop(self) -> None:
        """Copy no more; what waits is forgotten. Copies that were sent end by themselves, and nobody hears of them."""
        self._stopped = True
        self._waiting.clear()
        vars(self._endpoint).pop("dispatch", None)

    # -- live requests ---------------------------------------------------------------------------------------------

    def dispatch(self, exchange: Exchange) -> None:
        """Dispatch a live request, as the endpoint does; see its answer, if it is to be copied."""
        if not exchange.snapshot and self._is_due(exchange):  # Else it is dispatched again.
            exchange.connection = LiveTap(exchange.connection, self)
        self._dispatch(exchange)

    def _is_due(self, exchange: Exchange) -> bool:
        entry = self.entry
        if exchange.chain is not None or exchange.upgrade:
            return False
        if exchange.method not in SAFE_METHODS and not entry.include_unsafe:
            self.drop("unsafe_method")
            return False
        before, self._seen = self._seen, self._seen + 1
        if not _is_nth(before, entry.share):
            return False
        if exchange.incoming is not None or len(exchange.body) > MOST_BODY_BYTES:
            self.drop("long_body")
            return False
        return True

    def live_answered(self, exchange: Exchange, live: ShadowAnswer) -> None:
        """The answer to a request that is to be copied was sent. Never raises: no live request is to fail for that."""
        try:
            if not self._stopped:
                self._copy(exchange, live)
        except Exception:
            self.drop("error")
            if not self._warned:
                self._warned = True
                _log.exception("endpoint %s: a request could not be copied", self.name, extra=exchange.log_fields())

    def _copy(self, exchange: Exchange, live: ShadowAnswer) -> None:
        entry = self.entry
        if exchange.backend == entry.backend:
            return  # That version has answered it already.
        if exchange.error not in SETTLED:
            self.drop("not_answered")
        elif entry.compare not in ("", "status") and len(live.body) > MOST_BODY_BYTES:
            self.drop("long_answer")
        else:
            if entry.compare in ("", "status"):
                live = ShadowAnswer(live.status)
            before, self._copied = self._copied, self._copied + 1
            self._put(ShadowExchange(exchange, self, entry.backend, live, repeat=False))
            if entry.compare and _is_nth(before, entry.noise):
                self._put(ShadowExchange(exchange, self, exchange.backend, live, repeat=True))

    # -- copies ------------------------------------------------------------------------------------------------------

    def _put(self, copy: ShadowExchange) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self.drop("queue_full", copy.backend)
            return
        self._waiting.append(copy)
        self._plan()

    def _plan(self) -> None:
        """What waits goes in another turn of the loop: behind live answers, and what they have others do."""
        if not self._planned and self._waiting:
            self._planned = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._planned = False
        while self._waiting and self._send(self._waiting[0]):
            self._waiting.popleft()

    def _send(self, copy: ShadowExchange) -> bool:
        """Send a copy, or drop it. False: it is to wait for the end of another one."""
        backend = self._backends.get(copy.backend)
        if backend is None or not backend.ready:
            self.drop("no_replica", copy.backend)
            return True
        if copy.call_method is not None and copy.call_method not in backend.config.callable_methods:
            self.drop("not_callable", copy.backend)
            return True
        if backend.endpoints and self.shared.copy_pauses.is_on(copy.backend):
            self.drop("after_late", copy.backend)
            return True
        free, copies = free_for_copies(backend), self.shared.copies
        if not free or copies[copy.backend] >= (MOST_BESIDE_LIVE if backend.endpoints else MOST_IN_FLIGHT):
            if self._in_flight[copy.backend] and not copy.repeat:
                return False
            self.drop("no_room", copy.backend)
            return True
        copy.expires = expires = self.shared.now() + copy.timeout_s
        deadlines = self.shared.deadlines
        deadlines.open.add(copy)
        if expires < deadlines.earliest:
            deadlines.plan(expires)
        self._in_flight[copy.backend] += 1
        copies[copy.backend] += 1
        copy.holds_slot = True
        self._count("sent", copy.backend)
        min(free, key=lambda replica: replica.outstanding).send(copy)
        return True

    def over(self, copy: ShadowExchange, what: str) -> None:
        """A copy that was sent has ended so: ``answered``, ``failed`` or ``late``."""
        self._in_flight[copy.backend] -= 1
        self._count(what, copy.backend)
        self._plan()

    def give_up(self, copy: ShadowExchange) -> None:
        """A copy is to end though its handler may run yet: a backend that has live requests is spared others."""
        backend = self._backends.get(copy.backend)
        if backend is not None and backend.endpoints:
            self.shared.copy_pauses.begin(copy.backend)

    def left(self, copy: ShadowExchange) -> None:
        """Its replica has a copy no more."""
        if copy.holds_slot:
            copy.holds_slot = False
            self.shared.copies[copy.backend] -= 1
            self._plan()

    def answered(self, copy: ShadowExchange, answer: ShadowAnswer) -> None:
        """Have the two answers compared."""
        self.shared.copy_pauses.end(copy.backend)
        compare, live = self.entry.compare, copy.live
        if self._stopped or not compare:
            return
        if compare == "status":
            answer = ShadowAnswer(answer.status)
        elif len(answer.body) > MOST_BODY_BYTES:
            self.drop("long_answer", copy.backend)
            return
        if same := (live.status, live.body) == (answer.status, answer.body):
            live = answer = ShadowAnswer(answer.status)
        request_id = copy.id.rpartition("~")[0]
        pair = ShadowPair(self.name, self.entry.number, copy.repeat, request_id, same, live, answer)
        if not self._has_room_for(PAIR_BYTES + len(live.body) + len(answer.body)):
            self.drop("too_many_pairs", copy.backend)
        elif not self.shared.tell_controller(pair):
            self.drop("no_controller", copy.backend)

    def _has_room_for(self, size: int) -> bool:
        now = monotonic()
        room = min(MOST_PAIRS_BYTES, self._room_bytes + (now - self._looked_at) * PAIRS_BYTES_S)
        self._looked_at = now
        self._room_bytes = room - size if room >= size else room
        return room >= size

    def drop(self, why: str, backend: str | None = None) -> None:
        """Count a request that was not copied, or a copy that was not compared."""
        self._count(f"dropped_{why}", self.entry.backend if backend is None else backend)

    def _count(self, what: str, backend: str) -> None:
        self.shared.tallies.add(("shadow", self.name, backend, what))[COUNT] += 1

    # -- ExchangeOwner ---------------------------------------------------------------------------------------------

    def refuse_cycle(self, exchange: Exchange) -> None:
        """No copy has a chain."""

    def tell_policy(self, exchange: Exchange, outcome: Outcome) -> None:
        """No policy chooses for copies."""


def _is_nth(before: int, share: float) -> bool:
    """Whether the next of so many ``before`` is one of those that make up ``share``: after n, it is n·share of them,
    rounded down."""
    return _whole((before + 1) * share) > _whole(before * share)


def _whole(number: float) -> int:
    return math.floor(number + 1e-9)  # 3 · 0.1 · 10 is not quite 3.


def content_type_of(head: bytes) -> str:
    """Of an answer's header lines."""
    found = _content_type(head)
    return found[1].decode("latin-1") if found else ""

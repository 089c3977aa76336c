"""One request on its way through an ingress worker, and everything that becomes of it."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

from servekit.errors import LinkError
from servekit.http1.request import HttpRequest
from servekit.ingress import refusals
from servekit.ingress.bodies import Download, Upload, WholeUpload
from servekit.ingress.refusals import Refused
from servekit.interfaces import Outcome, Request, RequestRecord
from servekit.wire.data_frames import UNKNOWN, Answer
from servekit.wire.frames import extended
from servekit.wire.streams import Incoming, Outgoing

if TYPE_CHECKING:
    from servekit.ingress.backend import TrafficTarget
    from servekit.ingress.endpoint import Endpoint
    from servekit.ingress.replica import Replica
    from servekit.ingress.router import Router

_log = logging.getLogger("servekit.ingress")

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""RFC 9110, 9.2.2: these may be sent once more when a replica dies with them."""
_MOST_TRIES = 2


class Exchange(HttpRequest):
    """A request with what routing knows of it. It is the `RequestInfo` that policies are handed, and the `OutgoingCall`
    of the replica's link."""

    __slots__ = (
        "answer_rest",
        "body_rest",
        "call_method",
        "download",
        "expires",
        "handler_over",
        "id",
        "number",
        "owner",
        "queue",
        "replica",
        "router",
        "target",
        "tries",
        "upload",
        "view_args",
    )

    chain: ClassVar[tuple[str, ...] | None] = None
    """Of a handle's call, the replicas whose handlers wait for it, outermost first. See `HandleExchange`."""
    router: Router
    id: str
    owner: Endpoint
    view_args: dict[str, Any] | None
    call_method: str | None
    expires: float
    """The deadline, in the loop's time."""
    target: TrafficTarget | None
    """The chosen backend."""
    replica: Replica | None
    """Where its call is, or was last."""
    number: int
    """The id of that call."""
    handler_over: bool
    """Its handler has ended, though the rest of the answer may still be to come."""
    tries: int
    """How often its call was sent."""
    queue: OrderedDict[Exchange, None] | None
    """Where it waits, while no replica has room."""
    body_rest: Upload | WholeUpload | None
    """The rest of its body, when that is long."""
    upload: Outgoing | None
    """That, on its way to the replica."""
    answer_rest: Download | None
    """The rest of its answer's body, once that has begun in pieces."""
    download: Incoming | None
    """That, as it comes from the replica."""

    @property
    def timeout_s(self) -> float:
        """How long it may take."""
        return self.owner.timeout_s

    @property
    def endpoint(self) -> str:
        return self.owner.name

    @property
    def headers(self) -> Mapping[str, str]:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.raw_headers}

    def request(self) -> Request:
        """What a replica is sent."""
        owner = self.owner
        view_args = self.view_args
        if view_args:
            view_args = {key: extended(value) for key, value in view_args.items()}
        request = Request(
            self.method,
            self.path,
            self.query,
            self.raw_headers,
            self.body,
            owner.name,
            owner.route_text,
            self.id,
            self.connection.client,
            view_args,
            self.call_method,
            owner.mount,
        )
        if self.sent_target is not None:
            request.sent_target = self.sent_target
        return request

    def take_in(self) -> bool:
        """Have it dispatched once its body is all here, so that whoever sends slowly holds neither slot nor window nor
        queue. False: that is so, or it is no body that would end."""
        rest = self.body_rest
        if not isinstance(rest, Upload) or self.upgrade:
            return False
        assert self.incoming is not None
        whole = self.body_rest = WholeUpload(self.incoming, self.connection, self.router.spools)
        whole.take_in(rest.kept, lambda: self.router.dispatcher.dispatch(self), self._has_no_room)
        return True

    def _has_no_room(self) -> None:
        if self.answer_rest is not None:
            self.cut()
            return
        self._give_up(Outcome.ABANDONED)
        self.refuse(refusals.no_room_for_body())

    # -- from its replica ------------------------------------------------------------------------------------------

    def answered(self, answer: Answer) -> None:
        """The replica has answered."""
        if not self.done:
            self.finish(answer.status, answer.head, answer.body)
            if self.owner.watches:
                self.tell_policy(Outcome.FAILED if answer.failed else Outcome.ANSWERED)

    def begun(self, answer: Answer) -> None:
        """The replica has begun an answer whose body follows in pieces. From here on there is no deadline."""
        assert self.download is not None
        if self.done:
            self.download.discard()
            return
        self.router.deadlines.open.discard(self)
        if self.body_rest is not None:
            self.body_rest.release()
        length = None if answer.rest == UNKNOWN else len(answer.body) + answer.rest
        self.begin(answer.status, self._head(answer.head), length)
        # A WebSocket holds its replica as long as it lives; a handle asks for no more than it has room for.
        spools = None if answer.status == 101 or self.chain is not None else self.router.spools
        self.answer_rest = Download(self, answer.status, self.download, spools)

    def ended(self, *, complete: bool) -> None:
        """No more of an answer in pieces will come."""
        if not self.done and self.download is not None:
            self._over(Outcome.ANSWERED if complete else Outcome.FAILED)

    def _over(self, outcome: Outcome) -> None:
        """Nothing more will come from the replica; the client may have some to take yet."""
        assert self.download is not None
        self.tell_policy(outcome)
        self.download.end(None if outcome is Outcome.ANSWERED else LinkError("the answer was broken off"))
        if self.body_rest is not None and not self.done:
            self.body_rest.stop()
            self.connection.body_taken()

    def refused(self, reason: str) -> None:
        """The replica did not begin its call."""
        if self.done:
            return
        if reason == "draining":
            self._again(sent=False)
        else:
            self.tell_policy(Outcome.TIMED_OUT)
            self.refuse(refusals.too_late(self.owner.name, self.timeout_s))

    def lost(self, *, sent: bool) -> None:
        """The replica died with its call: once more, where the method allows it or nothing was sent."""
        if self.done:
            return
        if self.download is None:
            self._again(sent=sent)
        else:
            self._over(Outcome.LOST)

    def _again(self, *, sent: bool) -> None:
        self.tell_policy(Outcome.LOST)
        self.replica = None
        if not sent:
            self.tries -= 1
        kept = self.body_rest is None or self.body_rest.can_start_again
        if kept and (not sent or (self.method in IDEMPOTENT and self.tries < _MOST_TRIES)):
            self.router.dispatcher.dispatch(self)
        else:
            self.refuse(refusals.replica_died(self.target.name if self.target is not None else ""))

    # -- how it ends: every request comes to `_settle` once --------------------------------------------------------

    def refuse(self, answer: Refused) -> None:
        """End it with an answer of the ingress's own."""
        self.finish(*answer)

    def finish(self, status: int, head: bytes, body: bytes) -> None:
        """End it with a whole answer."""
        self._settle(status)
        if not self.done:
            self.done = True
            self.connection.answer(self, status, self._head(head), body, False)

    def delivered(self, *, complete: bool) -> None:
        """All that there is of an answer in pieces has been written to the client."""
        assert self.answer_rest is not None
        self._settle(self.answer_rest.status)
        self.end(complete=complete)

    def cut(self) -> None:
        """The client is not to get the rest of an answer in pieces."""
        self._give_up(Outcome.ABANDONED)
        self.delivered(complete=False)

    def expired(self) -> None:
        """Its deadline has passed."""
        if not self.done:
            self._give_up(Outcome.TIMED_OUT)
            self.refuse(refusals.too_late(self.owner.name, self.timeout_s))

    def abandoned(self) -> None:
        """Its client went away."""
        self._give_up(Outcome.ABANDONED)
        self._settle(499)

    def _give_up(self, outcome: Outcome) -> None:
        """Nobody waits any more for what a replica has yet to do for it."""
        self.router.dispatcher.unqueue(self)
        if self.replica is not None and (self.download is None or not self.download.ended):
            self.replica.cancel(self)
            self.tell_policy(outcome)

    def _settle(self, status: int) -> None:
        """Count it, and wait for it no longer."""
        router, target = self.router, self.target
        router.deadlines.open.discard(self)
        if self.body_rest is not None:
            self.body_rest.stop()
        if self.answer_rest is not None:
            self.answer_rest.stop()
        # Not the loop's time, which stands still within a turn and would make quick answers end before they began.
        latency_s = monotonic() - self.received_at
        endpoint, backend = self.owner.name, "" if target is None else target.name
        count = router.counters.finished[endpoint, backend, status]
        count.requests += 1
        count.latency_s += latency_s
        if router.observe is not None:
            replica = "" if self.replica is None else self.replica.id
            router.observe(
                RequestRecord(self.id, endpoint, backend, replica, self.method, self.path, status, latency_s)
            )

    def tell_policy(self, outcome: Outcome) -> None:
        """What a policy did for an endpoint that is gone, it is not told."""
        owner = self.owner
        if not owner.watches or self.router.endpoints.get(owner.name) is not owner:
            return
        assert self.replica is not None
        try:
            owner.policy.request_finished(self, self.replica, outcome)
        except Exception:
            _log.exception("the routing policy of endpoint %r failed in request_finished", owner.name)

    def _head(self, head: bytes) -> bytes:
        """An answer's header lines, with the request's id before them."""
        return b"x-request-id: %b\r\n%b" % (self.id.encode("ascii"), head)


class HandleExchange(Exchange):
    """A handle's call: routed as a request, and sent to a replica with pickled arguments for a body."""

    __slots__ = ("chain", "limit_s", "own_timeout_s")

    chain: tuple[str, ...]  # type: ignore[misc]  # a slot here, so that a request over HTTP need not have one
    own_timeout_s: float | None
    """None: the endpoint's."""
    limit_s: float | None
    """What remains to the handler that calls."""

    def dress(self) -> None:
        """Fill in what a request over HTTP has, for policies, observers and adapters. ``id`` is set."""
        self.method, self.query, self.version = "POST", b"", "1.1"
        self.sent_target = None
        self.raw_headers = [(b"x-request-id", self.id.encode())]
        self.fields = dict(self.raw_headers)
        self.view_args = None
        self.upgrade, self.keep_alive, self.done, self.received_at = False, True, False, monotonic()

    @property
    def timeout_s(self) -> float:
        timeout_s = self.owner.timeout_s if self.own_timeout_s is None else self.own_timeout_s
        return timeout_s if self.limit_s is None else min(timeout_s, self.limit_s)

    def request(self) -> Request:
        request = super().request()
        request.chain = self.chain
        return request

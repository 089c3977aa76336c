"""One request on its way through an ingress worker, and everything that may become of the request."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, ClassVar, Protocol, TypeVar

from servekit.error_answers import ErrorAnswer
from servekit.errors import LinkError
from servekit.http1.request import HttpRequest
from servekit.ingress import refusals
from servekit.ingress.bodies import Download, Upload, WholeUpload
from servekit.ingress.recent import PACKED, PACKED_BYTES
from servekit.ingress.shared import Shared
from servekit.ingress.steps import note, steps_of
from servekit.ingress.suspects import REFUSED_S
from servekit.interfaces import Outcome, ReplicaView, Request, RequestRecord, RequestStep, RoutingPolicy
from servekit.tallies import (
    BOUNDS,
    BYTES_IN,
    BYTES_OUT,
    FAILOVERS,
    FINE_BOUNDS,
    FIRST_BYTE,
    HANDLER,
    INGRESS_WAIT,
    QUICK_SLOT,
    QUICK_US,
    REPLICA_WAIT,
    RESENDS,
    count_time,
)
from servekit.traces import pass_on, trace_id_of
from servekit.wire.data_frames import UNKNOWN, Answer
from servekit.wire.frames import extended
from servekit.wire.outgoing_calls import OutgoingCalls
from servekit.wire.streams import Incoming, Outgoing

_log = logging.getLogger("servekit.ingress")

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""RFC 9110, 9.2.2: these may be sent once more when a replica dies with them."""
_MOST_TRIES = 2
_HEAD = b"x-request-id: %b\r\n%b"
"""An answer's header lines, with the request's id before them."""

_pack = PACKED.pack_into

T = TypeVar("T")


class VersionCounter(Protocol):
    """The `JudgedPolicy` of an endpoint, as an exchange uses it."""

    def ended(self, exchange: Exchange, status: int, latency_s: float) -> None:
        """Count a request that has ended."""


class ExchangeOwner(Protocol):
    """The `Endpoint` of an exchange, as the exchange uses it."""

    name: str
    route_text: str
    mount: bool
    picks_replica: bool
    """The policy chooses the replica, too."""
    watches: bool
    """The policy is told how requests end."""
    policy: RoutingPolicy
    slow_s: float
    """Its requests that took longer than this are slow: see `servekit.ingress.slowness`."""

    @property
    def judged(self) -> VersionCounter | None:
        """None: no roll-out is judged."""

    def dispatch(self, exchange: Exchange) -> None:
        """Send a request to a replica, have it wait for one, or refuse it."""

    def refuse_cycle(self, exchange: Exchange) -> None:
        """All replicas of the chosen backend wait for this very call."""

    def tell_policy(self, exchange: Exchange, outcome: Outcome) -> None:
        """A request that a replica had has ended."""


class ExchangeReplica(ReplicaView, Protocol):
    """The `Replica` of an exchange, as the exchange uses it."""

    calls: OutgoingCalls[Exchange]


class Exchange(HttpRequest):
    """A request with all that routing knows of the request. It is the `RequestInfo` of policies, and the `OutgoingCall`
    of the replica's link.
    """

    __slots__ = (
        "ahead",
        "answer_rest",
        "backend",
        "batch_size",
        "began_at",
        "body_rest",
        "call_method",
        "deaths",
        "digest",
        "download",
        "error",
        "expires",
        "handler_over",
        "id",
        "number",
        "owner",
        "parent",
        "queue",
        "queued",
        "replica",
        "sent_at",
        "service_us",
        "shared",
        "snapshot",
        "steps",
        "timeout_s",
        "trace",
        "tries",
        "unusual",
        "upload",
        "view_args",
    )

    chain: ClassVar[tuple[str, ...] | None] = None
    """The replicas whose handlers wait for a handle's call, outermost first. See `HandleExchange`."""
    scheme: ClassVar[str] = "http"
    """See `ForwardedExchange`."""
    counts: ClassVar[bool] = True
    """What becomes of the request tells of its replica. See `ShadowExchange`."""
    shared: Shared
    id: str
    owner: ExchangeOwner
    """The endpoint."""
    view_args: dict[str, Any] | None
    call_method: str | None
    timeout_s: float
    """How long the request may take."""
    expires: float
    """The deadline, in the loop's time."""
    unusual: bool
    """It has a body in pieces, steps or a trace, was sent more than once, or is a handle's call: more is counted of it,
    and remembered."""
    backend: str
    """The name of the chosen backend; empty while none is chosen."""
    replica: ExchangeReplica | None
    """The replica that has the call, or had it last."""
    number: int
    """The id of the call at that replica."""
    handler_over: bool
    """The handler has ended, though the rest of the answer may still be to come."""
    tries: int
    """How often the call was sent."""
    sent_at: float
    """When the call was sent last, by ``time.monotonic``; 0: it was not."""
    ahead: int
    """How many calls the replica had of this ingress worker then."""
    began_at: float
    """When the answer began to come, where it comes in pieces; 0: it has not."""
    service_us: int
    """How long the handler ran; below 0: it has not ended."""
    batch_size: int
    """How many requests the handler was called for at a time; 0: it takes no batches."""
    trace: str
    """The ``traceparent`` that goes on; empty: the request belongs to no trace."""
    parent: str
    """The span id that the request came with; empty: none."""
    snapshot: int
    """The version of the snapshot by which a backend was chosen last; 0: none was."""
    steps: list[RequestStep] | None
    """What happened to the request on an unusual way; None: nothing so far. See `servekit.ingress.steps`."""
    error: str
    """The type of the error that the request ends with; empty: none so far."""
    deaths: int
    """Deaths of replicas that such a request was suspected of when this one was sent. See `Suspects`."""
    digest: bytes
    """Stands for the request among `Suspects`; empty where it is not known yet, or the body is too long for one."""
    queue: OrderedDict[Exchange, None] | None
    """The queue that the request is in, while no replica has room."""
    queued: int
    """It waited in its backend's queue before any step was noted: how many were before it, and 1; 0: it did not."""
    body_rest: Upload | WholeUpload | None
    """The rest of the request's body, when the body is long."""
    upload: Outgoing | None
    """The same rest, on its way to the replica."""
    answer_rest: Download | None
    """The rest of the answer's body, once the answer has begun in pieces."""
    download: Incoming | None
    """The same rest, as it comes from the replica."""

    @property
    def endpoint(self) -> str:
        return self.owner.name

    @property
    def client(self) -> str:
        """The address that the handler and observers see."""
        return self.connection.client

    @property
    def headers(self) -> Mapping[str, str]:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.raw_headers}

    def log_fields(self) -> dict[str, str]:
        """What a line of the log says of the request, as ``extra``."""
        replica = "" if self.replica is None else self.replica.id
        return {
            "request_id": self.id,
            "endpoint": self.owner.name,
            "backend": self.backend,
            "replica": replica,
            "trace_id": trace_id_of(self.trace),
        }

    def pass_trace_on(self, share: float) -> None:
        """Continue the trace that the request belongs to. ``share``: of the traces that begin here, those that are
        sampled; 0: none begins."""
        self.unusual = True
        self.trace, self.parent, self.raw_headers = pass_on(self.raw_headers, share)
        self.fields = dict(self.raw_headers)

    def set_header(self, name: bytes, value: bytes) -> None:
        """Have the request come with a header, alone of its name; empty: without."""
        rest = [each for each in self.raw_headers if each[0] != name]
        self.raw_headers = [*rest, (name, value)] if value else rest
        self.fields = dict(self.raw_headers)

    def request(self) -> Request:
        """The request as a replica is sent it."""
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
        """Have the request dispatched once all of its body is here, so that whoever sends slowly holds neither slot nor
        window nor queue. False: all of it is here, or the body is one that never ends.
        """
        rest = self.body_rest
        if not isinstance(rest, Upload) or self.upgrade:
            return False
        assert self.incoming is not None
        whole = self.body_rest = WholeUpload(self.incoming, self.connection, self.shared.spools)
        note(self, "gathering")
        whole.take_in(rest.kept, self._taken_in, self._has_no_room)
        return True

    def _taken_in(self) -> None:
        assert isinstance(self.body_rest, WholeUpload)
        note(self, "gathered", number=len(self.body) + self.body_rest.gathered_bytes)
        self.owner.dispatch(self)

    def _has_no_room(self) -> None:
        if self.answer_rest is not None:
            self.cut()
            return
        self._give_up(Outcome.ABANDONED)
        self.refuse(refusals.no_room_for_body())

    def choose(self, method: Callable[[Exchange, list[T]], Any], among: list[T]) -> T | None:
        """The choice of this method of the endpoint's policy. None: it failed, and the request has been refused."""
        try:
            chosen: T = method(self, among)
            if chosen not in among:
                # A policy that remembers an earlier choice may hold what has no traffic by now, or is gone.
                raise ValueError(f"{method.__name__} returned {chosen!r}, which is none of those that it was given")
        except Exception:
            _log.exception("endpoint %s: its routing policy failed", self.owner.name, extra=self.log_fields())
            self.refuse(refusals.policy_failed(self.owner.name))
            return None
        return chosen

    def is_deadly(self) -> bool:
        """Whether replicas have died with such a request so often that this one has been refused. ``deaths`` says how
        often."""
        suspects, now = self.shared.suspects, self.shared.now()
        self.digest = self.digest or self._identify()
        self.deaths = suspects.known(self.digest, now)
        if not suspects.is_refused(self.digest, now):
            return False
        self.refuse(refusals.deadly())
        return True

    def _identify(self) -> bytes:
        """The digest of the endpoint, the method, the whole target and the body. Empty where the body is not all here,
        or so long that it is in a file: such a request is never a suspect."""
        body, rest = self.body, self.body_rest
        if rest is not None:
            more = rest.in_memory if isinstance(rest, WholeUpload) else None
            if more is None:
                return b""
            body += more
        target = self.sent_target
        if target is None:
            target = b"%b?%b" % (self.path.encode(errors="surrogateescape"), self.query)
        head = "\n".join((self.owner.name, self.method, self.call_method or ""))
        return self.shared.suspects.digest(head.encode(errors="backslashreplace"), target, body)

    def wait_in(self, queue: OrderedDict[Exchange, None]) -> None:
        """Put the request into a queue, behind the others there."""
        self.queue = queue
        queue[self] = None

    def unqueue(self) -> None:
        """Take the request out of the queue that it is in, if any."""
        if self.queue is not None:
            self.queue.pop(self, None)
            self.queue = None

    # -- from its replica ------------------------------------------------------------------------------------------

    def answered(self, answer: Answer) -> None:
        """The replica has answered."""
        if not self.done:
            self.batch_size = answer.batch_size
            if answer.failed:
                self.error = "handler_failed"
            self.finish(answer.status, answer.head, answer.body)
            if self.owner.watches:
                self.owner.tell_policy(self, Outcome.FAILED if answer.failed else Outcome.ANSWERED)

    def begun(self, answer: Answer) -> None:
        """The replica has begun an answer whose body follows in pieces. From here on there is no deadline."""
        assert self.download is not None
        if self.done:
            self.download.discard()
            return
        self.began_at = monotonic()
        self.unusual = True
        self.batch_size = answer.batch_size
        self.shared.deadlines.open.discard(self)
        if self.body_rest is not None:
            self.body_rest.release()
        length = None if answer.rest == UNKNOWN else len(answer.body) + answer.rest
        self.begin(answer.status, _HEAD % (self.id.encode("ascii"), answer.head), length)
        # A WebSocket holds its replica as long as it lives; a handle asks for no more than it has room for.
        spools = None if answer.status == 101 or self.chain is not None else self.shared.spools
        self.answer_rest = Download(self, answer.status, self.download, spools)

    def ended(self, *, complete: bool) -> None:
        """No more of an answer in pieces will come."""
        if not self.done and self.download is not None:
            self._over(Outcome.ANSWERED if complete else Outcome.FAILED)

    def _over(self, outcome: Outcome) -> None:
        """Nothing more will come from the replica; the client may have some of the answer to take yet."""
        assert self.download is not None
        self.owner.tell_policy(self, outcome)
        if outcome is not Outcome.ANSWERED:
            self.error = "broken_off"
        self.download.end(None if outcome is Outcome.ANSWERED else LinkError("the answer was broken off"))
        if self.body_rest is not None and not self.done:
            self.body_rest.stop()
            self.connection.body_taken()

    def refused(self, reason: str) -> None:
        """The replica did not begin the call."""
        if self.done:
            return
        if reason == "draining":
            self._again(sent=False)
        else:
            self.owner.tell_policy(self, Outcome.TIMED_OUT)
            self.refuse(refusals.too_late(self.owner.name, self.timeout_s))

    def suspect(self) -> None:
        """A replica died that may have begun the call."""
        suspects, now = self.shared.suspects, self.shared.now()
        self.digest = self.digest or self._identify()
        if self.digest and suspects.died(self.digest, self.deaths, now) and suspects.is_refused(self.digest, now):
            _log.error(
                "backend %s: its replicas have died %d times with a request like %s (%s %.200r of endpoint %s): "
                "those with the same query and body are refused for %g s",
                self.backend,
                suspects.known(self.digest, now),
                self.id,
                self.method,
                self.path,
                self.owner.name,
                REFUSED_S,
                extra=self.log_fields(),
            )

    def acquit(self) -> None:
        """A replica has lived through the call, of which there was a suspicion."""
        self.shared.suspects.cleared(self.digest)
        self.deaths = 0

    def lost(self, *, sent: bool) -> None:
        """The replica died with the call, which is sent once more where the method allows it or nothing was sent."""
        if self.done:
            return
        if self.download is None:
            self._again(sent=sent)
        else:
            self._note_lost("lost", "its answer had begun")
            self._over(Outcome.LOST)

    def _again(self, *, sent: bool) -> None:
        self.owner.tell_policy(self, Outcome.LOST)
        if not sent:
            self.tries -= 1
        kept = self.body_rest is None or self.body_rest.can_start_again
        why_not = "" if kept else "a part of its body is gone"
        if sent and self.method not in IDEMPOTENT:
            why_not = f"a handler may have begun it, and {self.method} is not to be done twice"
        elif sent and self.tries >= _MOST_TRIES:
            why_not = f"it was sent {self.tries} times"
        self._note_lost("lost" if sent else "left", why_not)
        if why_not:
            self.refuse(refusals.replica_died(self.backend))
        else:
            self.owner.dispatch(self)

    def _note_lost(self, what: str, why_not: str) -> None:
        replica = "" if self.replica is None else self.replica.id
        note(self, "sent", replica, self.ahead, at=self.sent_at)
        note(self, what, replica, text=why_not)
        if not why_not:
            self.replica = None

    # -- how a request ends: each comes to `_settle` once ----------------------------------------------------------

    def refuse(self, error: ErrorAnswer) -> None:
        """End the request with an error of the ingress's own."""
        self.error = error.type
        self.shared.refused[self.owner.name, error.type] += 1
        self.finish(error.status, *error.render(self.raw_headers, self.id))

    def finish(self, status: int, head: bytes, body: bytes) -> None:
        """End the request with a whole answer."""
        self._settle(status, 0 if self.method == "HEAD" else len(body))
        if not self.done:
            self.done = True
            self.connection.answer(self, status, _HEAD % (self.id.encode("ascii"), head), body)

    def delivered(self, *, complete: bool) -> None:
        """All that there is of an answer in pieces has been written to the client."""
        assert self.answer_rest is not None
        self._settle(self.answer_rest.status, self.answer_rest.written_bytes)
        self.end(complete=complete)

    def cut(self) -> None:
        """The client is not to get the rest of an answer in pieces."""
        self.error = "broken_off"
        self._give_up(Outcome.ABANDONED)
        self.delivered(complete=False)

    def expired(self) -> None:
        """The deadline has passed."""
        if not self.done:
            self._give_up(Outcome.TIMED_OUT)
            self.refuse(refusals.too_late(self.owner.name, self.timeout_s))

    def abandoned(self) -> None:
        """The client went away."""
        self._give_up(Outcome.ABANDONED)
        self._settle(499, 0 if self.answer_rest is None else self.answer_rest.written_bytes)

    def writable(self) -> None:
        """The client reads again."""
        if self.answer_rest is not None:
            self.answer_rest.client_reads()

    def _give_up(self, outcome: Outcome) -> None:
        """Nobody waits any more for a replica to answer the request."""
        self.unqueue()
        if self.replica is not None and (self.download is None or not self.download.ended):
            self.replica.calls.cancel(self)
            self.owner.tell_policy(self, outcome)

    def _settle(self, status: int, body_bytes: int) -> None:
        """Count the request, and let go of its deadline and its bodies. That it is counted is in the file of `Tallies`
        before a byte of the answer is sent; how long quick ones took together, within a second: see `EndedKind`."""
        shared, owner = self.shared, self.owner
        shared.deadlines.open.discard(self)
        # Not the loop's time, which stands still within a turn and would make quick answers end before they began.
        received_at, sent_at, service_us = self.received_at, self.sent_at, self.service_us
        ended_at = monotonic()
        latency_s = ended_at - received_at
        replica, method, error = self.replica, self.method, self.error
        kind = shared.kinds.get((owner, replica or self.backend, method, status, error))
        if kind is None:
            kind = shared.new_kind(owner, self.backend, replica, method, status, error)
        slots = kind.slots
        if self.unusual:
            self._stop_bodies()
            self._count_more(slots)
        took_us, wait_s = int(latency_s * 1e6), sent_at - received_at if sent_at else -1.0
        # In few steps, for this is on the road of every request.
        if self.unusual or took_us > QUICK_US or service_us < 0:
            self._count_times(slots, latency_s)
        else:
            slots[QUICK_SLOT[took_us]] += 1
            kind.quick_s += latency_s
            kind.quick_wait_s += wait_s
            kind.quick_handler_us += service_us
        slots[BYTES_OUT] += body_bytes
        if self.body:
            slots[BYTES_IN] += len(self.body)
        if self.unusual or status >= 500 or latency_s > owner.slow_s or shared.observe is not None:
            self._remember(status, latency_s, ended_at, body_bytes)
            return
        recent = shared.recent
        added = recent.added
        recent.added = added + 1
        _pack(
            recent.memory,
            added % recent.most * PACKED_BYTES,
            hash(self.id),
            ended_at,
            latency_s,
            wait_s,
            service_us,
            self.snapshot,
            body_bytes,
            kind.number,
            self.ahead,
            self.batch_size,
            self.queued,
        )

    def _stop_bodies(self) -> None:
        if self.body_rest is not None:
            self.body_rest.stop()
        if self.answer_rest is not None:
            self.answer_rest.stop()

    def _remember(self, status: int, latency_s: float, ended_at: float, body_bytes: int) -> None:
        """Keep, and hand on, all that is known of the request."""
        if self.owner.judged is not None:
            self.owner.judged.ended(self, status, latency_s)
        shared, came, began_at, replica = self.shared, self.received_at, self.began_at, self.replica
        record = RequestRecord(
            self.id,
            self.owner.name,
            self.backend,
            "" if replica is None else replica.id,
            self.method,
            self.path,
            status,
            latency_s,
            ended_at + shared.recent.epoch_s,
            body_bytes,
            self.client,
            self.owner.route_text,
            self.error,
            self.sent_at - came if self.sent_at else -1.0,
            began_at - came if began_at else latency_s if self.service_us >= 0 else -1.0,
            self.service_us / 1e6,
            self.tries,
            self.ahead,
            self.snapshot or shared.snapshot,
            self.trace,
            self.parent,
            self.scheme,
            self.chain is not None,
            self.batch_size,
            steps_of(self),
            self.chain or (),
        )
        shared.recent.append(record)
        if status >= 500 or self.error == "broken_off":
            shared.failed.append(record)
        elif latency_s > self.owner.slow_s:
            shared.slow.append(record)
            shared.slowness.found(self.owner)
        if shared.observe is not None:
            shared.observe(record)

    def _count_times(self, slots: memoryview, latency_s: float) -> None:
        """How long it all took, and each part of it that there was."""
        count_time(slots, 0, FINE_BOUNDS, latency_s)
        if not self.sent_at:
            return
        wait_s = self.sent_at - self.received_at
        count_time(slots, INGRESS_WAIT, BOUNDS, wait_s)
        if self.answer_rest is not None:
            count_time(slots, FIRST_BYTE, BOUNDS, self.began_at - self.received_at)
        elif self.service_us >= 0:
            handler_s = self.service_us / 1e6
            count_time(slots, HANDLER, BOUNDS, handler_s)
            count_time(slots, REPLICA_WAIT, BOUNDS, latency_s - wait_s - handler_s)

    def _count_more(self, slots: memoryview) -> None:
        """The part of what is counted that few requests have."""
        if self.incoming is not None:
            slots[BYTES_IN] += self.incoming.received_bytes
        slots[RESENDS] += max(0, self.tries - 1)
        slots[FAILOVERS] += any(step.what == "failed_over" for step in self.steps or ())


class HandleExchange(Exchange):
    """A handle's call: routed as a request, and sent to a replica with pickled arguments for a body."""

    __slots__ = ("chain",)

    chain: tuple[str, ...]  # type: ignore[misc]  # a slot here, so that a request over HTTP need not have one

    def fill_in(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Fill in the fields that a request over HTTP has, for policies, observers and adapters. ``id`` is set.

        ``headers``: those of the call that this one is made in, as far as they go on.
        """
        self.method, self.query, self.version = "POST", b"", "1.1"
        self.sent_target = None
        self.raw_headers = [(b"x-request-id", self.id.encode()), *headers]
        self.fields = dict(self.raw_headers)
        self.view_args = None
        self.unusual = True
        self.upgrade, self.keep_alive, self.done, self.received_at = False, True, False, monotonic()

    def request(self) -> Request:
        request = super().request()
        request.chain = self.chain
        return request


def redispatch(waiting: OrderedDict[Exchange, None]) -> None:
    """Have all that wait in a queue dispatched again."""
    held = list(waiting)
    waiting.clear()
    for exchange in held:
        exchange.queue = None
        exchange.owner.dispatch(exchange)

"""A request's way: endpoint, backend, replica; and what becomes of it when one of them fails.

Everything here is plain calls on one event loop: the HTTP parser calls `handle`, a link's frame calls `answered`, and
no task or future stands between them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from time import monotonic
from typing import Any

from servekit.config import nearest
from servekit.http1.request import HttpRequest
from servekit.ingress import refusals
from servekit.ingress.backend import Backend, Target
from servekit.ingress.bodies import Download, Upload
from servekit.ingress.builtin import Builtin
from servekit.ingress.counters import Counters
from servekit.ingress.cycles import open_to, way_of
from servekit.ingress.deadlines import Deadlines
from servekit.ingress.endpoint import Endpoint
from servekit.ingress.exchange import Exchange, HandleExchange
from servekit.ingress.refusals import Refused
from servekit.interfaces import Outcome, RequestRecord
from servekit.routes import RESERVED, RouteTable
from servekit.wire.frames import UNKNOWN, Answer
from servekit.wire.link import Link

_log = logging.getLogger("servekit.ingress")

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""RFC 9110, 9.2.2: these may be sent once more when a replica dies with them."""
_MOST_TRIES = 2
_LONGEST_ID = 128


class Router:
    """The routing of one ingress worker. It is the `HttpApp` of its listener."""

    new_request = Exchange

    def __init__(self, loop: asyncio.AbstractEventLoop, observe: Callable[[RequestRecord], None] | None = None) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self.backends: dict[str, Backend] = {}
        self.routes: RouteTable[Endpoint] = RouteTable()
        self.builtin = Builtin(self.endpoints)
        self.counters = Counters()
        self.replica_wanted: Callable[[], None] = _nothing
        """Called when a request has to wait for a replica to start."""
        self._now = loop.time
        self._deadlines = Deadlines(loop, self._expired)
        self._observe = observe
        # Ids are unique per worker and readable beside each other: a random prefix and a count.
        self._id_prefix = os.urandom(6).hex() + "-"
        self._ids = 0

    def close(self) -> None:
        self._deadlines.close()
        for endpoint in self.endpoints.values():
            endpoint.policy.close()

    # -- from HTTP --------------------------------------------------------------------------------------------

    def handle(self, request: HttpRequest) -> None:
        """A request has arrived, whole or with the first part of its body."""
        assert type(request) is Exchange
        exchange = request
        exchange.id = self._request_id(exchange.fields.get(b"x-request-id"))
        exchange.bucket = exchange.target = exchange.replica = exchange.queue = exchange.download = None
        exchange.tries = 0
        incoming = exchange.incoming
        exchange.upload = None if incoming is None else Upload(incoming, exchange.connection)
        found = self.routes.find(exchange.path)
        if found is None:
            exchange.owner = _NOWHERE
            self._refuse(exchange, self._unrouted(exchange))
            return
        endpoint, exchange.view_args = found
        exchange.owner = endpoint
        methods = endpoint.methods
        if methods is not None and exchange.method not in methods:
            self._refuse(exchange, refusals.wrong_method(exchange.method, endpoint.allow))
            return
        if methods is not None and exchange.method == "OPTIONS" and "OPTIONS" not in endpoint.entry.methods:
            self._refuse(exchange, refusals.options(endpoint.allow))
            return
        named = exchange.fields.get(b"x-serve-call-method")
        exchange.call_method = None if named is None else named.decode("latin-1")
        exchange.expires = self._now() + endpoint.timeout_s
        self._deadlines.add(exchange, exchange.expires)
        if exchange.upload is None or exchange.upgrade:
            self._dispatch(exchange)
        else:
            exchange.upload.when_due(lambda: self._dispatch(exchange))

    # -- from handles -----------------------------------------------------------------------------------------

    def handle_call(self, exchange: HandleExchange, endpoint_name: str, request_id: bytes) -> None:
        """A handle's call has arrived, whole or with the first part of its arguments.

        The caller has set ``connection``, ``body``, ``incoming``, ``call_method``, ``chain``, ``own_timeout_s`` and
        ``limit_s``.
        """
        exchange.id = self._request_id(request_id)
        exchange.bucket = exchange.target = exchange.replica = exchange.queue = exchange.download = None
        exchange.tries = 0
        exchange.dress()
        incoming = exchange.incoming
        exchange.upload = None if incoming is None else Upload(incoming, exchange.connection)
        endpoint = self.endpoints.get(endpoint_name)
        if endpoint is None:
            exchange.owner, exchange.path = _NOWHERE, "/"
            self._refuse(exchange, refusals.no_endpoint(endpoint_name, nearest(endpoint_name, self.endpoints)))
            return
        exchange.owner, exchange.path = endpoint, endpoint.route_text or "/"
        exchange.expires = self._now() + exchange.timeout_s
        self._deadlines.add(exchange, exchange.expires)
        if exchange.upload is None:
            self._dispatch(exchange)
        else:
            exchange.upload.when_due(lambda: self._dispatch(exchange))

    # -- from both --------------------------------------------------------------------------------------------

    def abandoned(self, request: HttpRequest) -> None:
        """The client went away."""
        assert isinstance(request, Exchange)
        self._settle(request, 499)
        self._unqueue(request)
        if request.replica is not None:
            request.replica.cancel(request)
            self._tell_policy(request, Outcome.ABANDONED)

    def writable(self, request: HttpRequest) -> None:
        """The client reads again."""
        assert isinstance(request, Exchange)
        if request.download is not None:
            request.download.grant()

    def _unrouted(self, exchange: Exchange) -> Refused:
        if exchange.path.startswith(RESERVED):
            return self.builtin.answer(exchange.method, exchange.path)
        target = self.routes.redirect(exchange.path)
        if target is not None:
            query = exchange.query.decode("latin-1")
            return refusals.moved(self.builtin.quoted(target) + (f"?{query}" if query else ""))
        return refusals.no_route(exchange.path)

    def _request_id(self, given: bytes | None) -> str:
        # One that is too long, or would not be safe in a log line, is replaced.
        if given and len(given) <= _LONGEST_ID and given.isascii():
            text = given.decode("ascii")
            if text.isprintable():
                return text
        self._ids += 1
        return f"{self._id_prefix}{self._ids}"

    # -- to a replica ------------------------------------------------------------------------------------------

    def _dispatch(self, exchange: Exchange) -> None:
        endpoint = exchange.owner
        choices = endpoint.choosable
        if not choices:
            self._park(exchange, endpoint)
            return
        try:
            target: Any = endpoint.policy.choose_backend(exchange, choices)
            if target not in choices:
                raise _not_given("choose_backend", target)
        except Exception:
            self._policy_failed(exchange)
            return
        exchange.target = target
        backend: Backend = target.backend
        if len(choices) < len(endpoint.targets):
            self.counters.add_failover(endpoint.name)
        if (
            exchange.call_method is not None
            and exchange.call_method not in backend.config.callable_methods
            and exchange.chain is None  # What handles call is the instance's own code.
        ):
            self._refuse(exchange, refusals.method_not_callable(backend.name, exchange.call_method))
        elif not backend.ready:
            self._not_ready(exchange, backend)
        elif backend.waiting or not self._send(exchange, target):
            if exchange.chain and not open_to(exchange.chain, backend.ready):
                self._refuse_cycle(exchange, backend)
            else:
                self._queue(exchange, backend)

    def _not_ready(self, exchange: Exchange, backend: Backend) -> None:
        """The chosen version has no replica, and no other may take over."""
        if backend.config.autoscaling is None:
            self._refuse(exchange, refusals.version_down(backend.name))
        elif self._queue(exchange, backend):
            self.replica_wanted()

    def _queue(self, exchange: Exchange, backend: Backend) -> bool:
        """Have it wait for room in one of the backend's replicas; False: too many do, and it has been refused."""
        if backend.is_full:
            self._refuse(exchange, refusals.queue_full(f"backend {backend.name!r}"))
            return False
        exchange.queue = backend.waiting
        backend.waiting[exchange] = None
        return True

    def _send(self, exchange: Exchange, target: Target) -> bool:
        """Whether some replica had room and now has the call; or it has been refused."""
        ready = target.replicas
        if exchange.chain:
            ready = open_to(exchange.chain, ready)
            if not ready:
                self._refuse_cycle(exchange, target.backend)
                return True
        endpoint = exchange.owner
        if len(ready) == 1 and not endpoint.picks_replica:
            replica = ready[0]
            if not replica.has_room:
                return False
        else:
            free = [replica for replica in ready if replica.has_room]
            if not free:
                return False
            try:
                chosen: Any = endpoint.policy.choose_replica(exchange, free)
                if chosen not in free:
                    raise _not_given("choose_replica", chosen)
            except Exception:
                self._policy_failed(exchange)
                return True
            replica = chosen
        replica.send(exchange, self._now())
        return True

    def _park(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """No backend has a ready replica: wait for one that is coming, else say at once that there is none."""
        exchange.target = None
        if self.endpoints.get(endpoint.name) is not endpoint:
            self._refuse(exchange, refusals.endpoint_gone(endpoint.name))
        elif not endpoint.targets:
            self._refuse(exchange, refusals.no_traffic(endpoint.name))
        elif not endpoint.coming:
            self._refuse(exchange, refusals.no_replica(endpoint.name))
        elif endpoint.is_full:
            self._refuse(exchange, refusals.queue_full(f"endpoint {endpoint.name!r}"))
        else:
            exchange.queue = endpoint.waiting
            endpoint.waiting[exchange] = None
            self.replica_wanted()

    def pump(self, backend: Backend) -> None:
        """Room has come: send what waits, in order."""
        waiting = backend.waiting
        while waiting and backend.ready:
            exchange = next(iter(waiting))
            assert exchange.target is not None
            if not self._send(exchange, exchange.target):
                if exchange.chain:
                    self._pump_past_chains(backend)
                return
            waiting.pop(exchange, None)
            exchange.queue = None

    def _pump_past_chains(self, backend: Backend) -> None:
        """The first call that waits may not have the room there is, for that is in its own chain: others may."""
        for exchange in list(backend.waiting):
            assert exchange.target is not None
            if self._send(exchange, exchange.target):
                backend.waiting.pop(exchange, None)
                exchange.queue = None
            elif not exchange.chain or len(open_to(exchange.chain, backend.ready)) == len(backend.ready):
                return

    # -- from a replica ------------------------------------------------------------------------------------------

    def answered(self, exchange: Exchange, answer: Answer) -> None:
        """A replica has answered. For one that nobody waits for, only the room counts."""
        if not exchange.done:
            self._finish(exchange, answer.status, answer.head, answer.body)
            self._tell_policy(exchange, Outcome.FAILED if answer.failed else Outcome.ANSWERED)

    def begun(self, exchange: Exchange, answer: Answer, link: Link) -> None:
        """A replica has begun an answer whose body follows in pieces. From here on there is no deadline."""
        if exchange.done:
            return
        self._deadlines.discard(exchange)
        first = answer.body
        exchange.download = Download(link, answer.id, answer.status, len(first))
        length = None if answer.rest == UNKNOWN else len(first) + answer.rest
        exchange.begin(answer.status, self._with_id(exchange, answer.head), length)
        exchange.write(first)

    def continued(self, exchange: Exchange, data: bytes) -> None:
        """The next piece of an answer's body."""
        if not exchange.done and exchange.download is not None:
            exchange.download.passed_on(len(data), exchange.write(data))

    def ended(self, exchange: Exchange, *, complete: bool) -> None:
        """An answer's body is over; or the call is, without an answer that anyone waits for."""
        if not exchange.done and exchange.download is not None:
            self._settle(exchange, exchange.download.status)
            exchange.end(complete=complete)
            self._tell_policy(exchange, Outcome.ANSWERED if complete else Outcome.FAILED)

    def refused(self, exchange: Exchange, reason: str) -> None:
        """A replica did not begin a call."""
        if exchange.done:
            return
        if reason == "draining":
            self._again(exchange, sent=False)
        else:
            self._tell_policy(exchange, Outcome.TIMED_OUT)
            self._refuse(exchange, refusals.too_late(exchange.owner.name, exchange.timeout_s))

    def lost(self, exchange: Exchange, *, sent: bool) -> None:
        """A replica died with a call: once more, where the method allows it or nothing was sent."""
        if exchange.done:
            return
        if exchange.download is None:
            self._again(exchange, sent=sent)
            return
        self._tell_policy(exchange, Outcome.LOST)
        self._settle(exchange, exchange.download.status)
        exchange.end(complete=False)

    def _again(self, exchange: Exchange, *, sent: bool) -> None:
        self._tell_policy(exchange, Outcome.LOST)
        exchange.replica = None
        if not sent:
            exchange.tries -= 1
        kept = exchange.upload is None or exchange.upload.can_start_again
        if kept and (not sent or (exchange.method in IDEMPOTENT and exchange.tries < _MOST_TRIES)):
            self._dispatch(exchange)
        else:
            name = exchange.target.name if exchange.target is not None else ""
            self._refuse(exchange, refusals.replica_died(name))

    # -- readiness ------------------------------------------------------------------------------------------------

    def replica_ready(self, backend: Backend) -> None:
        """A backend has one more ready replica."""
        for endpoint in backend.endpoints:
            endpoint.refresh()
            self.unpark(endpoint)
        self.pump(backend)

    def replica_lost(self, backend: Backend) -> None:
        """A backend has one less: when it was the last, what waited for it goes another way."""
        for endpoint in backend.endpoints:
            endpoint.refresh()
        if not backend.ready:
            self.redispatch(backend.waiting)
        elif backend.waiting:  # For one that waits, those left may all be in its chain.
            self.pump(backend)

    def unpark(self, endpoint: Endpoint) -> None:
        """Send what waited for any replica at all, if there is one now, or none is coming any more."""
        if endpoint.waiting and (endpoint.choices or not endpoint.coming):
            self.redispatch(endpoint.waiting)

    def redispatch(self, waiting: Any) -> None:
        """Choose again for all that wait in a queue."""
        held = list(waiting)
        waiting.clear()
        for exchange in held:
            exchange.queue = None
            self._dispatch(exchange)

    # -- the end --------------------------------------------------------------------------------------------------

    def _expired(self, item: Any) -> None:
        exchange: Exchange = item
        if exchange.done:
            return
        self._unqueue(exchange)
        if exchange.replica is not None:
            exchange.replica.cancel(exchange)
            self._tell_policy(exchange, Outcome.TIMED_OUT)
        self._refuse(exchange, refusals.too_late(exchange.owner.name, exchange.timeout_s))

    def _refuse_cycle(self, exchange: Exchange, backend: Backend) -> None:
        """All its replicas wait for this very call: so would it for them."""
        assert exchange.chain is not None
        self._refuse(exchange, refusals.call_cycle(backend.name, way_of(exchange.chain, self.backends.values())))

    def _policy_failed(self, exchange: Exchange) -> None:
        _log.exception("the routing policy of endpoint %r failed (request id %s)", exchange.owner.name, exchange.id)
        self._refuse(exchange, refusals.policy_failed(exchange.owner.name))

    def _refuse(self, exchange: Exchange, answer: Refused) -> None:
        self._finish(exchange, *answer)

    def _finish(self, exchange: Exchange, status: int, head: bytes, body: bytes) -> None:
        self._settle(exchange, status)
        exchange.respond(status, self._with_id(exchange, head), body)

    @staticmethod
    def _with_id(exchange: Exchange, head: bytes) -> bytes:
        return b"x-request-id: %b\r\n%b" % (exchange.id.encode("ascii"), head)

    def _settle(self, exchange: Exchange, status: int) -> None:
        """Count it, and wait for it no longer."""
        bucket = exchange.bucket
        if bucket is not None:
            bucket.discard(exchange)
            exchange.bucket = None
        if exchange.upload is not None:
            exchange.upload.stop()
        target = exchange.target
        backend = "" if target is None else target.name
        # Not the loop's time, which stands still within a turn and would make quick answers end before they began.
        latency_s = monotonic() - exchange.received_at
        endpoint = exchange.owner.name
        self.counters.add(endpoint, backend, status, latency_s)
        if self._observe is not None:
            replica = "" if exchange.replica is None else exchange.replica.id
            self._observe(
                RequestRecord(
                    exchange.id, endpoint, backend, replica, exchange.method, exchange.path, status, latency_s
                )
            )

    def _unqueue(self, exchange: Exchange) -> None:
        if exchange.queue is not None:
            exchange.queue.pop(exchange, None)
            exchange.queue = None

    def _tell_policy(self, exchange: Exchange, outcome: Outcome) -> None:
        owner = exchange.owner
        if not owner.watches or self.endpoints.get(owner.name) is not owner:
            return
        assert exchange.replica is not None
        try:
            exchange.owner.policy.request_finished(exchange, exchange.replica, outcome)
        except Exception:
            _log.exception("the routing policy of endpoint %r failed in request_finished", exchange.owner.name)


def _not_given(method: str, choice: object) -> ValueError:
    # A policy that remembers an earlier choice may hold what has no traffic by now, or is gone.
    return ValueError(f"{method} returned {choice!r}, which is none of those that it was given")


def _nothing() -> None: ...


class _Nowhere:
    """Stands for the endpoint of a request that has none."""

    name = ""


_NOWHERE: Any = _Nowhere()

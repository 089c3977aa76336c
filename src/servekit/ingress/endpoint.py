"""One endpoint, as an ingress worker sees it: its route, its policy, the backends that it may choose from now, and the
requests that wait for any of them.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from servekit.ingress import refusals
from servekit.ingress.backend import Backend
from servekit.ingress.exchange import Exchange, redispatch
from servekit.ingress.judged import JudgedPolicy, seed_of
from servekit.ingress.shared import Shared
from servekit.ingress.steps import note
from servekit.interfaces import Outcome, RoutingPolicy
from servekit.wire.control_frames import EndpointRecord, RolloutEntry

_log = logging.getLogger("servekit.ingress")


class TrafficTarget:
    """A backend with its weight in one endpoint's traffic. It is the `BackendView` of policies."""

    __slots__ = ("backend", "name", "replicas", "weight")

    def __init__(self, backend: Backend, weight: float) -> None:
        self.backend = backend
        self.name = backend.name
        self.weight = weight
        self.replicas = backend.ready


class Endpoint:
    """Dispatches the requests of one endpoint, by its policy; and again, when the chosen replica is gone."""

    def __init__(
        self, entry: EndpointRecord, policy: RoutingPolicy, backends: Mapping[str, Backend], shared: Shared
    ) -> None:
        """``backends``: all that there are, which may change."""
        self.name = entry.name
        self.route = entry.options.route
        self.route_text = self.route or ""
        self.mount = entry.options.mount
        self.entry = entry
        self.policy = policy
        self.judged: JudgedPolicy | None = None
        """The policy, while a roll-out is judged."""
        self.timeout_s = entry.options.timeout_s
        self.slow_s = math.inf
        """Its requests that took longer are slow; set by `Slowness`."""
        self.methods = _answered_methods(entry.methods)
        """None: every method goes to the handler."""
        self.targets: list[TrafficTarget] = []
        self.choices: list[TrafficTarget] = []
        """The targets that the policy chooses from: those that have a ready replica; under ``strict``, where any has
        one, all of them, for the share of a backend that is down is to fail."""
        self.waiting: OrderedDict[Exchange, None] = OrderedDict()
        """Requests that came while no backend had a ready replica but one was coming."""
        # Asked once, and of the endpoint's own policy: the default of `choose_replica` needs no call where there is one
        # replica, and few policies are told how requests end.
        self.watches = type(policy).request_finished is not RoutingPolicy.request_finished
        self.picks_replica = type(policy).choose_replica is not RoutingPolicy.choose_replica
        self._choose_backend = policy.choose_backend
        self._backends = backends
        self._shared = shared
        self._deaths = shared.suspects.deaths
        self._gone = False
        self._successor: Endpoint | None = None

    @property
    def allow(self) -> str:
        """The value of an Allow header, as Flask orders it: by name."""
        return ", ".join(sorted(self.methods or ()))

    @property
    def coming(self) -> bool:
        """Whether any backend has, or will have, a replica."""
        return any(target.backend.coming for target in self.targets)

    @property
    def missing(self) -> str:
        """Why it cannot serve, for people; empty: a backend with a share of its traffic can, or it has no traffic."""
        missing = [target.backend.missing for target in self.targets]
        return "" if not all(missing) else " and ".join(missing)

    # -- requests ----------------------------------------------------------------------------------------------------

    def dispatch(self, exchange: Exchange) -> None:
        """Send a request to a replica, have it wait for one, or refuse it; a long body may have to be taken in before
        that.
        """
        choices = self.choices
        exchange.snapshot = self._shared.snapshot
        if self._deaths and exchange.is_deadly():
            return
        if exchange.body_rest is not None and self._takes_bodies_whole() and exchange.take_in():
            return
        if not choices:
            self._park(exchange)
            return
        target = exchange.choose(self._choose_backend, choices)
        if target is None:
            return
        backend = target.backend
        exchange.backend = backend.name
        if len(choices) < len(self.targets):
            self._shared.failovers[self.name] += 1
            note(exchange, "failed_over", text=", ".join(target.name for target in self.targets if not target.replicas))
        if (
            exchange.call_method is not None
            and exchange.call_method not in backend.config.callable_methods
            and exchange.chain is None  # A handle's call comes from the instance's own code.
        ):
            exchange.refuse(refusals.method_not_callable(backend.name, exchange.call_method))
        elif not backend.ready:
            self._wait_for_version(exchange, backend)
        elif (backend.waiting and not (exchange.chain and backend.waits_for(exchange))) or not backend.send(exchange):
            if exchange.chain and not backend.open_to(exchange.chain):
                self.refuse_cycle(exchange)
            else:
                backend.enqueue(exchange)

    def _wait_for_version(self, exchange: Exchange, backend: Backend) -> None:
        """The chosen version has no replica, and no other may take over."""
        if backend.config.autoscaling is None:
            exchange.refuse(refusals.version_down(backend.name))
        elif backend.enqueue(exchange):
            self._shared.replica_wanted()

    def _park(self, exchange: Exchange) -> None:
        """No backend has a ready replica: have the request wait for one that is coming, or refuse it at once."""
        exchange.backend = ""
        if self._successor is not None:
            exchange.owner = self._successor
            self._successor.dispatch(exchange)
        elif self._gone:
            exchange.refuse(refusals.endpoint_gone(self.name))
        elif not self.targets:
            exchange.refuse(refusals.no_traffic(self.name))
        elif not self.coming:
            exchange.refuse(refusals.no_replica(self.name))
        elif len(self.waiting) >= sum(target.backend.config.max_queued_requests for target in self.targets):
            note(exchange, "queue_full", number=len(self.waiting))
            exchange.refuse(refusals.queue_full(f"endpoint {self.name!r}"))
        else:
            note(exchange, "parked", number=len(self.waiting))
            exchange.wait_in(self.waiting)
            self._shared.replica_wanted()

    def _takes_bodies_whole(self) -> bool:
        """Whether a replica that may be chosen now is to be given bodies whole."""
        return any(not replica.streams_bodies for target in self.choices for replica in target.replicas)

    def refuse_cycle(self, exchange: Exchange) -> None:
        """All replicas of the chosen backend wait for this very call, which would wait for them without end."""
        assert exchange.chain is not None
        way = way_of(exchange.chain, self._backends.values())
        exchange.refuse(refusals.call_cycle(exchange.backend, way))

    def tell_policy(self, exchange: Exchange, outcome: Outcome) -> None:
        """A request that a replica had has ended. A policy whose endpoint is gone is not told."""
        assert exchange.replica is not None
        if self.watches and not self._gone:
            try:
                self.policy.request_finished(exchange, exchange.replica, outcome)
            except Exception:
                _log.exception(
                    "endpoint %s: its routing policy failed in request_finished", self.name, extra=exchange.log_fields()
                )

    # -- traffic -----------------------------------------------------------------------------------------------------

    def set_rollout(self, rollout: RolloutEntry | None, worker: str) -> None:
        """Have a roll-out judged from now on, or none. The policy stays, and is yet to be told of the traffic.
        ``worker``: the id of this ingress worker."""
        policy = self.policy if self.judged is None else self.judged.policy
        self.judged = None
        if rollout is not None:
            tallies = self._shared.tallies
            self.judged = JudgedPolicy(policy, rollout, self.name, lambda: self.targets, tallies)
        self.policy = self.judged or policy
        self._choose_backend = self.policy.choose_backend
        policy.draw_order(None if rollout is None else seed_of(rollout.seed, worker))

    def set_traffic(self, weights: Mapping[str, float]) -> None:
        """Share the requests by these weights, all above 0; those that wait choose again."""
        for target in self.targets:
            target.backend.endpoints.discard(self)
        self.targets = [TrafficTarget(self._backends[name], weight) for name, weight in weights.items()]
        for target in self.targets:
            target.backend.endpoints.add(self)
        self.refresh()
        self.unpark()

    def refresh(self) -> None:
        """See which backends can serve now."""
        ready = [target for target in self.targets if target.replicas]
        self.choices = self.targets if self.entry.options.strict and ready else ready

    def unpark(self) -> None:
        """Dispatch the requests that wait, where a backend can serve now, or none ever will."""
        if self.waiting and (self.choices or not self.coming):
            redispatch(self.waiting)

    def remove(self, successor: Endpoint | None = None) -> None:
        """The endpoint is gone: requests that were sent end as if it were not, those that wait are refused, or go on to
        the endpoint that has its name now."""
        self._gone = True
        self._successor = successor
        self.set_traffic({})
        self.policy.close()


def way_of(chain: Iterable[str], backends: Iterable[Backend]) -> str:
    """The chain for people: ``'a' (r1-5f0c) → 'b' (r2-9d41)``."""
    names = {replica_id: backend.name for backend in backends for replica_id in backend.replicas}
    return " → ".join(
        f"{names[replica_id]!r} ({replica_id})" if replica_id in names else replica_id for replica_id in chain
    )


def _answered_methods(methods: tuple[str, ...]) -> frozenset[str] | None:
    """As in Flask: HEAD comes with GET, and OPTIONS always."""
    if not methods:
        return None
    return frozenset(methods) | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())

"""Which replica a request goes to, and where it waits while none has room."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from servekit.ingress import refusals
from servekit.ingress.backend import Backend, TrafficTarget
from servekit.ingress.counters import Counters
from servekit.ingress.cycles import open_to, way_of
from servekit.ingress.endpoint import Endpoint
from servekit.ingress.exchange import Exchange

_log = logging.getLogger("servekit.ingress")


class Dispatcher:
    """Chooses by the endpoint's policy; and again, when what it chose is gone."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        backends: Mapping[str, Backend],
        counters: Counters,
        now: Callable[[], float],
    ) -> None:
        self.replica_wanted: Callable[[], None] = _nothing
        """Called when a request has to wait for a replica to start."""
        self._endpoints = endpoints
        self._backends = backends
        self._counters = counters
        self._now = now

    def dispatch(self, exchange: Exchange) -> None:
        """Send it to a replica, have it wait for one, or refuse it; a long body may have to be taken in before that."""
        endpoint = exchange.owner
        if exchange.body_rest is not None and endpoint.takes_bodies_whole and exchange.take_in():
            return
        choices = endpoint.choices
        if not choices:
            self._park(exchange, endpoint)
            return
        target = self._chosen(endpoint.choose_backend, exchange, choices)
        if target is None:
            return
        exchange.target = target
        backend: Backend = target.backend
        if len(choices) < len(endpoint.targets):
            self._counters.failovers[endpoint.name] += 1
        if (
            exchange.call_method is not None
            and exchange.call_method not in backend.config.callable_methods
            and exchange.chain is None  # What handles call is the instance's own code.
        ):
            exchange.refuse(refusals.method_not_callable(backend.name, exchange.call_method))
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
            exchange.refuse(refusals.version_down(backend.name))
        elif self._queue(exchange, backend):
            self.replica_wanted()

    def _queue(self, exchange: Exchange, backend: Backend) -> bool:
        """Have it wait for room in one of the backend's replicas; False: too many do, and it has been refused."""
        if backend.is_full:
            exchange.refuse(refusals.queue_full(f"backend {backend.name!r}"))
            return False
        exchange.queue = backend.waiting
        backend.waiting[exchange] = None
        return True

    def _send(self, exchange: Exchange, target: TrafficTarget) -> bool:
        """Whether some replica had room and now has the call; or it has been refused."""
        ready = target.replicas
        if exchange.chain:
            ready = open_to(exchange.chain, ready)
            if not ready:
                self._refuse_cycle(exchange, target.backend)
                return True
        endpoint = exchange.owner
        if len(ready) == 1 and not endpoint.picks_replica:
            return ready[0].send(exchange, self._now())
        free = [replica for replica in ready if replica.has_room]
        if not free:
            return False
        replica = self._chosen(endpoint.choose_replica, exchange, free)
        return replica is None or replica.send(exchange, self._now())

    @staticmethod
    def _chosen(choose: Callable[[Exchange, Any], Any], exchange: Exchange, among: list[Any]) -> Any:
        """What the endpoint's policy chooses; None: it failed, and the request has been refused."""
        endpoint = exchange.owner
        try:
            chosen = choose(exchange, among)
            if chosen not in among:
                # A policy that remembers an earlier choice may hold what has no traffic by now, or is gone.
                raise ValueError(f"{choose.__name__} returned {chosen!r}, which is none of those that it was given")
        except Exception:
            _log.exception("the routing policy of endpoint %r failed (request id %s)", endpoint.name, exchange.id)
            exchange.refuse(refusals.policy_failed(endpoint.name))
            return None
        return chosen

    def _park(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """No backend has a ready replica: wait for one that is coming, else say at once that there is none."""
        exchange.target = None
        if self._endpoints.get(endpoint.name) is not endpoint:
            exchange.refuse(refusals.endpoint_gone(endpoint.name))
        elif not endpoint.targets:
            exchange.refuse(refusals.no_traffic(endpoint.name))
        elif not endpoint.coming:
            exchange.refuse(refusals.no_replica(endpoint.name))
        elif endpoint.is_full:
            exchange.refuse(refusals.queue_full(f"endpoint {endpoint.name!r}"))
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
            self.unqueue(exchange)

    def _pump_past_chains(self, backend: Backend) -> None:
        """The first call that waits may not have the room there is, for that is in its own chain: others may."""
        for exchange in list(backend.waiting):
            assert exchange.target is not None
            if self._send(exchange, exchange.target):
                self.unqueue(exchange)
            elif not exchange.chain or len(open_to(exchange.chain, backend.ready)) == len(backend.ready):
                return

    # -- when replicas come and go ---------------------------------------------------------------------------------

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
            self.dispatch(exchange)

    @staticmethod
    def unqueue(exchange: Exchange) -> None:
        """It waits for room no longer."""
        if exchange.queue is not None:
            exchange.queue.pop(exchange, None)
            exchange.queue = None

    def _refuse_cycle(self, exchange: Exchange, backend: Backend) -> None:
        """All its replicas wait for this very call: so would it for them."""
        assert exchange.chain is not None
        exchange.refuse(refusals.call_cycle(backend.name, way_of(exchange.chain, self._backends.values())))


def _nothing() -> None: ...

"""The routing policy ``sticky_ring``: a client stays with its backend and its replica, by a hash ring."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from servekit.hookspecs import hookimpl
from servekit.interfaces import BackendView, ReplicaView, RequestInfo, RoutingPolicy, RoutingPolicyFactory, two_choices
from servekit_sticky_sessions.ring import Ring

MOST_REPLICAS = 1024
"""The number of replicas on the ring, those that are gone included, above which the ring is made anew."""


@hookimpl
def servekit_register_routing_policies() -> Mapping[str, RoutingPolicyFactory]:
    return {"sticky_ring": StickyRing}


class StickyRing(RoutingPolicy):
    """Consistent hashing with bounded loads. A request without the header or cookie goes to a random backend, by
    weight, and there to the better of two random replicas.
    """

    def __init__(
        self,
        header: str | None = None,
        cookie: str | None = None,
        virtual_nodes: int = 100,
        balance: float = 1.25,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            header: the name of the header that tells clients apart; or
            cookie: the name of the cookie that tells clients apart.
            virtual_nodes: the number of points that a replica has on the ring; all backends together have 20 times as
                many, shared out by weight.
            balance: above 1: the load that a replica may have, as a multiple of the mean load.
            seed: an integer with which the choices for requests without the header or cookie can be reproduced.
        """
        if bool(header) == bool(cookie):
            raise ValueError("name a header or a cookie, and not both: policy_options={'cookie': 'session'}")
        if virtual_nodes < 1:
            raise ValueError(f"virtual_nodes is {virtual_nodes}: at least 1 is needed, and some 100 for even shares")
        if not balance > 1:
            raise ValueError(f"balance is {balance}: it must be above 1, such as 1.25")
        self._header = header.lower() if header else None
        self._cookie = cookie
        self._virtual_nodes = virtual_nodes
        self._balance = balance
        self._random = random.Random(seed)
        self._backends = Ring()
        self._replicas = Ring()

    def traffic_changed(self, weights: Mapping[str, float]) -> None:
        self._backends = Ring()
        for name, weight in weights.items():
            self._backends.add(name, max(1, round(weight * 20 * self._virtual_nodes)))

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        client = self._client(request)
        if client is None:
            return self._random.choices(backends, [backend.weight for backend in backends])[0]
        here = {backend.name: backend for backend in backends}
        return next(here[name] for name in self._backends.walk(client) if name in here)

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        client = self._client(request)
        if client is None:
            return two_choices(replicas, self._random.random)
        if len(self._replicas) + len(replicas) > MOST_REPLICAS:
            self._replicas = Ring()
        for replica in replicas:
            self._replicas.add(replica.id, self._virtual_nodes)
        requests = sum(replica.outstanding for replica in replicas) + 1
        bound = math.ceil(self._balance * requests / len(replicas))
        free = {replica.id: replica for replica in replicas if replica.outstanding < bound}
        return next(free[id] for id in self._replicas.walk(client) if id in free)

    def _client(self, request: RequestInfo) -> str | None:
        headers = request.headers
        if self._header is not None:
            return headers.get(self._header) or None
        pairs = (pair.partition("=") for pair in headers.get("cookie", "").split(";"))
        return next((value.strip() for name, _, value in pairs if name.strip() == self._cookie), None) or None

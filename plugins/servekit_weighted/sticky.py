"""The bundled routing policy ``sticky``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from servekit.interfaces import BackendView, DrawnUnit, ReplicaView, RequestInfo, RoutingPolicy, two_choices
from servekit_weighted.options import header_or_cookie, seeded
from servekit_weighted.split import WeightedSplit


class Sticky(RoutingPolicy):
    """A client, known by a header or a cookie, stays with its backend and its replica.

    Backends and replicas are chosen by rendezvous hashing (Thaler and Ravishankar, 1998): the choice is the same in
    every ingress worker and after every restart, and nothing is stored. When a backend or a replica goes away, only its
    own clients move, and they return with it. A backend's weight is its share of the clients, not of the requests.

    A replica takes the requests of its clients up to ``balance`` times the mean load: consistent hashing with bounded
    loads (Mirrokni, Thorup and Zadimoghaddam, 2018). Beyond that, a client's request goes to the next replica in the
    client's own order. Requests without the header or cookie are split by weight, and go to replicas by `two_choices`.
    """

    def __init__(
        self,
        header: str | None = None,
        cookie: str | None = None,
        balance: float = 1.25,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            header: the name of the header that tells clients apart, in any case; or
            cookie: the name of the cookie that tells clients apart.
            balance: a number above 1. Near 1, loads are even, and clients move at every burst; far above 1, clients
                stay whatever the load.
            seed: an integer with which the choices for requests without a key can be reproduced.
        """
        self._client = header_or_cookie(header, cookie)
        if not isinstance(balance, (int, float)) or isinstance(balance, bool) or not 1 < balance < math.inf:
            raise ValueError(f"balance is {balance!r}: give a number above 1, such as 1.25")
        self._balance = balance
        self._split = WeightedSplit()
        self._random = seeded(seed)

    def traffic_changed(self, weights: Mapping[str, float]) -> None:
        self._split.traffic_changed(weights)

    def draw_order(self, seed: int | None) -> DrawnUnit:
        """Draw the order of the requests without a key. A key's backend is drawn by hashing, once and for all: as the
        share of a backend grows, keys only ever move to it."""
        self._split.draw_order(seed)
        return DrawnUnit.KEY

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        client = self._client(request.headers)
        if client is None:
            return self._split.choose_backend(request, backends)
        # Each backend draws an exponential waiting time at the rate of its weight w; it is the first with chance w/Σw.
        return min(backends, key=lambda backend: -math.log(_draw(client, "backend", backend.name)) / backend.weight)

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        client = self._client(request.headers)
        if client is None:
            return two_choices(replicas, self._random.random)
        total = sum(replica.outstanding for replica in replicas) + 1
        bound = math.ceil(self._balance * total / len(replicas))  # above the mean: some replica is below it
        below = [replica for replica in replicas if replica.outstanding < bound]
        return min(below, key=lambda replica: _draw(client, "replica", replica.id))


def _draw(client: str, kind: str, name: str) -> float:
    """A number between 0 and 1, neither included: the same for the same arguments, and evenly spread over all."""
    digest = blake2b(f"{client}\0{kind}\0{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") // 2**12 + 0.5) / 2**52

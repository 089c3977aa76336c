"""One backend, as an ingress worker sees it: its ready replicas, and the requests that wait for room in one."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from servekit.config import BackendConfig

if TYPE_CHECKING:
    from servekit.ingress.endpoint import Endpoint
    from servekit.ingress.exchange import Exchange
    from servekit.ingress.replica import Replica


class Backend:
    """State of one backend, shared by the endpoints that send traffic to it."""

    def __init__(self, name: str, config: BackendConfig) -> None:
        self.name = name
        self.config = config
        self.replicas: dict[str, Replica] = {}
        """Every replica of the snapshot, ready or not."""
        self.ready: list[Replica] = []
        """Those with an open link. Changed in place: the targets of endpoints hold this very list."""
        self.waiting: OrderedDict[Exchange, None] = OrderedDict()
        """In the order in which they came; at most ``max_queued_requests``."""
        self.endpoints: set[Endpoint] = set()
        """Those with weight on it."""

    @property
    def coming(self) -> bool:
        """Whether there is, or will be, a replica."""
        return self.config.num_replicas > 0 or self.config.autoscaling is not None

    @property
    def is_full(self) -> bool:
        return len(self.waiting) >= self.config.max_queued_requests

    def add_ready(self, replica: Replica) -> None:
        if replica not in self.ready:
            self.ready.append(replica)

    def remove_ready(self, replica: Replica) -> None:
        if replica in self.ready:
            self.ready.remove(replica)


class TrafficTarget:
    """A backend with its weight in one endpoint's traffic. It is the `BackendView` of policies."""

    __slots__ = ("backend", "name", "replicas", "weight")

    def __init__(self, backend: Backend, weight: float) -> None:
        self.backend = backend
        self.name = backend.name
        self.weight = weight
        self.replicas = backend.ready

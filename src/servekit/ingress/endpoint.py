"""One endpoint, as an ingress worker sees it: its route, its policy, and the backends it may choose from now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from servekit.ingress.backend import Backend, TrafficTarget
from servekit.interfaces import RoutingPolicy
from servekit.wire.control_frames import EndpointRecord

if TYPE_CHECKING:
    from servekit.ingress.exchange import Exchange


class Endpoint:
    """State of one endpoint."""

    def __init__(self, entry: EndpointRecord, policy: RoutingPolicy) -> None:
        self.name = entry.name
        self.route = entry.options.route
        self.route_text = self.route or ""
        self.mount = entry.options.mount
        self.entry = entry
        self.policy = policy
        self.timeout_s = entry.options.timeout_s
        self.strict = entry.options.strict
        self.methods = _answered_methods(entry.methods)
        """None: every method goes to the handler."""
        self.targets: list[TrafficTarget] = []
        self.choices: list[TrafficTarget] = []
        """What the policy chooses from: the targets that have a ready replica; under ``strict``, where any has one, all
        of them, for the share of what is down is to fail."""
        self.waiting: OrderedDict[Exchange, None] = OrderedDict()
        """Requests that came while no backend had a ready replica but one was coming."""
        self.choose_backend, self.choose_replica = policy.choose_backend, policy.choose_replica
        # Asked once: the default of `choose_replica` needs no call where there is one replica, and few watch the ends.
        self.watches = type(policy).request_finished is not RoutingPolicy.request_finished
        self.picks_replica = type(policy).choose_replica is not RoutingPolicy.choose_replica

    def set_targets(self, backends: Mapping[str, Backend]) -> None:
        """Take over the entry's weights, those of weight 0 left out."""
        self.drop_targets()
        self.targets = [
            TrafficTarget(backends[name], weight) for name, weight in self.entry.traffic.items() if weight > 0
        ]
        for target in self.targets:
            target.backend.endpoints.add(self)
        self.refresh()

    def drop_targets(self) -> None:
        for target in self.targets:
            target.backend.endpoints.discard(self)
        self.targets = []

    def refresh(self) -> None:
        """Some backend's readiness has changed."""
        ready = [target for target in self.targets if target.replicas]
        self.choices = self.targets if self.strict and ready else ready

    @property
    def takes_bodies_whole(self) -> bool:
        """Whether a replica that may be chosen now is to be given bodies whole."""
        return any(not replica.streams_bodies for target in self.choices for replica in target.replicas)

    @property
    def coming(self) -> bool:
        return any(target.backend.coming for target in self.targets)

    @property
    def is_full(self) -> bool:
        return len(self.waiting) >= sum(target.backend.config.max_queued_requests for target in self.targets)

    @property
    def allow(self) -> str:
        """The value of an Allow header, as Flask orders it: by name."""
        return ", ".join(sorted(self.methods or ()))


def _answered_methods(methods: tuple[str, ...]) -> frozenset[str] | None:
    """As in Flask: HEAD comes with GET, and OPTIONS always."""
    if not methods:
        return None
    return frozenset(methods) | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())

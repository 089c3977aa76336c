"""An endpoint's policy while a roll-out is judged: which version each request was for, and what became of it.

What a version cannot serve counts against that version, and not for the one that answers in its place. So the policy is
asked for a version among all that have a share; and where that version cannot serve, once more, among those that can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Protocol, TypeVar, cast

from servekit.config import BackendConfig
from servekit.ingress.exchange import Exchange
from servekit.interfaces import BackendView, DrawnUnit, Outcome, ReplicaView, RequestInfo, RoutingPolicy
from servekit.tallies import FINE_BOUNDS, Tallies, count_time
from servekit.traces import SIDE
from servekit.wire.control_frames import RolloutEntry

VERSION = b"x-servekit-version"
"""The header by which a tester names a version."""
BASELINE, CANDIDATE = b"baseline", b"candidate"
"""The values of the header `SIDE`, alone or before `NAMED`."""
GONE = 499
"""The status of a request whose client has gone before it had an answer; above it are those of failures."""
NAMED = b";named"
"""The request's version was named by a tester: what is called on its behalf is not counted either."""


class _Backend(Protocol):
    """A `Backend`, as far as it matters here."""

    config: BackendConfig

    @property
    def missing(self) -> str:
        """Why it cannot serve; empty: it can, or will when a request comes."""


class JudgedTarget(BackendView, Protocol):
    """A `TrafficTarget`, as far as it matters here."""

    @property
    def backend(self) -> _Backend: ...


T = TypeVar("T", bound=BackendView)


class _Version:
    """The version that a request is for."""

    __slots__ = ("excused", "missed", "name", "named")

    def __init__(self, name: str, *, named: bool = False) -> None:
        self.name = name
        self.named = named
        """The request, or the one on whose behalf it is made, has named the version: it is not counted."""
        self.missed = False
        """The version could not serve, and another had to."""
        self.excused = False
        """Another had to, and that is nobody's fault."""


class JudgedPolicy(RoutingPolicy):
    """Stands before an endpoint's policy, to which everything goes on."""

    def __init__(
        self,
        policy: RoutingPolicy,
        rollout: RolloutEntry,
        endpoint: str,
        targets: Callable[[], Sequence[JudgedTarget]],
        tallies: Tallies,
    ) -> None:
        """
        Args:
            endpoint: its name.
            targets: gives the versions that have a share now, whether or not they can serve.
            tallies: where requests are counted, by version.
        """
        self.policy = policy
        self._rollout = rollout
        self._endpoint = endpoint
        self._targets = targets
        self._tallies = tallies
        self._versions: dict[Exchange, _Version] = {}
        """Of the requests that have not ended."""
        self._sides = {BASELINE: rollout.baseline, CANDIDATE: rollout.candidate}

    # -- choices -----------------------------------------------------------------------------------------------------

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        exchange = cast(Exchange, request)
        exchange.unusual = True  # So that `ended` is called.
        version = self._versions.get(exchange)
        if version is None:
            version = self._versions[exchange] = self._version_for(exchange)
        version.excused = False
        chosen = _by_name(version.name, backends) or self._other(exchange, version, backends)
        if self._rollout.propagate:
            self._pass_on(exchange, chosen.name, version)
        return chosen

    def _version_for(self, exchange: Exchange) -> _Version:
        """The version that a request names, or is told to keep to, where that one has a share; else one is drawn."""
        fields, rollout, targets = exchange.fields, self._rollout, self._targets()
        if rollout.header:
            name = fields.get(VERSION, b"").decode("latin-1")
            if name in self._sides.values() and _by_name(name, targets) is not None:
                return _Version(name, named=True)
        if exchange.chain is not None:
            side, named, _ = fields.get(SIDE, b"").partition(NAMED)
            name = self._sides.get(side, "")
            if _by_name(name, targets) is not None:
                return _Version(name, named=bool(named))
        drawn = self.policy.choose_backend(exchange, targets)
        if drawn not in targets:
            raise ValueError(f"choose_backend returned {drawn!r}, which is none of those that it was given")
        return _Version(drawn.name)

    def _other(self, exchange: Exchange, version: _Version, backends: Sequence[BackendView]) -> BackendView:
        """One that answers in the place of the version."""
        target = _by_name(version.name, self._targets())
        is_wanted = target is not None and target.backend.config.num_replicas > 0
        if _was_lost(exchange) or (target is not None and is_wanted and target.backend.missing):
            version.missed = True
        else:  # It was scaled down to nothing, or has no share any more.
            version.excused = True
        # One alone is not chosen: so a policy that remembers is not asked twice for one request.
        return backends[0] if len(backends) == 1 else self.policy.choose_backend(exchange, backends)

    def _pass_on(self, exchange: Exchange, chosen: str, version: _Version) -> None:
        """Tell the replica, and whoever its handler calls, which side answers."""
        side = next((side for side, name in self._sides.items() if name == chosen), b"")
        exchange.set_header(SIDE, side + NAMED if side and version.named else side)

    # -- counting ----------------------------------------------------------------------------------------------------

    def ended(self, exchange: Exchange, status: int, latency_s: float) -> None:
        """Count a request for its version: with an error where it ended with one, a replica was lost with it, another
        version had to answer, or its client did not wait for the answer: else a version that hangs would look well. One
        that ended before it had a version is counted for none."""
        version = self._versions.pop(exchange, None)
        if version is None or version.named or (version.excused and not version.missed):
            return
        failed = version.missed or status >= GONE or exchange.error == "broken_off" or _was_lost(exchange)
        slots = self._tallies.add(("judged", self._endpoint, version.name, "error" if failed else "ok"))
        count_time(slots, 0, FINE_BOUNDS, latency_s)

    # -- what goes on to the policy ----------------------------------------------------------------------------------

    def traffic_changed(self, weights: Mapping[str, float]) -> None:
        self.policy.traffic_changed(weights)

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        return self.policy.choose_replica(request, replicas)

    def draw_order(self, seed: int | None) -> DrawnUnit:
        return self.policy.draw_order(seed)

    def request_finished(self, request: RequestInfo, replica: ReplicaView, outcome: Outcome) -> None:
        self.policy.request_finished(request, replica, outcome)

    def close(self) -> None:
        self.policy.close()


def seed_of(seed: int, worker: str) -> int:
    """The seed of one ingress worker, by its id: each draws another order, and the same in each run."""
    return int.from_bytes(blake2b(f"{seed} {worker}".encode(), digest_size=8).digest(), "big")


def _was_lost(exchange: Exchange) -> bool:
    """Whether a replica has died with the request."""
    return any(step.what == "lost" for step in exchange.steps or ())


def _by_name(name: str, backends: Sequence[T]) -> T | None:
    return next((backend for backend in backends if backend.name == name), None)

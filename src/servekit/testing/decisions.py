"""The decisions of routing in an in-process instance: written down, and under a seed the same in every run."""

from __future__ import annotations

import inspect
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from servekit.errors import InvalidInputError
from servekit.factories import load_path
from servekit.inprocess import BY_INSTANCE
from servekit.interfaces import BackendView, DrawnUnit, Outcome, ReplicaView, RequestInfo, RoutingPolicy, _default_draw
from servekit.wire.control_frames import PluginRef

MOST_DECISIONS = 100_000
"""An instance keeps so many, the last ones."""


@dataclass(frozen=True)
class Decision:
    """One request was sent to one replica. A request that is sent again, as its replica died, has two."""

    endpoint: str
    backend: str
    replica: str
    """``r3`` is the third replica that the instance started; its id in ``status()`` begins with that."""
    request_id: str = field(compare=False)
    """Its ``X-Request-ID``. Not compared: where the client sent none, it differs in every run."""


class Decisions:
    """The decisions of one instance. It builds the policies, and puts itself around each."""

    def __init__(self, seed: int | None = None) -> None:
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
            raise InvalidInputError(f"seed is {seed!r}: give an integer")
        self._seeds = None if seed is None else random.Random(seed)
        self._made: deque[Decision] = deque(maxlen=MOST_DECISIONS)

    def made(self) -> list[Decision]:
        """Return them in order, to now. May be called on any thread."""
        return list(self._made.copy())

    def policy(self, ref: PluginRef, build: Callable[[PluginRef], RoutingPolicy]) -> RoutingPolicy:
        """Return the policy that ``build`` makes of ``ref``, with its decisions written down."""
        if self._seeds is None:
            return _Recorded(build(ref), self._made)
        seed = self._seeds.getrandbits(32)
        if not ref.path.startswith(BY_INSTANCE) and "seed" not in ref.options and _takes_seed(ref.path):
            ref = PluginRef(ref.path, {**ref.options, "seed": seed})
        policy = build(ref)
        return _Recorded(_Steady(policy, random.Random(seed).random), self._made)


def _takes_seed(path: str) -> bool:
    return "seed" in inspect.signature(load_path(path)).parameters


class _Around(RoutingPolicy):
    """A policy that passes everything on to another."""

    def __init__(self, policy: RoutingPolicy) -> None:
        self._policy = policy

    def traffic_changed(self, weights: Mapping[str, float]) -> None:
        self._policy.traffic_changed(weights)

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        return self._policy.choose_backend(request, backends)

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        return self._policy.choose_replica(request, replicas)

    def draw_order(self, seed: int | None) -> DrawnUnit:
        return self._policy.draw_order(seed)

    def request_finished(self, request: RequestInfo, replica: ReplicaView, outcome: Outcome) -> None:
        self._policy.request_finished(request, replica, outcome)

    def close(self) -> None:
        self._policy.close()


class _Recorded(_Around):
    """Writes down which replica is chosen."""

    def __init__(self, policy: RoutingPolicy, made: deque[Decision]) -> None:
        super().__init__(policy)
        self._made = made

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        chosen = super().choose_replica(request, replicas)
        if chosen in replicas:  # Or else the router refuses it.
            replica: Any = chosen  # An ingress worker's own object, which knows more than a policy may.
            self._made.append(Decision(request.endpoint, replica.backend.name, _steady_id(replica), request.id))
        return chosen


class _Steady(_Around):
    """Shows its policy the replicas in the order in which they were started, not in that in which they became ready,
    and by ids that have no chance in them. The default `choose_replica` draws from ``draw``.
    """

    def __init__(self, policy: RoutingPolicy, draw: Callable[[], float]) -> None:
        super().__init__(policy)
        self._draw = draw

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        chosen: BackendView = _real(super().choose_backend(request, [_SteadyBackend(backend) for backend in backends]))
        return chosen

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        token = _default_draw.set(self._draw)
        try:
            chosen: ReplicaView = _real(super().choose_replica(request, _in_order(replicas)))
        finally:
            _default_draw.reset(token)
        return chosen

    def request_finished(self, request: RequestInfo, replica: ReplicaView, outcome: Outcome) -> None:
        super().request_finished(request, _SteadyReplica(replica), outcome)


@dataclass(frozen=True)
class _SteadyReplica:
    real: ReplicaView

    @property
    def id(self) -> str:
        return _steady_id(self.real)

    @property
    def node(self) -> str:
        return self.real.node

    @property
    def outstanding(self) -> int:
        return self.real.outstanding

    @property
    def queue_length(self) -> int:
        return self.real.queue_length


@dataclass(frozen=True)
class _SteadyBackend:
    real: BackendView

    @property
    def name(self) -> str:
        return self.real.name

    @property
    def weight(self) -> float:
        return self.real.weight

    @property
    def replicas(self) -> Sequence[ReplicaView]:
        return _in_order(self.real.replicas)


def _real(shown: Any) -> Any:
    """Return what stands behind a view; and what is no view as it is, for the router to refuse."""
    return shown.real if isinstance(shown, (_SteadyBackend, _SteadyReplica)) else shown


def _in_order(replicas: Sequence[ReplicaView]) -> list[_SteadyReplica]:
    return [_SteadyReplica(replica) for replica in sorted(replicas, key=lambda replica: int(_steady_id(replica)[1:]))]


def _steady_id(replica: ReplicaView) -> str:
    """``r3`` of ``r3-5f09c2``."""
    return replica.id.partition("-")[0]

"""What is to be done so that the replicas there are become those asked for: a pure function."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from servekit.control.state import BackendRecord


class ReplicaState(str, enum.Enum):
    """Where a replica is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True)
class ReplicaFacts:
    """What the plan needs to know of one replica."""

    id: str
    backend: str
    revision: int
    state: ReplicaState
    number: int = 0
    """Replicas are counted as they start: the youngest goes first."""


@dataclass
class Plan:
    """What to start, by backend name, and which replicas to let go, by id."""

    start: list[str] = field(default_factory=list)
    retire: list[str] = field(default_factory=list)


def make_plan(
    backends: Mapping[str, BackendRecord],
    replicas: Iterable[ReplicaFacts],
    held_back: frozenset[str] = frozenset(),
    autoscaled: Mapping[str, int] = MappingProxyType({}),
) -> Plan:
    """The next steps.

    ``held_back`` are backends that may not start a replica now, because they keep failing; ``autoscaled`` has how many
    replicas a backend is to have in the place of its ``num_replicas``. Replicas of an older revision go when there are
    as many ready ones of the newest.
    """
    plan = Plan()
    by_backend: dict[str, list[ReplicaFacts]] = {}
    for replica in replicas:
        if replica.state is ReplicaState.DRAINING:
            continue
        if replica.backend in backends:
            by_backend.setdefault(replica.backend, []).append(replica)
        else:
            plan.retire.append(replica.id)
    for name, record in backends.items():
        wanted = autoscaled.get(name, record.config.num_replicas)
        own = by_backend.get(name)
        if own is None and not wanted:
            continue
        current = [replica for replica in own or () if replica.revision == record.revision]
        older = [replica for replica in own or () if replica.revision != record.revision]
        if name not in held_back:
            plan.start += [name] * (wanted - len(current))
        # Those still starting go before those that serve, the young before the old.
        current.sort(key=lambda replica: (replica.state is ReplicaState.READY, -replica.number))
        plan.retire += [replica.id for replica in current[: max(0, len(current) - wanted)]]
        if sum(replica.state is ReplicaState.READY for replica in current) >= wanted:
            plan.retire += [replica.id for replica in older]
    return plan

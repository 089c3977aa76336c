"""Which replicas to start and which to let go, so that each backend has those that were asked for: a pure function."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from servekit.config import BackendConfig
from servekit.control.state import BackendRecord


class ReplicaState(str, enum.Enum):
    """The stages of a replica's life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


WORN_REVISION = -1
"""Of a replica that is to be replaced by one of the same revision, as one of an older revision is."""


@dataclass(frozen=True)
class ReplicaFacts:
    """One replica, as far as the plan depends on it."""

    id: str
    backend: str
    revision: int
    state: ReplicaState
    number: int = 0
    """Replicas are numbered as they start: the youngest goes first."""


@dataclass
class Plan:
    """The backends, by name, of which to start a replica each, and the ids of the replicas to let go."""

    start: list[str] = field(default_factory=list)
    retire: list[str] = field(default_factory=list)


def make_plan(
    backends: Mapping[str, BackendRecord],
    replicas: Iterable[ReplicaFacts],
    held_back: frozenset[str] = frozenset(),
    autoscaled: Mapping[str, int] = MappingProxyType({}),
    both: Container[str] = (),
) -> Plan:
    """The next steps.

    ``held_back`` are backends that may not start a replica now, because they keep failing; ``autoscaled`` has how many
    replicas a backend is to have in the place of its ``num_replicas``; ``both`` are backends whose older replicas stay
    beside the new ones for now, where they may. Replicas of an older revision go when there are as many ready ones of
    the newest, or as ``max_surge`` and ``max_unavailable`` let them; where there is no place for both, one goes before
    the next starts.
    """
    plan = Plan()
    by_backend: dict[str, list[ReplicaFacts]] = {}
    leaving: Counter[str] = Counter()
    for replica in replicas:
        if replica.state is ReplicaState.DRAINING:
            leaving[replica.backend] += 1
        elif replica.backend in backends:
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
        lacking = wanted - len(current)
        room = _room(record, wanted, len(own or ()) + leaving[name])
        if name not in held_back:
            plan.start += [name] * min(lacking, room)
        # Replicas that are still starting go before those that serve, the young before the old.
        current.sort(key=_first_to_go)
        plan.retire += [replica.id for replica in current[: max(0, -lacking)]]
        outdated = _outdated(record.config, wanted, current, older, name in both)
        is_settled = all(replica.state is ReplicaState.READY for replica in current) and not leaving[name]
        if not outdated and older and room <= 0 < lacking and is_settled and name not in held_back:
            outdated = [min(older, key=_first_to_go)]
        plan.retire += [replica.id for replica in outdated]
    return plan


def _first_to_go(replica: ReplicaFacts) -> tuple[bool, int]:
    return replica.state is ReplicaState.READY, -replica.number


def _room(record: BackendRecord, wanted: int, there: int) -> int:
    """How many replicas may start beside those that are there, the ones on their way out as well."""
    surge, most = record.config.max_surge, record.most_replicas
    room = wanted if surge is None else wanted + surge - there
    return room if most is None else min(room, most - there)


def _outdated(
    config: BackendConfig, wanted: int, current: list[ReplicaFacts], older: list[ReplicaFacts], both: bool
) -> list[ReplicaFacts]:
    """The replicas of older revisions that go now."""
    ready = sum(replica.state is ReplicaState.READY for replica in current)
    at_once = config.max_surge is None and not config.max_unavailable
    if ready >= wanted and not (at_once and both):
        return older
    if at_once:
        return []
    serving = [replica for replica in older if replica.state is ReplicaState.READY]
    spare = max(0, ready + len(serving) - max(0, wanted - config.max_unavailable))
    return [replica for replica in older if replica not in serving] + serving[:spare]

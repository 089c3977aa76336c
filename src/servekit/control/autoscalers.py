"""The backends that autoscale: how many replicas each is to have now, and the load of each at the last decision."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from servekit.control.events import EventLog
from servekit.control.ingresses import IngressFleet
from servekit.control.plan import ReplicaState
from servekit.control.replica import ManagedReplica
from servekit.control.replicas import ReplicaFleet
from servekit.control.scaling import Scaling, begin, decide, within
from servekit.control.state import BackendRecord

DECIDE_EVERY_S = 1.0


class Autoscalers:
    """Holds the last decision for each backend. Before its first decision, a backend is to have its
    ``num_replicas``."""

    def __init__(
        self,
        ingresses: IngressFleet,
        replicas: ReplicaFleet,
        *,
        is_failing: Callable[[str], bool],
        changed: Callable[[], None],
        event_log: EventLog,
    ) -> None:
        """
        Args:
            is_failing: whether a backend's replicas keep failing, so that nobody waits for them to become ready.
            changed: called when some backend is to have another number of replicas.
        """
        self._ingresses = ingresses
        self._replicas = replicas
        self._is_failing = is_failing
        self._changed = changed
        self._event_log = event_log
        self._records: dict[str, BackendRecord] = {}
        self._states: dict[str, Scaling] = {}
        self._timer: asyncio.TimerHandle | None = None

    def adopt(self, record: BackendRecord) -> None:
        """Begin with the number of replicas that an earlier controller left running."""
        if record.config.autoscaling is not None:
            running = sum(r.state is not ReplicaState.DRAINING for r in self._replicas.of(record.name))
            self._states[record.name] = begin(record.config.autoscaling, running, time.monotonic())

    def follow(self, backends: Mapping[str, BackendRecord]) -> dict[str, int]:
        """Decide for these backends from now on; returns how many replicas each that autoscales is to have."""
        self._records = {name: record for name, record in backends.items() if record.config.autoscaling is not None}
        for name in self._states.keys() - self._records.keys():
            del self._states[name]
        if self._records and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DECIDE_EVERY_S, self._decide_again)
        return {name: self.replicas(record) for name, record in self._records.items()}

    def stop(self) -> None:
        self._records = {}
        if self._timer is not None:
            self._timer.cancel()

    # -- what is known -----------------------------------------------------------------------------------------------

    def replicas(self, record: BackendRecord) -> int:
        """How many replicas the backend is to have, whether it autoscales or not."""
        config, state = record.config.autoscaling, self._states.get(record.name)
        if config is None:
            return record.config.num_replicas
        return within(config, record.config.num_replicas if state is None else state.replicas)

    def load(self, backend: str) -> float:
        """The load that the last decision saw, smoothed."""
        state = self._states.get(backend)
        return 0.0 if state is None else state.load

    # -- decisions ---------------------------------------------------------------------------------------------------

    def decide(self) -> None:
        """Decide for all backends: called about once a second, and as soon as requests wait."""
        if not self._records:
            return
        own: dict[str, list[ManagedReplica]] = {name: [] for name in self._records}
        for replica in self._replicas.replicas.values():
            if replica.record.name in own and replica.state is not ReplicaState.DRAINING:
                own[replica.record.name].append(replica)
        changes = [self._decide(record, own[name]) for name, record in self._records.items()]
        if any(changes):
            self._changed()

    def _decide(self, record: BackendRecord, own: list[ManagedReplica]) -> bool:
        """Decide for one backend; returns whether its number of replicas changed.

        Nothing changes until each ingress worker has reported.
        """
        config = record.config.autoscaling
        load = self._ingresses.load(record.name, [replica.id for replica in own])
        if config is None or load is None:
            return False
        before, now = self.replicas(record), time.monotonic()
        starting = (
            before > 0
            and not self._is_failing(record.name)
            and all(replica.state is ReplicaState.STARTING for replica in own)
        )
        past = self._states.get(record.name) or begin(config, before, now)
        state = self._states[record.name] = decide(config, past, load, now, starting=starting)
        if state.replicas != before:
            text = f"backend {record.name} goes from {before} to {state.replicas} replicas (load {load})"
            self._event_log.add("backend_scaled", text, backend=record.name)
        return state.replicas != before

    def _decide_again(self) -> None:
        self._timer = None
        self.decide()
        if self._records and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DECIDE_EVERY_S, self._decide_again)

"""The replicas of the instance: each is started or taken over, and held until it has ended."""

from __future__ import annotations

import itertools
import os

import msgspec

from servekit.config import STOP_GRACE_S
from servekit.control.links import ControlServer
from servekit.control.plan import ReplicaState
from servekit.control.replica import ManagedReplica, ReplicaContext
from servekit.control.state import BackendRecord
from servekit.control.store import WorkerRecord
from servekit.errors import BackendStartError
from servekit.tasks import TaskSet


class ReplicaFleet:
    """Holds every replica while it lives, and the task of that life."""

    def __init__(self, context: ReplicaContext, control: ControlServer) -> None:
        self.replicas: dict[str, ManagedReplica] = {}
        self.metrics = context.metrics
        self._context = context
        self._control = control
        self._attached: list[ManagedReplica] = []
        self._numbers = 0
        self._tasks = TaskSet()

    def start(self, record: BackendRecord) -> None:
        """Start one more replica."""
        self._numbers += 1
        taken = {replica.rank for replica in self.of(record.name)}
        rank = next(rank for rank in itertools.count() if rank not in taken)
        replica = self._new(f"r{self._numbers}-{os.urandom(3).hex()}", record, self._numbers, rank)
        replica.add_event("replica_started", "is started")
        self._follow(replica)

    def attach(self, record: BackendRecord, worker: WorkerRecord) -> None:
        """Let a replica of the backend dial that an earlier controller started; `resume` takes it over."""
        self._numbers = max(self._numbers, worker.number)
        record = msgspec.structs.replace(record, revision=worker.revision)
        self._attached.append(self._new(worker.worker_id, record, worker.number, worker.rank, worker))

    def resume(self) -> None:
        """Take over the replicas that were attached. A controller that ends before this leaves them alone."""
        for replica in self._attached:
            self._follow(replica)
            replica.tell_ingresses()  # The addresses may have changed since the replica dialled.
        self._attached.clear()

    def of(self, backend: str) -> list[ManagedReplica]:
        return [replica for replica in self.replicas.values() if replica.record.name == backend]

    async def stop(self, timeout_s: float) -> None:
        """End all replicas; return when they have ended, or after ``timeout_s`` and the grace that runtimes give."""
        for replica in self.replicas.values():
            if replica.state is not ReplicaState.DRAINING:
                replica.mark_draining()
            replica.let_go(timeout_s)
        await self._tasks.wait(timeout_s + STOP_GRACE_S + 5.0)
        await self._tasks.close()

    def _new(
        self, replica_id: str, record: BackendRecord, number: int, rank: int, earlier: WorkerRecord | None = None
    ) -> ManagedReplica:
        replica = ManagedReplica(replica_id, record, number, self._context, earlier, rank)
        self._control.workers[replica_id] = replica
        self.metrics.began(replica_id, record.name)
        replica.tell()
        return replica

    def _follow(self, replica: ManagedReplica) -> None:
        self.replicas[replica.id] = replica
        self._tasks.spawn(self._live(replica))

    async def _live(self, replica: ManagedReplica) -> None:
        events, how = self._context.events, ""
        try:
            how = await replica.live()
        finally:
            del self.replicas[replica.id], self._control.workers[replica.id]
            why = str(replica.failure or replica.worn or how)
            if not replica.ended_unasked:
                replica.add_event("replica_ended", "has ended", detail=why)
            replica.tell("gone", why)
            if replica.ended_unasked:
                if replica.failure is None:
                    replica.fail(BackendStartError(f"a replica of backend {replica.record.name!r} ended: {how}"))
                events.replica_ended(replica)
            events.changed()

"""All replicas of the instance."""

from __future__ import annotations

import asyncio
import os

from servekit.config import STOP_GRACE_S
from servekit.control.links import ControlServer
from servekit.control.plan import ReplicaState
from servekit.control.replica import ManagedReplica, ReplicaContext
from servekit.control.state import BackendRecord
from servekit.control.store import WorkerRecord
from servekit.errors import BackendStartError
from servekit.tasks import TaskSet


class ReplicaFleet:
    """Has a task for the life of each replica."""

    def __init__(self, context: ReplicaContext, control: ControlServer) -> None:
        self.replicas: dict[str, ManagedReplica] = {}
        self._context = context
        self._control = control
        self._numbers = 0
        self._tasks = TaskSet()

    def start(self, record: BackendRecord) -> None:
        """Begin one more replica."""
        self._numbers += 1
        self._add(
            ManagedReplica(f"r{self._numbers}-{os.urandom(3).hex()}", record, self._numbers, self._context),
        )

    def attach(self, record: BackendRecord, worker: WorkerRecord) -> None:
        """Take over a replica that an earlier controller started."""
        self._numbers = max(self._numbers, worker.number)
        self._add(ManagedReplica(worker.worker_id, record, worker.number, self._context, worker))

    async def wait_known(self, timeout_s: float) -> None:
        """Until each replica there is now is ready or gone, or for ``timeout_s``."""
        waiting = [asyncio.ensure_future(replica.known.wait()) for replica in self.replicas.values()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=timeout_s)
            for waiter in late:
                waiter.cancel()

    def of(self, backend: str) -> list[ManagedReplica]:
        return [replica for replica in self.replicas.values() if replica.record.name == backend]

    async def stop(self, timeout_s: float) -> None:
        """End all; return when they have ended. Bounded by ``timeout_s`` and the grace that runtimes give."""
        for replica in self.replicas.values():
            if replica.state is not ReplicaState.DRAINING:
                replica.mark_draining()
            replica.let_go(timeout_s)
        await self._tasks.wait(timeout_s + STOP_GRACE_S + 5.0)
        await self._tasks.close()

    def _add(self, replica: ManagedReplica) -> None:
        self.replicas[replica.id] = self._control.workers[replica.id] = replica
        self._tasks.spawn(self._live(replica))
        replica.tell()

    async def _live(self, replica: ManagedReplica) -> None:
        events, how = self._context.events, ""
        try:
            how = await replica.live()
        finally:
            del self.replicas[replica.id], self._control.workers[replica.id]
            replica.tell("gone", str(replica.failure or how))
            if replica.ended_unasked:
                if replica.failure is None:
                    replica.fail(BackendStartError(f"a replica of backend {replica.record.name!r} ended: {how}"))
                events.replica_ended(replica)
            events.changed()

"""The replicas: each one started, watched, drained and stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from servekit.code import place
from servekit.config import STOP_GRACE_S
from servekit.control import user_config
from servekit.control.plan import ReplicaState
from servekit.control.replica import FIRST_POLL_S, Replica
from servekit.control.replica_links import ReplicaLinks
from servekit.control.runtimes import Runtimes
from servekit.control.state import BackendRecord
from servekit.control.store import WorkerRecord
from servekit.errors import BackendStartError, DeadlineError, ServekitError
from servekit.interfaces import Exit, ReplicaEvent, ReplicaRuntime, WorkerSpec
from servekit.wire.control_frames import Drain

_log = logging.getLogger("servekit.control")

POLL_S = 0.05
"""Between two looks at a worker whose control link is not there; the first looks come sooner."""
WATCH_S = 1.0
"""Between two looks at one whose link is."""


class ReplicaFleet(ReplicaLinks):
    """All replicas of the instance. ``changed`` is called whenever the plan may have become another."""

    def __init__(
        self,
        runtimes: Runtimes,
        *,
        bootstrap: Callable[[str, ReplicaRuntime], Any],
        blobs: Callable[[BackendRecord, bool], Awaitable[tuple[bytes, bytes]]],
        save: Callable[[WorkerRecord], Any],
        forget: Callable[[str], Any],
        changed: Callable[[], None],
        observe: Callable[[ReplicaEvent], None],
        debug: bool,
        directory: str,
    ) -> None:
        """``directory``: of the instance."""
        super().__init__(blobs, changed, observe, debug=debug)
        self._runtimes = runtimes
        self._bootstrap = bootstrap
        self._save = save
        self._forget = forget
        self._directory = directory
        self._numbers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.ended: Callable[[Replica], None] = lambda replica: None
        """Told of each replica that ended without having been told to."""

    # -- what the controller asks ---------------------------------------------------------------------------------

    def start(self, record: BackendRecord) -> None:
        """Begin one more replica."""
        self._numbers += 1
        replica = Replica(f"r{self._numbers}-{os.urandom(3).hex()}", record, self._numbers)
        self._adopt(replica, self._live(replica, None))

    def attach(self, record: BackendRecord, worker: WorkerRecord) -> None:
        """Take over a replica that an earlier controller started."""
        self._numbers = max(self._numbers, worker.number)
        replica = Replica(worker.worker_id, record, worker.number)
        replica.started_at = worker.started_at
        replica.is_attached = True
        self._adopt(replica, self._live(replica, worker))

    async def wait_known(self, timeout_s: float) -> None:
        """Until each replica there is now is ready or gone, or for ``timeout_s``."""
        waiting = [asyncio.ensure_future(replica.known.wait()) for replica in self.replicas.values()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=timeout_s)
            for waiter in late:
                waiter.cancel()

    def update(self, replica: Replica, record: BackendRecord) -> None:
        """Its backend has another config, of which it can take over what has changed."""
        if replica.record.config.user_config != record.config.user_config:
            replica.user_config.refused = None
        replica.record = record
        if replica.is_built:
            user_config.bring(replica)

    def mark_draining(self, replica_id: str) -> None:
        """It gets no more requests; `let_go` follows, when every ingress worker knows."""
        replica = self.replicas[replica_id]
        replica.state = ReplicaState.DRAINING
        self._tell(replica)

    def let_go(self, replica_id: str, drain_timeout_s: float) -> None:
        """End it, once it has answered what it has."""
        replica = self.replicas.get(replica_id)
        if replica is not None:
            replica.drain_timeout_s = drain_timeout_s
            replica.told_to_go.set()
            replica.moved.set()

    def of(self, backend: str) -> list[Replica]:
        return [replica for replica in self.replicas.values() if replica.record.name == backend]

    async def stop(self, timeout_s: float) -> None:
        """End all; return when they have ended. Bounded by ``timeout_s`` and the grace that runtimes give."""
        for replica in list(self.replicas.values()):
            if replica.state is not ReplicaState.DRAINING:
                self.mark_draining(replica.id)
            self.let_go(replica.id, timeout_s)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s + STOP_GRACE_S + 5.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- one replica's life ---------------------------------------------------------------------------------------

    def _adopt(self, replica: Replica, life: Any) -> None:
        self.replicas[replica.id] = replica
        task = asyncio.ensure_future(life)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._tell(replica)

    async def _live(self, replica: Replica, worker: WorkerRecord | None) -> None:
        why = ""
        try:
            record = replica.record
            replica.runtime = await self._runtimes.get(record.runtime, record.runtime_options)
            if worker is None:
                await self._begin(replica)
            else:
                await self._find(replica, worker)
            await self._await_ready(replica)
            why = await self._watch(replica)
        except ServekitError as error:
            replica.failure = error
        except Exception as error:
            _log.exception("replica %s", replica.id)
            replica.failure = BackendStartError(f"replica {replica.id} of {replica.record.name!r} failed: {error}")
        finally:
            asked = replica.told_to_go.is_set()
            await asyncio.shield(self._end(replica))
            del self.replicas[replica.id]
            if replica.link is not None:
                replica.link.peer_ended()
            replica.known.set()
            self._tell(replica, "gone", str(replica.failure or why))
            if not asked:
                if replica.failure is None:
                    replica.failure = BackendStartError(f"a replica of backend {replica.record.name!r} ended: {why}")
                self.ended(replica)
            self._changed()

    async def _begin(self, replica: Replica) -> None:
        record = replica.record
        spec = WorkerSpec(
            replica.id,
            record.name,
            await self._bootstrap(replica.id, replica.runtime),
            record.worker_options,
            place.folders(self._directory, record.code) if record.code else (),
            record.distributions,
        )
        replica.handle = await self._runtimes.start(replica.runtime, spec)
        await self._save(
            WorkerRecord(
                replica.id, record.name, record.revision, replica.handle.state, replica.number, replica.started_at
            )
        )

    async def _find(self, replica: Replica, worker: WorkerRecord) -> None:
        try:
            replica.handle = await self._runtimes.call(replica.runtime.attach, worker.handle)
        except LookupError as error:
            raise BackendStartError(f"replica {replica.id} is gone: {error}") from error

    async def _await_ready(self, replica: Replica) -> None:
        """Until it is ready, or told to go. Raises when it will not be."""
        record = replica.record
        ends = time.monotonic() + record.config.startup_timeout_s
        while replica.state is ReplicaState.STARTING and not replica.told_to_go.is_set():
            ended = await self._heard_or_ended(replica)
            if replica.failure is not None:
                raise replica.failure
            if ended is not None:
                raise BackendStartError(
                    f"a replica of backend {record.name!r} ended before it was ready: {ended.reason}; "
                    "what it printed is in the terminal or log of this instance"
                )
            if time.monotonic() > ends:
                raise DeadlineError(
                    f"a replica of backend {record.name!r} was not ready within its startup_timeout_s of "
                    f"{record.config.startup_timeout_s:g} s"
                )

    async def _watch(self, replica: Replica) -> str:
        """Until it ends, or is told to go and drained; returns how it ended."""
        drained_by = float("inf")
        while True:
            ended = await self._heard_or_ended(replica)
            if ended is not None:
                return ended.reason
            if replica.told_to_go.is_set() and drained_by == float("inf"):
                drained_by = time.monotonic() + replica.drain_timeout_s + 1.0
                if replica.link is None or not replica.ready_at or replica.drain_timeout_s <= 0:
                    return "stopped"  # It has nothing that could be drained.
                replica.link.send(Drain(replica.drain_timeout_s))
            if time.monotonic() > drained_by:
                replica.overdue = True
                return "not drained in time"

    async def _heard_or_ended(self, replica: Replica) -> Exit | None:
        """Something was heard of the replica, or the runtime says that it ended, or it is time to look again."""
        if replica.link is not None and not replica.told_to_go.is_set():
            wait_s = WATCH_S
        else:
            wait_s, replica.poll_s = replica.poll_s, min(2 * replica.poll_s, POLL_S)
        try:
            await asyncio.wait_for(replica.moved.wait(), wait_s)
        except asyncio.TimeoutError:
            pass
        else:
            replica.moved.clear()
            replica.poll_s = FIRST_POLL_S
            if replica.link is not None:
                return None
        assert replica.handle is not None
        return await self._runtimes.call(replica.runtime.poll, replica.handle)

    async def _end(self, replica: Replica) -> None:
        if replica.handle is None:
            return
        # One that hangs has had its time.
        grace_s = 1.0 if replica.link is None or replica.overdue else STOP_GRACE_S
        try:
            await self._runtimes.call(replica.runtime.stop, replica.handle, grace_s)
        except ServekitError:
            _log.exception("replica %s could not be stopped", replica.id)
        await self._forget(replica.id)

"""The controller: holds what was asked for, and makes the world match it.

Everything runs on one event loop. A change is checked, saved, and becomes the desired state; `_reconcile` plans from it
what replicas to start and to let go, and publishes a snapshot; a change returns when every ingress worker has that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import msgspec

from servekit.config import DRAIN_TIMEOUT_S, REPLICA_FIELDS, backend_config
from servekit.control import state
from servekit.control.counts import Counts
from servekit.control.failures import Failures
from servekit.control.ingresses import IngressFleet
from servekit.control.plan import ReplicaState, make_plan
from servekit.control.replica import Replica
from servekit.control.replicas import ReplicaFleet
from servekit.control.scaling import Autoscalers
from servekit.control.snapshot import Content, content_of
from servekit.control.state import BackendRecord, Desired, EndpointRecord
from servekit.control.waits import Waits
from servekit.control.writer import Writer
from servekit.errors import BackendStartError, InUseError, ServekitError
from servekit.interfaces import TrafficEvent
from servekit.plugins import Registry
from servekit.wire.control_frames import ReplicaEntry

_log = logging.getLogger("servekit.control")

TAKEN_BACK_TIMEOUT_S = 10.0
"""How long a change that failed waits for replicas to have their old ``user_config`` again."""


class Controller:
    """Owns the desired state. Every method is called on its loop."""

    def __init__(
        self,
        desired: Desired,
        *,
        writer: Writer,
        registry: Registry,
        ingresses: IngressFleet,
        replicas: ReplicaFleet,
        counts: Counts,
    ) -> None:
        self.desired = desired
        self.registry = registry
        self.ingresses = ingresses
        self.replicas = replicas
        self._writer = writer
        self._lock = asyncio.Lock()
        self.failures: defaultdict[str, Failures] = defaultdict(Failures)
        self.autoscalers = Autoscalers(counts, ingresses, replicas, is_failing=self._is_failing, changed=self.wake)
        self._waits = Waits(ingresses, replicas, self.autoscalers, lambda: self.desired)
        self._slots: dict[str, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._published: tuple[Desired, Content] | None = None
        replicas.ended = self._replica_ended
        replicas.unhealthy = self._replica_unhealthy

    # -- changes -----------------------------------------------------------------------------------------------------

    async def create_endpoint(self, record: EndpointRecord) -> None:
        await self._change(lambda desired: state.add_endpoint(desired, record))
        if record.traffic:
            self._tell_traffic(record.name)

    async def delete_endpoint(self, name: str) -> None:
        await self._change(lambda desired: state.remove_endpoint(desired, name))

    async def set_traffic(self, name: str, shares: dict[str, float]) -> None:
        changed: list[str] = []

        def change(desired: Desired) -> Desired:
            after, names = state.set_traffic(desired, name, shares)
            changed.extend(names)
            return after

        await self._change(change)
        for endpoint in changed:
            self._tell_traffic(endpoint)

    async def create_backend(self, record: BackendRecord, *, wait: bool) -> None:
        """Raises what kept the first replica from becoming ready; the backend is then gone again."""
        await self._change(lambda desired: state.add_backend(desired, record))
        if not wait:
            return
        try:
            await self._waits.ready(record, self.failures[record.name])
        except ServekitError:
            with contextlib.suppress(InUseError):  # Somebody gave it traffic meanwhile; then it stays.
                await self.delete_backend(record.name)
            raise

    async def delete_backend(self, name: str) -> None:
        """Returns when its replicas have ended."""
        await self._change(lambda desired: state.remove_backend(desired, name))
        self.failures.pop(name, None)
        self._slots.pop(name, None)
        await self._waits.gone(name)

    async def update_backend_config(self, name: str, changes: dict[str, Any]) -> None:
        """Returns when as many replicas as asked for are ready, and each ready one has taken over its ``user_config``.

        Where one cannot start, or raises on its ``user_config``, the old config is back.
        """
        old = new = self.desired.backend(name)

        def change(desired: Desired) -> Desired:
            nonlocal old, new
            old = desired.backend(name)
            config = backend_config(changes, old.config)
            replaced = any(getattr(config, field) != getattr(old.config, field) for field in REPLICA_FIELDS)
            # Above those of replicas that a change which failed has left.
            newest = max([old.revision, *(replica.record.revision for replica in self.replicas.of(name))])
            new = msgspec.structs.replace(old, config=config, revision=newest + 1 if replaced else old.revision)
            return state.replace_backend(desired, new)

        await self._change(change)
        try:
            await self._waits.ready(new, self.failures[name])
            await self._waits.taken(new, new.config.startup_timeout_s)
        except ServekitError:
            await self._change(lambda now: state.replace_backend(now, old) if now.backends.get(name) is new else now)
            with contextlib.suppress(ServekitError):  # The first error is the one to tell of.
                await self._waits.taken(old, TAKEN_BACK_TIMEOUT_S)
            raise

    def slots(self, record: BackendRecord) -> int:
        """Calls of the handler at a time in one replica: what was set, else what replicas said; 1 before they did."""
        set_by_user = record.config.max_concurrent_queries
        return self._slots.get(record.name, 1) if set_by_user is None else set_by_user

    async def _change(self, change: Callable[[Desired], Desired]) -> None:
        """Make a change, whole or not at all; return when every live ingress worker has applied it."""
        async with self._lock:
            before = self.desired
            after = change(before)
            await self._writer.call(lambda store: store.save(before, after))
            self.desired = after
            version = self._reconcile()
        await self.ingresses.wait_applied(version)

    def _tell_traffic(self, endpoint: str) -> None:
        record = self.desired.endpoints.get(endpoint)
        if record is not None:
            self.registry.notify("servekit_traffic_changed", event=TrafficEvent(endpoint, dict(record.traffic)))

    # -- making the world match ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the world match what was loaded; the replicas of an earlier controller have been attached."""
        for record in self.desired.backends.values():
            self.autoscalers.adopt(record)
        self.wake()

    def wake(self) -> None:
        """Something may have to be done."""
        self._waits.progress.set()
        if not self._stopping:
            self._reconcile()

    def _reconcile(self) -> int:
        """Take the next steps; return the version of the snapshot that ingress workers are to have."""
        self._update_replicas()
        autoscaled = self.autoscalers.follow(self.desired.backends)
        now = time.monotonic()
        held_back = {name for name, failures in self.failures.items() if failures.not_before > now}
        facts = [replica.facts for replica in self.replicas.replicas.values()]
        plan = make_plan(self.desired.backends, facts, frozenset(held_back), autoscaled)
        for name in plan.start:
            self.replicas.start(self.desired.backends[name])
        for replica_id in plan.retire:
            self.replicas.mark_draining(replica_id)
        version = self._publish()
        if plan.retire:
            self._spawn(self._let_go(plan.retire, version, DRAIN_TIMEOUT_S))
        return version

    def _update_replicas(self) -> None:
        """Tell replicas what of their backend's config they can take over."""
        for replica in self.replicas.replicas.values():
            record = self.desired.backends.get(replica.record.name)
            if (
                record is not None
                and record is not replica.record
                and record.revision == replica.record.revision
                and replica.state is not ReplicaState.DRAINING
            ):
                self.replicas.update(replica, record)

    def _is_failing(self, backend: str) -> bool:
        return self.failures[backend].failed_starts > 0

    def _publish(self) -> int:
        ready: dict[str, list[ReplicaEntry]] = {}
        leaving = []
        for replica in self.replicas.replicas.values():
            if replica.state is ReplicaState.READY:
                name = replica.record.name
                self._slots[name] = replica.capabilities.slots
                self.failures[name].failed_starts = 0
                ready.setdefault(name, []).append(replica.entry)
            elif replica.may_have_calls:
                leaving.append(replica.id)
        content = content_of(self.desired, ready, self._published, leaving)
        self._published = (self.desired, content)
        return self.ingresses.publish(content)

    async def _let_go(self, replica_ids: list[str], version: int, drain_timeout_s: float) -> None:
        """A replica ends only after every ingress worker knows that it is to get no more."""
        try:
            await self.ingresses.wait_applied(version)
        except ServekitError as error:
            _log.warning("letting replicas go all the same: %s", error)
        for replica_id in replica_ids:
            self.replicas.let_go(replica_id, drain_timeout_s)

    def _replica_ended(self, replica: Replica) -> None:
        """A replica ended by itself: another follows, later and later when they keep failing."""
        if replica.record.name in self.desired.backends and not self._stopping:
            self._failed(replica)

    def _replica_unhealthy(self, replica: Replica, reason: str) -> None:
        """A replica's handler says that it cannot go on: it gets no more requests, and another takes its place."""
        name = replica.record.name
        if name not in self.desired.backends or self._stopping:
            return
        replica.failure = BackendStartError(f"a replica of backend {name!r} was replaced: {reason}")
        self._failed(replica)
        self.replicas.mark_draining(replica.id)
        version = self._reconcile()
        # What it has may end, in the time that its next check would have had; one that hangs ends nothing.
        timeout_s = min(DRAIN_TIMEOUT_S, replica.record.config.health_check_timeout_s)
        self._spawn(self._let_go([replica.id], version, timeout_s))

    def _failed(self, replica: Replica) -> None:
        ready_s = time.monotonic() - replica.ready_at if replica.ready_at else 0.0
        pause_s = self.failures[replica.record.name].add(replica.failure, ready_s)
        _log.error("replica %s: %s", replica.id, replica.failure)
        asyncio.get_running_loop().call_later(pause_s + 0.001, self.wake)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- the end -----------------------------------------------------------------------------------------------------

    async def stop(self, timeout_s: float) -> None:
        """Ingress workers first, so that what is in flight finds its replicas; then the replicas."""
        self._stopping = True
        self.autoscalers.stop()
        ends = time.monotonic() + timeout_s
        await self.ingresses.stop(timeout_s)
        # Nobody waits any more for what the replicas still have.
        await self.replicas.stop(max(1.0, ends - time.monotonic()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

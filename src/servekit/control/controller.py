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

from servekit.backoff import Backoff
from servekit.config import DRAIN_TIMEOUT_S, REPLICA_FIELDS, backend_config
from servekit.control import state
from servekit.control.autoscalers import Autoscalers
from servekit.control.events import WorkerEvents
from servekit.control.ingresses import IngressFleet
from servekit.control.plan import ReplicaState, make_plan
from servekit.control.replica import ManagedReplica
from servekit.control.replicas import ReplicaFleet
from servekit.control.snapshot import Content, content_of
from servekit.control.state import BackendRecord, Desired
from servekit.control.store import StoreThread
from servekit.errors import BackendStartError, DeadlineError, InUseError, ServekitError
from servekit.interfaces import ReplicaEvent, TrafficEvent
from servekit.plugins import Registry
from servekit.tasks import TaskSet, came_within
from servekit.wire.control_frames import EndpointRecord, ReplicaEntry

_log = logging.getLogger("servekit.control")

ADOPTION_TIMEOUT_S = 5.0
"""How long a controller waits for the replicas of its predecessor, which dial it at least once a second."""
TAKEN_BACK_TIMEOUT_S = 10.0
"""How long a change that failed waits for replicas to have their old ``user_config`` again."""
FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 30.0


class Failures:
    """How often the replicas of one backend failed by themselves, and when the next may start."""

    def __init__(self) -> None:
        self.failed_starts = 0
        """Since one was ready last."""
        self.not_before = 0.0
        self.start_error: ServekitError | None = None
        """Why the last replica that was never ready was not."""
        self.last: ServekitError | None = None
        """Why the last one that failed did, ready or not."""
        self._pauses = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)

    def add(self, error: ServekitError | None, ready_s: float) -> float:
        """One more; returns the pause in seconds."""
        pause_s = self._pauses.next(ready_s)
        self.not_before = time.monotonic() + pause_s
        self.last = error
        if not ready_s:
            self.start_error = error
            self.failed_starts += 1
        return pause_s


class Controller(WorkerEvents):
    """Owns the desired state. Every method is called on its loop."""

    def __init__(
        self,
        desired: Desired,
        *,
        store: StoreThread,
        registry: Registry,
        new_ingresses: Callable[[WorkerEvents], IngressFleet],
        new_replicas: Callable[[WorkerEvents, IngressFleet], ReplicaFleet],
    ) -> None:
        """``new_ingresses`` and ``new_replicas`` make the fleets, which tell the controller of their workers."""
        self.desired = desired
        self.registry = registry
        self.ingresses = new_ingresses(self)
        self.replicas = new_replicas(self, self.ingresses)
        self.failures: defaultdict[str, Failures] = defaultdict(Failures)
        self.autoscalers = Autoscalers(self.ingresses, self.replicas, is_failing=self._is_failing, changed=self.changed)
        self._store = store
        self._lock = asyncio.Lock()
        self._progress = asyncio.Event()
        """Something has changed: who waits for a change is to look again."""
        self._slots: dict[str, int] = {}
        self._tasks = TaskSet()
        self._running = False
        """From `begin` to `stop`."""
        self._published: tuple[Desired, Content] | None = None

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
            await self._wait_ready(record)
        except ServekitError:
            with contextlib.suppress(InUseError):  # Somebody gave it traffic meanwhile; then it stays.
                await self.delete_backend(record.name)
            raise

    async def delete_backend(self, name: str) -> None:
        """Returns when the backend's replicas have ended."""
        await self._change(lambda desired: state.remove_backend(desired, name))
        self.failures.pop(name, None)
        self._slots.pop(name, None)
        # Only those on their way out: the name may be taken again already.
        while any(replica.state is ReplicaState.DRAINING for replica in self.replicas.of(name)):
            await self._wait_progress()

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
            await self._wait_ready(new)
            await self._wait_reconfigured(new, new.config.startup_timeout_s)
        except ServekitError:
            await self._change(lambda now: state.replace_backend(now, old) if now.backends.get(name) is new else now)
            with contextlib.suppress(ServekitError):  # The first error is the one to tell of.
                await self._wait_reconfigured(old, TAKEN_BACK_TIMEOUT_S)
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
            await self._store.call(lambda store: store.save(before, after))
            self.desired = after
            version = self._reconcile()
        await self.ingresses.wait_applied(version)

    def _tell_traffic(self, endpoint: str) -> None:
        record = self.desired.endpoints.get(endpoint)
        if record is not None:
            self.registry.notify("servekit_traffic_changed", event=TrafficEvent(endpoint, dict(record.traffic)))

    # -- what a change waits for ---------------------------------------------------------------------------------------

    async def _wait_ready(self, record: BackendRecord) -> None:
        """Until as many replicas as asked for are ready and known to every ingress worker. Raises the first failure.

        Ends as well when the record is no longer what is desired.
        """
        failures = self.failures[record.name]
        seen = failures.start_error
        while self._is_desired(record):
            if len(self._ready(record)) >= self.autoscalers.replicas(record):
                await self.ingresses.wait_applied(self.ingresses.version)
                return
            if failures.start_error is not None and failures.start_error is not seen:
                raise failures.start_error
            await self._wait_progress()

    async def _wait_reconfigured(self, record: BackendRecord, timeout_s: float) -> None:
        """Until every ready replica of the revision has the record's ``user_config``. Raises the first refusal.

        A replica that takes longer than ``timeout_s`` is replaced. Ends as well when the record is no longer what is
        desired.
        """
        ends = time.monotonic() + timeout_s
        while self._is_desired(record):
            ready = self._ready(record)
            for replica in ready:
                if replica.refusal:
                    raise replica.refused()
            late = [replica for replica in ready if not replica.has_user_config]
            if not late:
                return
            if time.monotonic() >= ends:
                problem = f"reconfigure() did not return within {timeout_s:g} s"
                for replica in late:
                    self.replica_unhealthy(replica, problem)
                raise DeadlineError(f"backend {record.name!r}: {problem}")
            await self._wait_progress(ends - time.monotonic())

    async def _wait_progress(self, timeout_s: float | None = None) -> None:
        self._progress.clear()
        await came_within(self._progress, timeout_s)

    def _is_desired(self, record: BackendRecord) -> bool:
        return self.desired.backends.get(record.name) is record

    def _ready(self, record: BackendRecord) -> list[ManagedReplica]:
        return [
            replica
            for replica in self.replicas.of(record.name)
            if replica.record.revision == record.revision and replica.state is ReplicaState.READY
        ]

    # -- making the world match ----------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Make the world match what was loaded, once the attached replicas are known to be ready or gone.

        A snapshot without replicas that serve would make the ingress workers let go of them. Bounded by
        `ADOPTION_TIMEOUT_S`.
        """
        ends = time.monotonic() + ADOPTION_TIMEOUT_S
        attached = self.replicas.replicas.values()
        while any(replica.state is ReplicaState.STARTING for replica in attached) and time.monotonic() < ends:
            await self._wait_progress(ends - time.monotonic())
        self._running = True
        for record in self.desired.backends.values():
            self.autoscalers.adopt(record)
        self.changed()

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
        retired = [self.replicas.replicas[replica_id] for replica_id in plan.retire]
        for replica in retired:
            replica.mark_draining()
        version = self._publish()
        if retired:
            self._tasks.spawn(self._let_go(retired, version, DRAIN_TIMEOUT_S))
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
                replica.update(record)

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

    async def _let_go(self, replicas: list[ManagedReplica], version: int, drain_timeout_s: float) -> None:
        """A replica ends only after every ingress worker knows that it is to get no more."""
        try:
            await self.ingresses.wait_applied(version)
        except ServekitError as error:
            _log.warning("letting replicas go all the same: %s", error)
        for replica in replicas:
            replica.let_go(drain_timeout_s)

    # -- WorkerEvents ------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        self._progress.set()
        if self._running:
            self._reconcile()

    def replica_state_changed(self, event: ReplicaEvent) -> None:
        self.registry.notify("servekit_replica_state_changed", event=event)

    def replica_ended(self, replica: ManagedReplica) -> None:
        """Another replica follows, later and later where the backend's replicas keep failing."""
        if replica.record.name in self.desired.backends and self._running:
            self._failed(replica)

    def replica_unhealthy(self, replica: ManagedReplica, reason: str) -> None:
        """The replica gets no more requests, and another takes its place."""
        name = replica.record.name
        if name not in self.desired.backends or not self._running:
            return
        replica.fail(BackendStartError(f"a replica of backend {name!r} was replaced: {reason}"))
        self._failed(replica)
        replica.mark_draining()
        version = self._reconcile()
        # The requests that the replica has may end, in the time that its next check would have had.
        timeout_s = min(DRAIN_TIMEOUT_S, replica.record.config.health_check_timeout_s)
        self._tasks.spawn(self._let_go([replica], version, timeout_s))

    def requests_wait(self) -> None:
        self.autoscalers.decide()

    def addresses_changed(self) -> None:
        for replica in self.replicas.replicas.values():
            replica.tell_ingresses()

    def _failed(self, replica: ManagedReplica) -> None:
        ready_s = time.monotonic() - replica.ready_at if replica.ready_at else 0.0
        pause_s = self.failures[replica.record.name].add(replica.failure, ready_s)
        _log.error("replica %s: %s", replica.id, replica.failure)
        asyncio.get_running_loop().call_later(pause_s + 0.001, self.changed)

    def _is_failing(self, backend: str) -> bool:
        return self.failures[backend].failed_starts > 0

    # -- the end -----------------------------------------------------------------------------------------------------

    async def stop(self, timeout_s: float) -> None:
        """Ingress workers first, so that what is in flight finds its replicas; then the replicas."""
        self._running = False
        self.autoscalers.stop()
        ends = time.monotonic() + timeout_s
        await self.ingresses.stop(timeout_s)
        # Nobody waits any more for what the replicas still have.
        await self.replicas.stop(max(1.0, ends - time.monotonic()))
        await self._tasks.close()

"""The controller: holds what was asked for, and makes the world match it.

Everything runs on one event loop. A change is checked, saved, and becomes the desired state; `_reconcile` plans from it
what replicas to start and to let go, and publishes a snapshot; a change returns when every ingress worker has that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from servekit.config import DRAIN_TIMEOUT_S, REPLICA_FIELDS, backend_config
from servekit.control import state
from servekit.control.ingresses import IngressFleet
from servekit.control.plan import ReplicaState, make_plan
from servekit.control.replicas import Replica, ReplicaFleet
from servekit.control.snapshot import Content, content_of
from servekit.control.state import BackendRecord, Desired, EndpointRecord
from servekit.control.writer import Writer
from servekit.errors import InUseError, ServekitError
from servekit.interfaces import TrafficEvent
from servekit.plugins import Registry
from servekit.wire.frames import ReplicaEntry

_log = logging.getLogger("servekit.control")

_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 30.0
_STABLE_S = 30.0
"""A replica that was ready for so long clears its backend's record of failures."""


class _Failures:
    """How often a backend's replicas ended by themselves, and when the next may start."""

    def __init__(self) -> None:
        self.count = 0
        self.not_before = 0.0
        self.start_error: ServekitError | None = None
        """Why the last replica that was never ready was not."""

    def add(self, error: ServekitError | None, ready_s: float) -> float:
        """One more; returns the pause in seconds."""
        self.count = 1 if ready_s > _STABLE_S else self.count + 1
        pause_s = min(_FIRST_RETRY_S * 2.0 ** (self.count - 1), _LONGEST_RETRY_S)
        self.not_before = time.monotonic() + pause_s
        if not ready_s:
            self.start_error = error
        return pause_s


class Controller:
    """Owns the desired state. Every method is called on its loop."""

    def __init__(
        self, desired: Desired, *, writer: Writer, registry: Registry, ingresses: IngressFleet, replicas: ReplicaFleet
    ) -> None:
        self.desired = desired
        self.registry = registry
        self.ingresses = ingresses
        self.replicas = replicas
        self._writer = writer
        self._lock = asyncio.Lock()
        self._failures: dict[str, _Failures] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._progress = asyncio.Event()
        self._published: tuple[Desired, Content] | None = None
        replicas.ended = self._replica_ended

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
        """Returns when its replicas have ended."""
        await self._change(lambda desired: state.remove_backend(desired, name))
        self._failures.pop(name, None)
        await self._wait_gone(name)

    async def update_backend_config(self, name: str, changes: dict[str, Any]) -> None:
        """Returns when as many replicas as asked for are ready. Where one cannot start, the old config is back."""
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
        except ServekitError:
            await self._change(lambda now: state.replace_backend(now, old) if now.backends.get(name) is new else now)
            raise

    def start_error(self, backend: str) -> str:
        """Why a replica of the backend was last not able to start; empty when none was."""
        failures = self._failures.get(backend)
        return str(failures.start_error) if failures is not None and failures.start_error is not None else ""

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

    def wake(self) -> None:
        """Something may have to be done."""
        self._progress.set()
        if not self._stopping:
            self._reconcile()

    def _reconcile(self) -> int:
        """Take the next steps; return the version of the snapshot that ingress workers are to have."""
        now = time.monotonic()
        held_back = {name for name, failures in self._failures.items() if failures.not_before > now}
        facts = [replica.facts for replica in self.replicas.replicas.values()]
        plan = make_plan(self.desired.backends, facts, frozenset(held_back))
        for name in plan.start:
            self.replicas.start(self.desired.backends[name])
        for replica_id in plan.retire:
            self.replicas.mark_draining(replica_id)
        version = self._publish()
        if plan.retire:
            self._spawn(self._let_go(plan.retire, version))
        return version

    def _publish(self) -> int:
        ready: dict[str, list[ReplicaEntry]] = {}
        for replica in self.replicas.replicas.values():
            if replica.state is ReplicaState.READY:
                ready.setdefault(replica.record.name, []).append(replica.entry)
        content = content_of(self.desired, ready, self._published)
        self._published = (self.desired, content)
        return self.ingresses.publish(content)

    async def _let_go(self, replica_ids: list[str], version: int) -> None:
        """A replica ends only after every ingress worker knows that it is to get no more."""
        try:
            await self.ingresses.wait_applied(version)
        except ServekitError as error:
            _log.warning("letting replicas go all the same: %s", error)
        for replica_id in replica_ids:
            self.replicas.let_go(replica_id, DRAIN_TIMEOUT_S)

    def _replica_ended(self, replica: Replica) -> None:
        """A replica ended by itself: another follows, later and later when they keep failing."""
        name = replica.record.name
        if name not in self.desired.backends or self._stopping:
            return
        ready_s = time.monotonic() - replica.ready_at if replica.ready_at else 0.0
        pause_s = self._failures.setdefault(name, _Failures()).add(replica.failure, ready_s)
        _log.error("replica %s: %s", replica.id, replica.failure)
        asyncio.get_running_loop().call_later(pause_s + 0.001, self.wake)

    # -- waiting -----------------------------------------------------------------------------------------------------

    async def _wait_ready(self, record: BackendRecord) -> None:
        """Until as many replicas as asked for are ready and known to every ingress worker. Raises the first failure."""
        failures = self._failures.setdefault(record.name, _Failures())
        seen = failures.start_error
        while True:
            current = self.desired.backends.get(record.name)
            if current is None or current is not record:
                return  # Changed again, or deleted, meanwhile.
            own = [replica for replica in self.replicas.of(record.name) if replica.record.revision == record.revision]
            if sum(replica.state is ReplicaState.READY for replica in own) >= record.config.num_replicas:
                break
            if failures.start_error is not None and failures.start_error is not seen:
                raise failures.start_error
            self._progress.clear()
            await self._progress.wait()
        await self.ingresses.wait_applied(self.ingresses.version)

    async def _wait_gone(self, backend: str) -> None:
        # Only those on their way out: the name may be taken again already.
        while any(replica.state is ReplicaState.DRAINING for replica in self.replicas.of(backend)):
            self._progress.clear()
            await self._progress.wait()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- the end -----------------------------------------------------------------------------------------------------

    async def stop(self, timeout_s: float) -> None:
        """Ingress workers first, so that what is in flight finds its replicas; then the replicas."""
        self._stopping = True
        ends = time.monotonic() + timeout_s
        await self.ingresses.stop(timeout_s)
        # Nobody waits any more for what the replicas still have.
        await self.replicas.stop(max(1.0, ends - time.monotonic()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

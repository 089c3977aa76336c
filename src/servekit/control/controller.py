"""The controller: holds what users asked for, and makes the running replicas match it.

Everything runs on one event loop. A change is checked, saved, and becomes the desired state; `_reconcile` plans from it
which replicas to start and to let go, and publishes a snapshot; a change returns when every ingress worker has applied
the snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Concatenate, ParamSpec

import msgspec

from servekit.backoff import Backoff
from servekit.config import backend_config
from servekit.control import state
from servekit.control.autoscalers import Autoscalers
from servekit.control.changes import changes_of
from servekit.control.events import EventLog
from servekit.control.failure_groups import FailureGroups
from servekit.control.history import author, recorded, with_replaced
from servekit.control.ingresses import IngressEvents, IngressFleet
from servekit.control.plan import ReplicaState, make_plan
from servekit.control.recent import SAMPLE_EVERY_S
from servekit.control.refusals import QUIET_S as REFUSALS_QUIET_S
from servekit.control.refusals import RefusalWatch
from servekit.control.replica import WATCH_S, ManagedReplica, ReplicaEvents
from servekit.control.replicas import ReplicaFleet
from servekit.control.rollout_changes import check_change, check_parts, kept_warm
from servekit.control.shadow_reports import ShadowReports
from servekit.control.snapshot import Content, content_of
from servekit.control.state import BackendRecord, Desired
from servekit.control.store import StoreThread
from servekit.control.watchdog import Watchdog
from servekit.errors import BackendStartError, DeadlineError, InUseError, ServekitError
from servekit.interfaces import ReplicaEvent, TrafficEvent
from servekit.plugins import Registry
from servekit.tallies import COUNT, Tallies
from servekit.tasks import TaskSet, came_within, done_before, first_failure
from servekit.wire.control_frames import Capabilities, FailureGroup, ReplicaEntry, ShadowPair

_log = logging.getLogger("servekit.control")

P = ParamSpec("P")

ADOPTION_TIMEOUT_S = 5.0
"""How long a controller waits for the replicas of its predecessor, which dial it at least once a second."""
TAKEN_BACK_TIMEOUT_S = 10.0
"""How long a change that failed waits for replicas to have their old ``user_config`` again."""
SERVED_AFTER_S = 5.0
"""A replica that has been ready for longer has started well, whether or not it was sent a call: what a handler fails of
by itself once it is built, in a thread of its own say, shows within moments."""
FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 30.0
QUIET_S = 60.0
"""After so long without a start that fails, pauses begin anew."""
RESTART_REASONS = ("start_failed", "exited", "lost", "unhealthy", "hung", "recycled", "replaced")
"""Why a replica is followed by another: it failed before it was ready, ended by itself, could not be reached, failed
its health check, had a call that hangs, was worn, or its runtime said that it would end."""


class Failures:
    """How often the replicas of one backend failed by themselves, and when the next may start.

    A replica that has served is replaced at once. What fails at its start, or soon after and before it has served, is
    tried again later and later. Those that were running together when the first of them failed are one such event.
    """

    def __init__(self) -> None:
        self.failed_starts = 0
        """Since a replica was ready last."""
        self.not_before = 0.0
        self.start_error: ServekitError | None = None
        """Why the last replica that failed before it was ready did so."""
        self.last: ServekitError | None = None
        """Why the last replica that failed did so, ready or not."""
        self.waiters = 0
        """Calls that wait for a replica, and raise what a start fails of."""
        self._pauses = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        self._newest = 0
        """The number of the newest replica at the last event."""

    def add(self, replica: ManagedReplica, newest: int, now: float) -> float:
        """Count a replica that failed; ``newest`` is the number of the newest one of the backend. Returns the pause in
        seconds before another may start."""
        self.last = replica.failure
        if not replica.ready_at:
            self.start_error = replica.failure
            self.failed_starts += 1
        if replica.has_served or (replica.ready_at and now - replica.ready_at > SERVED_AFTER_S):
            self.forget_pause()
        elif replica.number > self._newest:
            if now - self.not_before > QUIET_S:
                self._pauses.reset()
            self._newest = newest
            self.not_before = now + self._pauses.next()
        return max(0.0, self.not_before - now)

    def forget_pause(self) -> None:
        """A replica has served: the next may start at once."""
        self._pauses.reset()
        self.not_before = 0.0


class Controller(IngressEvents, ReplicaEvents):
    """Owns the desired state. Every method is called on its loop."""

    def __init__(
        self,
        desired: Desired,
        *,
        store: StoreThread,
        registry: Registry,
        event_log: EventLog,
        new_ingresses: Callable[[IngressEvents], IngressFleet],
        new_replicas: Callable[[ReplicaEvents, IngressFleet], ReplicaFleet],
        tallies: Tallies | None = None,
    ) -> None:
        """
        Args:
            new_ingresses, new_replicas: make the fleets, whose workers call this controller.
            tallies: where replicas that had to be replaced are counted; default, in memory.
        """
        self.desired = desired
        self.registry = registry
        self.event_log = event_log
        self.ingresses = new_ingresses(self)
        self.replicas = new_replicas(self, self.ingresses)
        self.failures: defaultdict[str, Failures] = defaultdict(Failures)
        self.autoscalers = Autoscalers(
            self.ingresses, self.replicas, is_failing=self._is_failing, changed=self.changed, event_log=event_log
        )
        self._store = store
        self._tallies = tallies or Tallies(None)
        self._lock = asyncio.Lock()
        self._progress = asyncio.Event()
        """Set when a worker is in another state: the calls of `_wait_progress` return."""
        self._capabilities: dict[str, Capabilities] = {}
        """What the replicas of each backend said of their handlers last."""
        self._watchdogs: defaultdict[str, Watchdog] = defaultdict(Watchdog)
        self._refusals = RefusalWatch()
        self.failure_groups = FailureGroups()
        self.shadows = ShadowReports(self.ingresses.counts.totals.read)
        self._rolling: set[str] = set()
        """Backends of roll-outs under way: their older replicas stay until all is ready, so that they need not start
        again where something fails."""
        self.rollout_time = time.time
        """The clock of roll-outs."""
        self._tasks = TaskSet()
        self._running = False
        """True from `begin` to `stop`."""
        self._published: tuple[Desired, Content] | None = None

    # -- changes -----------------------------------------------------------------------------------------------------

    async def change(
        self, change: Callable[Concatenate[Desired, P], Desired], *arguments: P.args, **named: P.kwargs
    ) -> None:
        """Make a change, a function of `servekit.control.state`, whole or not at all; return when every live ingress
        worker has applied it. Raises the errors of the change."""
        await self._change(lambda desired: recorded(desired, change(desired, *arguments, **named)))

    async def change_rollout(
        self, change: Callable[Concatenate[Desired, P], Desired], *arguments: P.args, **named: P.kwargs
    ) -> None:
        """`change`, by a roll-out itself: a function of `servekit.control.rollout_changes`."""
        await self._change(lambda desired: recorded(desired, change(desired, *arguments, **named)), by_rollout=True)

    async def _change(
        self,
        change: Callable[[Desired], Desired],
        failure: ServekitError | None = None,
        *,
        by_rollout: bool = False,
        rolled: Collection[str] = (),
    ) -> None:
        """`change`, of which nothing is kept and no history is told, but for what ``change`` itself does.

        Args:
            failure: that of another change, for which this one puts back what there was.
            by_rollout: it may change what a roll-out under way relies on.
            rolled: the backends that it has rolled, or rolls back: until it is desired, replicas of both revisions
                stay.
        """

        def checked(desired: Desired) -> Desired:
            after = change(desired)
            return after if by_rollout or failure is not None else check_change(desired, after)

        async with self._lock:
            before, after = await self._save(checked)
            self._rolling.difference_update(rolled)
            self._tell_changes(before, after, failure)
            self.shadows.follow(after)
            self.forget_counts()
            version = self._reconcile()
        await self.ingresses.wait_applied(version)
        for name in state.traffic_set(before, after):
            if name in self.desired.endpoints:
                event = TrafficEvent(name, dict(self.desired.endpoints[name].traffic))
                self.registry.notify("servekit_traffic_changed", event=event)

    def _tell_changes(self, before: Desired, after: Desired, failure: ServekitError | None) -> None:
        who = author.get().who
        for each in changes_of(before, after, put_back=failure is not None):
            self.event_log.add(
                each.kind,
                each.text,
                who=who,
                endpoint=each.endpoint,
                backend=each.backend,
                detail=each.detail or str(failure or ""),
            )

    async def _save(self, change: Callable[[Desired], Desired]) -> tuple[Desired, Desired]:
        """Make the change in the store, and desire it; what there was, and what there is. The caller has the lock."""
        before = self.desired
        after = msgspec.structs.replace(change(before), number=before.number + 1)
        await self._store.call(lambda store: store.save(before, after))
        self.desired = after
        return before, after

    async def create_backend(self, record: BackendRecord, *, wait: bool) -> None:
        """Create the backend; with ``wait``, return when its replicas are ready.

        Where the first replica fails to start, its error is raised, and the backend is gone again.
        """

        before = self.desired

        def add(desired: Desired) -> Desired:
            nonlocal before, record
            before = desired
            record = msgspec.structs.replace(record, revision=state.newest_revision(desired, record.name) + 1)
            return state.add_backend(desired, record)

        await self.change(add)
        if not wait:
            return
        try:
            await self._wait_ready(record)
        except ServekitError as error:
            await self._put_back(before, {record.name: record}, error)
            raise

    async def delete_backend(self, name: str) -> None:
        """Delete the backend; return when its replicas have ended."""

        def removed(desired: Desired) -> Desired:
            check_parts(desired, [name])  # Before it is said that the backend has traffic, which cannot be changed now.
            return state.remove_backend(desired, name)

        await self.change(removed)
        await self._wait_gone([name])

    async def _wait_gone(self, names: Iterable[str]) -> None:
        """Forget these backends; return when their replicas have ended."""
        for name in names:
            self.failures.pop(name, None)
            self._watchdogs.pop(name, None)
            self._capabilities.pop(name, None)
            # Only replicas that are on their way out: the name may be taken again already.
            while any(replica.state is ReplicaState.DRAINING for replica in self.replicas.of(name)):
                await self._wait_progress()

    async def update_backend_config(self, name: str, changes: dict[str, Any]) -> None:
        """Change the config; return when as many replicas as asked for are ready and have its ``user_config``.

        Where a replica cannot start, or raises on its ``user_config``, its error is raised, and the old config is back.
        """

        def changed(desired: Desired) -> Mapping[str, BackendRecord]:
            old = desired.backend(name)
            config = backend_config(changes, old.config)
            return {name: state.with_config(old, config)}

        await self.roll_out(changed)

    async def restart_backend(self, name: str) -> None:
        """Replace every replica by a new one, each of which is ready before an old one goes. Raises as
        `update_backend_config` does."""

        def again(desired: Desired) -> Mapping[str, BackendRecord]:
            old = desired.backend(name)
            return {name: msgspec.structs.replace(old, revision=0, repeats=old.original)}

        await self.roll_out(again)

    async def roll_out(
        self,
        choose: Callable[[Desired], Mapping[str, BackendRecord]],
        then: Callable[[Desired], Desired] = lambda desired: desired,
        cancelled: asyncio.Event | None = None,
    ) -> None:
        """Start new backends, and roll others over to new records; when all of that has come about, make the change
        ``then``, and return when the replicas of the backends that it removes have ended.

        Args:
            choose: the records, of the state that there is. One whose ``revision`` is 0 gets new replicas.
            then: made in one with what history tells of the whole.
            cancelled: set where it is not to come about after all: `InUseError`, unless all is ready.

        Where a replica cannot start, or raises on its ``user_config``, its error is raised, and the old records are
        back; so they are where one of the backends has another revision meanwhile, or is deleted: `InUseError`.
        """
        before = self.desired
        new: dict[str, BackendRecord] = {}

        def start(desired: Desired) -> Desired:
            nonlocal before
            before = desired
            new.update({name: self._numbered(desired, record) for name, record in choose(desired).items()})
            after = with_replaced(desired, state.put_backends(desired, new))
            then(after)  # What would fail later, fails before anything has changed.
            self._rolling.update(new)
            return after

        def finish(desired: Desired) -> Desired:
            for record in new.values():
                self._now(record)  # Raises for one that was ready before others, and was changed since.
            return recorded(desired, then(desired), began=before)

        await self._change(start)
        try:
            try:
                waiting = first_failure(self._wait_rolled_out(record) for record in new.values())
                if not await done_before(cancelled or asyncio.Event(), waiting):
                    raise InUseError("it was cancelled, and what was served before is back")
            except asyncio.CancelledError:  # The instance ends: what serves after that is what has served.
                async with self._lock:
                    await self._save(lambda desired: state.put_back(desired, before, new))
                raise
            await self._change(finish, rolled=new)
        except ServekitError as error:
            await self._put_back(before, new, error)
            raise
        finally:
            self._rolling.difference_update(new)
        await self._wait_gone(before.backends.keys() - self.desired.backends.keys())

    def _numbered(self, desired: Desired, record: BackendRecord) -> BackendRecord:
        if record.revision:
            return record
        # Above the revisions of replicas that are left of a change that failed.
        left = (replica.record.revision for replica in self.replicas.of(record.name))
        return msgspec.structs.replace(record, revision=max(state.newest_revision(desired, record.name), *left, 0) + 1)

    async def _put_back(self, before: Desired, new: Mapping[str, BackendRecord], failure: ServekitError) -> None:
        """Have the backends as they were before, but for those that were changed again meanwhile."""
        await self._change(lambda desired: state.put_back(desired, before, new), failure, rolled=new)
        for name in new:
            if name in before.backends:
                with contextlib.suppress(ServekitError):  # The first error is the one to raise.
                    await self._wait_reconfigured(before.backends[name], TAKEN_BACK_TIMEOUT_S)
        await self._wait_gone(name for name in new if name not in self.desired.backends)

    async def wait_rolled_out(self, names: Iterable[str]) -> None:
        """Return when these backends have the replicas that are asked for. Raises the error of one that cannot
        start."""
        await first_failure(self._wait_rolled_out(self.desired.backends[name]) for name in names)

    async def _wait_rolled_out(self, record: BackendRecord) -> None:
        await self._wait_ready(record)
        await self._wait_reconfigured(record, record.config.startup_timeout_s)

    def forget_counts(self) -> None:
        """Forget the counts of what was deleted."""
        self.ingresses.counts.keep_only(self.desired.endpoints, self.desired.backends)
        self.replicas.metrics.keep_only(self.desired.backends)

    def slots(self, record: BackendRecord) -> int:
        """How many calls of the handler one replica takes at a time: the number that the user set, or else the one that
        the backend's replicas gave; 1 before they gave one."""
        set_by_user = record.config.max_concurrent_queries
        return self._capabilities.get(record.name, Capabilities()).slots if set_by_user is None else set_by_user

    # -- what a change waits for ---------------------------------------------------------------------------------------

    async def _wait_ready(self, record: BackendRecord) -> None:
        """Return when as many replicas of the revision as asked for are ready and known to every ingress worker. Raises
        the first failure of a replica, and as `_now` does."""
        failures = self.failures[record.name]
        seen = failures.start_error
        failures.waiters += 1
        try:
            while len(self._ready(record)) < self.autoscalers.replicas(self._now(record)):
                if failures.start_error is not None and failures.start_error is not seen:
                    raise failures.start_error
                await self._wait_progress()
            await self.ingresses.wait_applied(self.ingresses.version)
        finally:
            failures.waiters -= 1

    async def _wait_reconfigured(self, record: BackendRecord, timeout_s: float) -> None:
        """Return when every ready replica of the revision has the ``user_config`` that is desired. Raises the first
        refusal, and as `_now` does.

        A replica that takes longer than ``timeout_s`` is replaced, and `DeadlineError` raised. Where the config was
        changed again in place, that is for the later change to do, which puts back this one's.
        """
        ends = time.monotonic() + timeout_s
        while late := [replica for replica in self._ready(record) if not replica.has_user_config]:
            if self._now(record) is not record:
                await self._wait_progress()
                continue
            for replica in late:
                if replica.refusal:
                    raise replica.refused()
            if time.monotonic() >= ends:
                problem = f"reconfigure() did not return within {timeout_s:g} s"
                for replica in late:
                    self.replica_unhealthy(replica, problem)
                raise DeadlineError(f"backend {record.name!r}: {problem}")
            await self._wait_progress(ends - time.monotonic())

    async def _wait_progress(self, timeout_s: float | None = None) -> None:
        self._progress.clear()
        await came_within(self._progress, timeout_s)

    def _now(self, record: BackendRecord) -> BackendRecord:
        """The record of this revision, which a change in place may have made another. Raises `InUseError` where another
        revision is desired, or none."""
        now = self.desired.backends.get(record.name)
        if now is None or now.revision != record.revision:
            what = "deleted" if now is None else "changed"
            raise InUseError(
                f"backend {record.name!r} was {what} by another change before its replicas were ready; that one holds"
            )
        return now

    def _ready(self, record: BackendRecord) -> list[ManagedReplica]:
        return [
            replica
            for replica in self.replicas.of(record.name)
            if replica.record.revision == record.revision and replica.state is ReplicaState.READY
        ]

    # -- making the world match ----------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Make the replicas match the desired state that was loaded, once the attached ones are known to be ready or
        gone.

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
        self.ingresses.counts.sample()
        self.shadows.follow(self.desired)
        self._tasks.spawn(self.shadows.run())
        self._tasks.spawn(self._watch_replicas())
        self._tasks.spawn(self._sample())
        self.changed()

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_EVERY_S)
            try:
                self._tallies.settle()
                self.ingresses.counts.sample()
            except Exception:
                _log.exception("what was counted could not be read")

    def _reconcile(self) -> int:
        """Take the next steps; return the version of the snapshot that ingress workers are to have."""
        self._update_replicas()
        autoscaled = kept_warm(self.autoscalers.follow(self.desired.backends), self.desired, self.rollout_time())
        now = time.monotonic()
        held_back = {name for name, failures in self.failures.items() if failures.not_before > now}
        facts = [replica.facts for replica in self.replicas.replicas.values()]
        plan = make_plan(self.desired.backends, facts, frozenset(held_back), autoscaled, self._rolling)
        for name in plan.start:
            self.replicas.start(self.desired.backends[name])
        retired = [self.replicas.replicas[replica_id] for replica_id in plan.retire]
        for replica in retired:
            if replica.worn:
                self._count_restart(replica, replica.worn.partition(":")[0])
            replica.mark_draining()
        version = self._publish(autoscaled)
        if retired:
            self._tasks.spawn(self._let_go(retired, version))
        return version

    def _update_replicas(self) -> None:
        """Give the replicas of each backend its new config, as far as running replicas can take it over."""
        for replica in self.replicas.replicas.values():
            record = self.desired.backends.get(replica.record.name)
            if (
                record is not None
                and record is not replica.record
                and record.revision == replica.record.revision
                and replica.state is not ReplicaState.DRAINING
            ):
                replica.update(record)

    def _publish(self, autoscaled: Mapping[str, int]) -> int:
        ready: dict[str, list[ReplicaEntry]] = {}
        leaving = []
        for replica in self.replicas.replicas.values():
            if replica.state is ReplicaState.READY:
                name = replica.record.name
                self._capabilities[name] = replica.capabilities
                self.failures[name].failed_starts = 0
                ready.setdefault(name, []).append(replica.entry)
            elif replica.may_have_calls:
                leaving.append(replica.id)
        failing = [name for name in self.failures if self._is_failing(name)]
        content = content_of(self.desired, ready, self._published, leaving, self._capabilities, failing, autoscaled)
        self._published = (self.desired, content)
        return self.ingresses.publish(content)

    async def _let_go(
        self, replicas: list[ManagedReplica], version: int, at_most_s: float = math.inf, hung_s: float | None = None
    ) -> None:
        """End these replicas, once every ingress worker knows that they are to get no more requests."""
        try:
            await self.ingresses.wait_applied(version)
        except ServekitError as error:
            _log.warning("%s are let go all the same: %s", ", ".join(each.label for each in replicas), error)
        for replica in replicas:
            config = replica.record.config
            replica.let_go(min(config.drain_timeout_s, at_most_s), hung_s or config.hang_grace_s or 0.0)

    # -- IngressEvents and ReplicaEvents -------------------------------------------------------------------------------

    def changed(self) -> None:
        self._progress.set()
        if self._running:
            self._reconcile()

    def replica_state_changed(self, event: ReplicaEvent) -> None:
        self.registry.notify("servekit_replica_state_changed", event=event)

    def replica_ended(self, replica: ManagedReplica) -> None:
        """Another replica follows, later and later where the backend's replicas keep failing."""
        if replica.record.name in self.desired.backends and self._running:
            self._count_restart(replica, "start_failed" if not replica.ready_at else replica.how_it_went)
            self._failed(replica)

    def handler_failed(self, replica: ManagedReplica, groups: list[FailureGroup]) -> None:
        self.failure_groups.add(replica.record.name, replica.id, groups)

    def replica_unhealthy(self, replica: ManagedReplica, reason: str) -> None:
        """The replica gets no more requests, and another takes its place."""
        # Its requests are given as long to end as its next check would have had.
        config = replica.record.config
        timeout_s = config.health_check_timeout_s
        self._replace(replica, "unhealthy", reason, timeout_s, config.hang_grace_s or timeout_s)

    def _replace(self, replica: ManagedReplica, kind: str, reason: str, drain_timeout_s: float, hung_s: float) -> None:
        """``kind`` is one of `RESTART_REASONS`."""
        name = replica.record.name
        if name not in self.desired.backends or not self._running:
            return
        replica.fail(BackendStartError(f"a replica of backend {name!r} was replaced: {reason}"))
        self._count_restart(replica, kind)
        self._failed(replica, "replica_unhealthy" if kind == "unhealthy" else "replica_replaced")
        replica.mark_draining()
        version = self._reconcile()
        self._tasks.spawn(self._let_go([replica], version, drain_timeout_s, hung_s))

    async def _watch_replicas(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            self._tell_refusals_ended()
            replicas: defaultdict[str, list[ManagedReplica]] = defaultdict(list)
            for replica in self.replicas.replicas.values():
                replica.looks += 1
                replicas[replica.record.name].append(replica)
            for name, own in replicas.items():
                try:
                    if name in self.desired.backends:
                        self._watch(self.desired.backends[name], own)
                except Exception:
                    _log.exception("the replicas of backend %r could not be looked after", name)

    def _watch(self, record: BackendRecord, replicas: list[ManagedReplica]) -> None:
        """Replace a replica in which a call hangs, and recycle one that is worn."""
        config, watchdog, now = record.config, self._watchdogs[record.name], time.monotonic()
        by_id, watched = {each.id: each for each in replicas}, [each.watched for each in replicas]
        wanted, grace_s = self.autoscalers.replicas(record), watchdog.grace_s(config)
        if hung := by_id.get(watchdog.hung(now, config, wanted, watched)):
            reason = f"a call held a slot for more than {grace_s:g} s beyond its deadline (hang_grace_s)"
            if hung.silent_s:
                reason += f", and the replica said nothing for {hung.silent_s:g} s: C code may hold the GIL"
            self._replace(hung, "hung", reason, 0.0 if hung.silent_s else math.inf, grace_s)
            return  # None is worn while another is on its way out.
        worn_id, why = watchdog.worn(now, config, wanted, watched)
        if worn := by_id.get(worn_id):
            worn.add_event("replica_recycled", f"is recycled: {why}")
            worn.worn = f"recycled: {why}"
            self._reconcile()

    def replicas_had_served(self, replicas: Mapping[str, str]) -> None:
        for replica_id, backend in replicas.items():
            replica = self.replicas.replicas.get(replica_id)
            if replica is not None:
                replica.has_served = True
            elif backend in self.desired.backends:  # Its end was known before this was.
                self.failures[backend].forget_pause()
                self.changed()

    def requests_refused(self, refused: list[tuple[str, str, int]]) -> None:
        for each in self._refusals.reported(refused, time.time()):
            text = f"endpoint {each.endpoint} refuses requests: {each.type}"
            self.event_log.add("refusals_began", text, endpoint=each.endpoint, detail=each.type)

    def _tell_refusals_ended(self) -> None:
        for each in self._refusals.ended(time.time()):
            took = f"in {each.last_at - each.began_at:.0f} s, and none for {REFUSALS_QUIET_S:g} s"
            text = f"endpoint {each.endpoint} has refused {each.requests} requests, {took}: {each.type}"
            self.event_log.add("refusals_ended", text, endpoint=each.endpoint, detail=each.type, alike=each.type)

    def replicas_ejected(self, ejected: list[tuple[str, str, str]]) -> None:
        for backend, replica_id, why in ejected:
            text = f"replica {backend} {replica_id} {why}"
            self.event_log.add("replica_ejected", text, backend=backend, replica=replica_id, level=None)

    def shadow_answered(self, pair: ShadowPair) -> None:
        self.shadows.take(pair)

    def requests_wait(self) -> None:
        self.autoscalers.decide()

    def addresses_changed(self) -> None:
        for replica in self.replicas.replicas.values():
            replica.tell_ingresses()

    def _failed(self, replica: ManagedReplica, kind: str = "replica_failed") -> None:
        failures = self.failures[replica.record.name]
        newest = max([replica.number, *(other.number for other in self.replicas.of(replica.record.name))])
        pause_s = failures.add(replica, newest, time.monotonic())
        what, _, more = replica.what_happened().partition("\n")
        # Who waits for it raises all of it, and the user is not to read that twice.
        waited_for = failures.waiters > 0
        follows = "" if waited_for else f"; another is started{f' in {pause_s:.2g} s' if pause_s else ''}"
        self.event_log.add(
            kind,
            what + follows,
            backend=replica.record.name,
            replica=replica.id,
            detail=more.strip(),
            alike=what,
            level=logging.ERROR,
            log_detail=not waited_for,
        )
        asyncio.get_running_loop().call_later(pause_s + 0.001, self.changed)

    def _count_restart(self, replica: ManagedReplica, reason: str) -> None:
        """``reason`` is one of `RESTART_REASONS`."""
        self._tallies.add(("restart", replica.record.name, reason))[COUNT] += 1

    def _is_failing(self, backend: str) -> bool:
        return self.failures[backend].failed_starts > 0

    # -- the end -----------------------------------------------------------------------------------------------------

    async def stop(self, timeout_s: float, delay_s: float = 0.0) -> None:
        """End the ingress workers first, so that requests in flight find their replicas; then the replicas."""
        self._running = False
        self.autoscalers.stop()
        ends = time.monotonic() + delay_s + timeout_s
        await self.ingresses.stop(timeout_s, delay_s)
        # No client waits any more for the calls that the replicas still have.
        await self.replicas.stop(max(1.0, ends - time.monotonic()))
        await self._tasks.close()

"""One replica: its state, its life from start to end, and its control link."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from servekit.backoff import Backoff
from servekit.code import place
from servekit.config import STOP_GRACE_S, config_digest
from servekit.control.events import EventLog
from servekit.control.ingresses import IngressFleet
from servekit.control.links import LinkedWorker
from servekit.control.plan import WORN_REVISION, ReplicaFacts, ReplicaState
from servekit.control.runtimes import Runtimes
from servekit.control.silence import LostNodes
from servekit.control.state import BackendRecord
from servekit.control.store import StoreThread, WorkerRecord
from servekit.control.user_metrics import UserMetrics
from servekit.control.watchdog import WatchedReplica
from servekit.errors import BackendStartError, DeadlineError, ServekitError, StoreError
from servekit.interfaces import Exit, ReplicaEvent, ReplicaRuntime, WorkerHandle, WorkerSpec
from servekit.tasks import came_within
from servekit.wire import control_frames as frames
from servekit.wire.control_frames import Capabilities, FailureGroup, ReplicaEntry, Report, WorkerHello
from servekit.wire.link import Link

_log = logging.getLogger("servekit.control")

FIRST_POLL_S = 0.002
POLL_S = 0.05
"""The longest pause between two questions to the runtime about a worker without a control link; the first are
shorter."""
WATCH_S = 1.0
"""The pause between two questions about a worker that has its control link."""
REDIAL_S = 3.0
"""How long a worker on another machine may be without its control link, which it dials at least once a second."""


class ReplicaEvents(Protocol):
    """The controller, as replicas tell it of what happened; called on the controller's loop."""

    event_log: EventLog

    def changed(self) -> None:
        """A replica is in another state: the controller may have to do something."""

    def replica_state_changed(self, event: ReplicaEvent) -> None:
        """Tell the plugins that observe replicas."""

    def replica_ended(self, replica: ManagedReplica) -> None:
        """The replica ended without having been told to end; its ``failure`` says why."""

    def handler_failed(self, replica: ManagedReplica, groups: list[FailureGroup]) -> None:
        """The replica's handler has raised these."""

    def replica_unhealthy(self, replica: ManagedReplica, reason: str) -> None:
        """The replica serves, and its health check has failed."""


@dataclass(frozen=True)
class ReplicaContext:
    """The parts of the control plane that all replicas of an instance use."""

    runtimes: Runtimes
    store: StoreThread
    ingresses: IngressFleet
    """The ingress workers, which the handles in replicas dial."""
    events: ReplicaEvents
    bootstrap: Callable[[str, str, str | None, ReplicaRuntime], Awaitable[bytes]]
    """Makes the bootstrap of a worker: given the worker's id, its backend, the host at which its machine reaches this
    one, and its runtime."""
    directory: str
    """Of the instance."""
    debug: bool
    log_directory: str = ""
    lost_nodes: LostNodes = field(default_factory=LostNodes)
    """The machines that new replicas are not to be placed on."""
    metrics: UserMetrics = field(default_factory=UserMetrics)


class ManagedReplica(LinkedWorker):
    """One replica, as the controller knows it. `live` runs in one task, from the replica's start to its end."""

    def __init__(
        self,
        replica_id: str,
        record: BackendRecord,
        number: int,
        context: ReplicaContext,
        earlier: WorkerRecord | None = None,
        rank: int = 0,
    ) -> None:
        """``earlier``: the record of an earlier controller, which had started the replica."""
        super().__init__(replica_id)
        self.record = record
        self.number = number
        self.rank = rank
        self.state = ReplicaState.STARTING
        self.runtime: ReplicaRuntime
        self.handle: WorkerHandle | None = None
        self.moved = asyncio.Event()
        """Set when the replica has said something, is to go, or has lost its link."""
        self.failure: ServekitError | None = None
        self.node = ""
        self.capabilities = Capabilities()
        self.started_at = time.time() if earlier is None else earlier.started_at
        self.ready_at = 0.0
        self.has_served = False
        """An ingress worker has told, at the replica's death, that the replica had answered calls."""
        self.report = Report()
        self.looks = 0
        """How often the controller has looked at the replica since its last report."""
        self.worn = ""
        """Why the replica is being recycled: another is started, and then this one is let go. Empty: it is not."""
        self.refusal = ""
        """The traceback of a handler that raised on the record's ``user_config``."""
        self.ended_unasked = False
        self._context = context
        self._earlier = earlier
        self._addresses: tuple[str, ...] = ()
        self._is_saved = earlier is not None
        """A later controller would know the replica; before that, the replica gets no calls."""
        self._is_built = False
        """The worker listens. The replica is ready once its handler has the record's ``user_config`` as well."""
        self._user_config = b""
        """Digest of the ``user_config`` that the handler has; empty: not known."""
        self._reconfiguring: asyncio.Task[None] | None = None
        self._told_to_go = False
        self._drain_timeout_s = 0.0
        self._hung_s = 0.0
        """See `frames.Drain`."""
        self._overdue = False
        """The replica was told to go, and was not drained within `_drain_timeout_s`."""
        self._lost = False
        """The replica answers nothing any more, though its process may be there."""
        self._over = False
        """Its life is: `live` ends it."""
        self._redial: asyncio.TimerHandle | None = None
        """While the worker, on another machine, is to dial again."""
        self._companions: tuple[str, ...] = ()
        self._polls = Backoff(FIRST_POLL_S, POLL_S)

    # -- what others know of it ----------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """The replica, as every line of the log names it."""
        return f"replica {self.record.name} {self.id}"

    def what_happened(self) -> str:
        """The failure, in a sentence that has the replica for its subject."""
        text, name = str(self.failure), repr(self.record.name)
        for start, words in ((f"a replica of backend {name} ", " "), (f"backend {name}: ", ": ")):
            if text.startswith(start):
                return self.label + words + text[len(start) :]
        return f"{self.label}: {text}"

    @property
    def how_it_went(self) -> str:
        """Of one that ended unasked: one of `servekit.control.controller.RESTART_REASONS`."""
        return "lost" if self._lost else "exited"

    @property
    def facts(self) -> ReplicaFacts:
        revision = WORN_REVISION if self.worn else self.record.revision
        return ReplicaFacts(self.id, self.record.name, revision, self.state, self.number)

    @property
    def silent_s(self) -> float:
        """How long there should have been reports and were none, counted in looks: a controller that was stopped
        itself has not looked."""
        return max(0, self.looks - 2) * WATCH_S

    @property
    def watched(self) -> WatchedReplica:
        """The replica, as a `Watchdog` sees it. In debug mode no call is beyond its deadline: somebody may be stepping
        through it."""
        overdue_s = self.report.overdue_s
        if self.silent_s:  # C code holds the GIL, perhaps: the replica cannot say how late its call is.
            overdue_s = max(overdue_s, min(self.silent_s, self._context.ingresses.overdue_s(self.id)))
        overdue_s = 0.0 if self._context.debug else overdue_s
        return WatchedReplica(self.id, self.state, self.report, overdue_s, bool(self.worn))

    @property
    def may_have_calls(self) -> bool:
        """Whether ingress workers may have links to the replica, now or from an earlier controller's time."""
        return bool(self.ready_at) or self._earlier is not None

    @property
    def entry(self) -> ReplicaEntry:
        told = msgspec.structs.replace(self.capabilities, types=b"")
        return ReplicaEntry(self.id, self.node, self._addresses, told, self._companions)

    def status(self, outstanding: int) -> dict[str, Any]:
        """The replica's entry in `servekit.status()`."""
        return {
            "id": self.id,
            "rank": self.rank,
            "state": self.state.value,
            "pid": self.pid,
            "node": self.node,
            "outstanding": outstanding,
            "busy_s": round(self.report.busy_s, 3),
            "memory_bytes": self.report.memory_bytes,
            "started": self.started_at,
            "revision": self.record.revision,
        }

    def tell(self, state: str = "", reason: str = "") -> None:
        """Tell plugins that the replica is in another state."""
        event = ReplicaEvent(self.record.name, self.id, state or self.state.value, reason)
        self._context.events.replica_state_changed(event)

    def add_event(self, kind: str, text: str, **more: Any) -> None:
        """`EventLog.add` of what has happened to the replica; ``text`` goes on after its name."""
        whole = f"{self.label} {text}"
        self._context.events.event_log.add(kind, whole, backend=self.record.name, replica=self.id, **more)

    # -- what the controller asks of it -----------------------------------------------------------------------------

    def update(self, record: BackendRecord) -> None:
        """Take over a new config of the backend, in which no field of `REPLICA_FIELDS` has changed."""
        if config_digest(record.config.user_config) != config_digest(self.record.config.user_config):
            self.refusal = ""
        self.record = record
        self._reconfigure()

    def tell_ingresses(self) -> None:
        """Tell the worker where its handles dial."""
        if self.link is not None:
            self.link.send(frames.Ingresses(self._ingresses(self.link)))

    def fail(self, error: ServekitError) -> None:
        """Have `live` end the replica, which has failed."""
        self.failure = error
        self.moved.set()

    def lose(self, reason: str) -> None:
        """Have `live` end the replica at once: whatever calls it has, it will not answer them. Another takes its
        place."""
        if self._lost or self._over:
            return
        self._lost = True
        self.fail(BackendStartError(f"a replica of backend {self.record.name!r} was replaced: {reason}"))
        if self.state is not ReplicaState.DRAINING:
            self.mark_draining()
            # Now, and not when it has ended: on a machine that is cut off, that takes as long as the runtime will.
            self._context.events.replica_ended(self)
        self._context.events.changed()

    def mark_draining(self) -> None:
        """Take the replica out of the snapshot; `let_go` follows, when every ingress worker knows."""
        self.state = ReplicaState.DRAINING
        _log.info("%s drains", self.label)
        self.tell(reason=self.worn)

    def let_go(self, drain_timeout_s: float, hung_s: float = 0.0) -> None:
        """Have `live` end the replica, once the replica has answered its calls, or after ``drain_timeout_s``.

        ``hung_s``: see `frames.Drain`.
        """
        self._drain_timeout_s, self._hung_s = drain_timeout_s, 0.0 if self._context.debug else hung_s
        self._told_to_go = True
        self.moved.set()

    # -- its life ---------------------------------------------------------------------------------------------------

    async def live(self) -> str:
        """Start the replica, or find it again, and watch it until it has ended; returns how it ended.

        Where the replica failed, its ``failure`` says why.
        """
        how = ""
        try:
            self.runtime = await self._context.runtimes.get(self.record.runtime, self.record.runtime_options)
            if self._earlier is None:
                await self._begin()
            else:
                await self._find(self._earlier)
            await self._await_ready()
            how = await self._watch()
        except ServekitError as error:
            self.failure = error
        except Exception as error:
            _log.exception("%s failed", self.label)
            self.failure = BackendStartError(f"replica {self.id} of {self.record.name!r} failed: {error}")
        finally:
            self._over = True
            # One that ended while no controller was there has failed no start of this one's.
            unknown = self._earlier is not None and self.handle is None
            self.ended_unasked = not (self.state is ReplicaState.DRAINING or unknown)
            await asyncio.shield(self._end())
            self.process_ended()
            if self._redial is not None:
                self._redial.cancel()
        return how

    async def _begin(self) -> None:
        record, context = self.record, self._context
        host = await context.runtimes.advertise_host(self.runtime)
        if host is not None:
            context.ingresses.listen_on(host)
        spec = WorkerSpec(
            self.id,
            record.name,
            await context.bootstrap(self.id, record.name, host, self.runtime),
            record.worker_options,
            place.folders(context.directory, record.code) if record.code else (),
            record.distributions,
            context.lost_nodes.names(time.monotonic()),
            self.rank,
            log_directory=context.log_directory,
        )
        self.handle = await context.runtimes.start(self.runtime, spec)
        worker = WorkerRecord(
            self.id, record.name, record.revision, self.handle.state, self.number, self.started_at, self.rank
        )
        try:
            await context.store.call(lambda store: store.save_worker(worker))
        except StoreError as error:
            _log.warning("%s serves, but a controller after this one would start another: %s", self.label, error)
        self._is_saved = True
        if self._is_built and self.has_user_config:
            self._advance()

    async def _find(self, earlier: WorkerRecord) -> None:
        try:
            self.handle = await self._context.runtimes.call(self.runtime.attach, earlier.handle)
        except LookupError as error:
            raise BackendStartError(f"replica {self.id} is gone: {error}") from error

    async def _await_ready(self) -> None:
        """Return when the replica is ready, or told to go. Raises the error of one that will not become ready."""
        record = self.record
        ends = time.monotonic() + record.config.startup_timeout_s
        while self.state is ReplicaState.STARTING and not self._told_to_go:
            ended = await self._heard_or_ended()
            if self.failure is not None:
                raise self.failure
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

    async def _watch(self) -> str:
        """Return how the replica ended, once it has, or once it was told to go and is drained."""
        drained_by = float("inf")
        while True:
            ended = await self._heard_or_ended()
            if ended is not None:
                return ended.reason
            if self._lost:
                return "lost"
            if self._told_to_go and drained_by == float("inf"):
                drained_by = time.monotonic() + self._drain_timeout_s + 1.0
                if self.link is None or not self.ready_at or self._drain_timeout_s <= 0:
                    self._overdue = self.silent_s > 0
                    return "stopped"  # The replica has no calls to answer, or cannot.
                self.link.send(frames.Drain(self._drain_timeout_s, self._hung_s))
            if time.monotonic() > drained_by:
                self._overdue = True
                return "not drained in time"

    async def _heard_or_ended(self) -> Exit | None:
        """Wait for news of the replica, or until it is time to ask the runtime whether its process has ended."""
        is_quiet = self.link is not None and not self._told_to_go
        if await came_within(self.moved, WATCH_S if is_quiet else self._polls.next()):
            self.moved.clear()
            self._polls.reset()
            if self.link is not None or self._lost:
                return None
        assert self.handle is not None
        ended, doom = await self._context.runtimes.look(self.runtime, self.handle)
        if doom and not self.worn:
            self.add_event("replica_replaced", f"is replaced: {doom}", level=logging.WARNING)
            self.worn = f"replaced: {doom}"
            self._context.events.changed()
        return ended

    async def _end(self) -> None:
        runtimes = self._context.runtimes
        # A worker that hangs was given its time already.
        grace_s = 0.0 if self._lost else 1.0 if self.link is None or self._overdue else STOP_GRACE_S
        if self.handle is not None:
            try:
                threads = runtimes.ends if self._lost else None
                await runtimes.call(self.runtime.stop, self.handle, grace_s, threads=threads)
            except ServekitError:
                _log.exception("%s could not be stopped", self.label)
        with contextlib.suppress(FileNotFoundError):  # It is there where the process was killed, on this machine.
            os.unlink(f"{self._context.directory}/{self.id}.sock")
        await self._context.metrics.ended(self.id)
        try:
            await self._context.store.call(lambda store: store.forget_worker(self.id))
        except StoreError as error:  # A controller after this one finds that the replica is gone, and forgets it.
            _log.warning("%s has ended, but is in the store yet: %s", self.label, error)

    # -- its control link ---------------------------------------------------------------------------------------------

    def dialled(self, link: Link, hello: WorkerHello) -> None:
        super().dialled(link, hello)
        if self._redial is not None:
            self._redial.cancel()
        if self.handle is not None:
            self._context.lost_nodes.back(self.handle.node)
        if self._lost:
            link.send(frames.Drain(0.0))  # Its machine is back, and another has its place.
            return
        self.node = hello.node
        self.moved.set()
        if not hello.ready:
            self._link_tasks.spawn(self._assign(link))
            return
        self._user_config = hello.user_config
        self._built(hello)
        self._advance()  # A replica that serves goes on, with whatever ``user_config`` it has.
        self.tell_ingresses()

    def frame_received(self, link: Link, frame: Any) -> None:
        if link is not self.link or self._lost:
            return
        super().frame_received(link, frame)
        if isinstance(frame, Report):
            self.report, self.looks = frame, 0
        elif isinstance(frame, frames.MetricsTold):
            self._context.metrics.told(self.id, frame)
        elif isinstance(frame, frames.Ready):
            self._built(frame)
        elif isinstance(frame, frames.Reconfigured):
            self.answered(frame)
        elif isinstance(frame, frames.StartFailed) and self.failure is None:  # Otherwise it is being stopped.
            problem = f"its handler {self.record.target_text} could not be built: {frame.message}"
            self.fail(BackendStartError(f"backend {self.record.name!r}: {problem}"))
        elif isinstance(frame, frames.Failed):
            self._context.events.handler_failed(self, frame.groups)
        elif isinstance(frame, frames.Unhealthy) and self.state is ReplicaState.READY:
            self._context.events.replica_unhealthy(self, frame.reason)

    def link_lost(self, link: Link, error: Exception | None) -> None:
        if link is self.link:
            self._reconfiguring = None
            self.moved.set()
            if _is_remote(link):
                self._redial = asyncio.get_running_loop().call_later(REDIAL_S, self._not_redialled)
        super().link_lost(link, error)

    @property
    def serves(self) -> bool:
        return self.state is ReplicaState.READY

    def found_silent(self, why: str) -> None:
        self.lose(why)

    def _not_redialled(self) -> None:
        """Its runtime may take the worker for alive for long: Ray does for a minute."""
        if self.handle is not None and not self._told_to_go and not self._over:
            self._context.lost_nodes.add(self.handle.node, time.monotonic())
        self.lose(f"its control link is lost, and it has not dialled again from {self.node} within {REDIAL_S:g} s")

    async def _assign(self, link: Link) -> None:
        """Send the worker its target and its config."""
        record, is_remote = self.record, _is_remote(link)
        try:
            target, code = await self._context.store.call(lambda store: store.get_target(record, is_remote))
        except ServekitError as error:
            self.fail(error)
            return
        # A worker that lost its link while it built its handler goes on with its first Assign.
        if not self._user_config:
            self._user_config = config_digest(record.config.user_config)
        link.send(
            frames.Assign(
                backend=record.name,
                target_bytes=len(target),
                sys_path=list(record.sys_path),
                cwd=record.cwd,
                adapter=record.adapter_ref,
                config=record.config,
                debug=self._context.debug,
                ingresses=self._ingresses(link),
                code=record.code,
                code_bytes=len(code),
                rank=self.rank,
            )
        )
        blob = target + code
        for at in range(0, len(blob), frames.BLOB_PIECE_BYTES):
            link.send(frames.Blob(blob[at : at + frames.BLOB_PIECE_BYTES]))
            link.flush()

    def _ingresses(self, link: Link) -> list[list[str]]:
        """Where the worker's handles dial: the addresses of each ingress worker."""
        addresses = self._context.ingresses.link_addresses
        if not _is_remote(link):
            return addresses
        remote = [[each for each in worker if each.startswith("tcp:")] for worker in addresses]
        return [worker for worker in remote if worker]

    def _built(self, told: WorkerHello | frames.Ready) -> None:
        self._addresses, self.capabilities = tuple(told.addresses), told.capabilities
        self._companions = tuple(told.companions)
        self._is_built = True
        self._reconfigure()
        if self.has_user_config:
            self._advance()

    def _advance(self) -> None:
        if self.state is ReplicaState.STARTING and self._is_saved:
            self.state = ReplicaState.READY
            self.ready_at = time.monotonic()
            if self._earlier is None:
                self.add_event("replica_ready", f"is ready, {time.time() - self.started_at:.2f} s after its start")
            else:
                self.add_event("replica_ready", "is taken over")
            self.tell()
            self._context.events.changed()
        self.moved.set()

    # -- its user_config ----------------------------------------------------------------------------------------------

    @property
    def has_user_config(self) -> bool:
        """Whether the handler has the record's ``user_config``."""
        return self._user_config == config_digest(self.record.config.user_config)

    def refused(self) -> BackendStartError:
        """The error for whoever set the ``user_config`` that the handler raised on."""
        return BackendStartError(
            f"backend {self.record.name!r}: its handler {self.record.target_text} did not take over user_config; "
            f"in the replica:\n\n{self.refusal}"
        )

    def _reconfigure(self) -> None:
        """Have the handler take over the record's ``user_config``, unless the handler has that, or raised on it."""
        needed = self._is_built and not self.has_user_config and not self.refusal
        if needed and self.link is not None and self._reconfiguring is None:
            self._reconfiguring = self._link_tasks.spawn(self._ask_to_reconfigure())

    async def _ask_to_reconfigure(self) -> None:
        while not self.has_user_config and not self.refusal:
            user_config = self.record.config.user_config
            digest = config_digest(user_config)
            self._user_config = b""
            answer = await self.ask(frames.Reconfigure(user_config))
            if not answer.error:
                self._user_config = digest
            elif digest == config_digest(self.record.config.user_config):
                self.refusal = answer.error
        self._reconfiguring = None
        if self.has_user_config:
            self._advance()
        elif self.state is ReplicaState.STARTING:
            self.fail(self.refused())
        self._context.events.changed()


def _is_remote(link: Link) -> bool:
    """Whether the worker is to use no sockets of this machine's: such a worker has dialled on TCP."""
    return isinstance(link.local_address, tuple)

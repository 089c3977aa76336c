"""One replica: its state, its life from start to end, and its control link."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from servekit.backoff import Backoff
from servekit.code import place
from servekit.config import STOP_GRACE_S, config_digest
from servekit.control.events import WorkerEvents
from servekit.control.ingresses import IngressFleet
from servekit.control.links import LinkedWorker
from servekit.control.plan import ReplicaFacts, ReplicaState
from servekit.control.runtimes import Runtimes
from servekit.control.state import BackendRecord
from servekit.control.store import StoreThread, WorkerRecord
from servekit.errors import BackendStartError, DeadlineError, ServekitError
from servekit.interfaces import Exit, ReplicaEvent, ReplicaRuntime, WorkerHandle, WorkerSpec
from servekit.tasks import came_within
from servekit.wire import control_frames as frames
from servekit.wire.control_frames import Capabilities, ReplicaEntry, Report, WorkerHello
from servekit.wire.link import Link

_log = logging.getLogger("servekit.control")

FIRST_POLL_S = 0.002
POLL_S = 0.05
"""Between two looks at a worker whose control link is not there, at the most; the first looks come sooner."""
WATCH_S = 1.0
"""Between two looks at one whose link is."""


@dataclass(frozen=True)
class ReplicaContext:
    """What all replicas of an instance share."""

    runtimes: Runtimes
    store: StoreThread
    ingresses: IngressFleet
    """Where the handles in replicas dial."""
    events: WorkerEvents
    bootstrap: Callable[[str, str | None, ReplicaRuntime], Awaitable[bytes]]
    """What a worker is started with, by its id, the host at which its machine reaches this one, and its runtime."""
    directory: str
    """Of the instance."""
    debug: bool


class ManagedReplica(LinkedWorker):
    """What the controller has of one replica. `live` is run in one task, from start to end."""

    def __init__(
        self,
        replica_id: str,
        record: BackendRecord,
        number: int,
        context: ReplicaContext,
        earlier: WorkerRecord | None = None,
    ) -> None:
        """``earlier``: what an earlier controller, which started the replica, wrote down of it."""
        super().__init__(replica_id)
        self.record = record
        self.number = number
        self.state = ReplicaState.STARTING
        self.runtime: ReplicaRuntime
        self.handle: WorkerHandle | None = None
        self.moved = asyncio.Event()
        """Something was heard of the replica, or its link is lost."""
        self.failure: ServekitError | None = None
        self.node = ""
        self.capabilities = Capabilities()
        self.started_at = time.time() if earlier is None else earlier.started_at
        self.ready_at = 0.0
        self.report = Report()
        self.refusal = ""
        """The traceback of a handler that raised on the record's ``user_config``."""
        self.ended_unasked = False
        self._context = context
        self._earlier = earlier
        self._addresses: tuple[str, ...] = ()
        self._is_built = False
        """The worker listens. The replica is ready once its handler has the record's ``user_config`` as well."""
        self._user_config = b""
        """Digest of the ``user_config`` that the handler has; empty: nobody knows."""
        self._reconfiguring: asyncio.Task[None] | None = None
        self._told_to_go = False
        self._drain_timeout_s = 0.0
        self._overdue = False
        """The replica was told to go, and was not drained within that time."""
        self._polls = Backoff(FIRST_POLL_S, POLL_S)

    # -- what others know of it ----------------------------------------------------------------------------------

    @property
    def facts(self) -> ReplicaFacts:
        return ReplicaFacts(self.id, self.record.name, self.record.revision, self.state, self.number)

    @property
    def may_have_calls(self) -> bool:
        """Whether ingress workers may have links to the replica, now or from an earlier controller's time."""
        return bool(self.ready_at) or self._earlier is not None

    @property
    def entry(self) -> ReplicaEntry:
        return ReplicaEntry(self.id, self.node, self._addresses, self.capabilities)

    def status(self, outstanding: int) -> dict[str, Any]:
        """For `servekit.status()`."""
        return {
            "id": self.id,
            "state": self.state.value,
            "pid": self.pid,
            "node": self.node,
            "outstanding": outstanding,
            "busy_s": round(self.report.busy_s, 3),
            "started": self.started_at,
            "revision": self.record.revision,
        }

    def tell(self, state: str = "", reason: str = "") -> None:
        """Let plugins know that the replica is in another state."""
        event = ReplicaEvent(self.record.name, self.id, state or self.state.value, reason)
        self._context.events.replica_state_changed(event)

    # -- what the controller asks of it -----------------------------------------------------------------------------

    def update(self, record: BackendRecord) -> None:
        """The backend has another config, of which a running replica can take over what has changed."""
        if config_digest(record.config.user_config) != config_digest(self.record.config.user_config):
            self.refusal = ""
        self.record = record
        self._reconfigure()

    def tell_ingresses(self) -> None:
        """Tell the worker where its handles dial."""
        if self.link is not None:
            self.link.send(frames.Ingresses(self._ingresses(self.link)))

    def fail(self, error: ServekitError) -> None:
        """The replica cannot go on, for this reason."""
        self.failure = error
        self.moved.set()

    def mark_draining(self) -> None:
        """The replica gets no more requests; `let_go` follows, when every ingress worker knows."""
        self.state = ReplicaState.DRAINING
        self.tell()

    def let_go(self, drain_timeout_s: float) -> None:
        """End the replica, once it has answered what it has."""
        self._drain_timeout_s = drain_timeout_s
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
            _log.exception("replica %s", self.id)
            self.failure = BackendStartError(f"replica {self.id} of {self.record.name!r} failed: {error}")
        finally:
            self.ended_unasked = not self._told_to_go
            await asyncio.shield(self._end())
            self.process_ended()
        return how

    async def _begin(self) -> None:
        record, context = self.record, self._context
        host = await context.runtimes.call(self.runtime.advertise_host, failing="the runtime gave no address")
        if host is not None:
            context.ingresses.listen_on(host)
        spec = WorkerSpec(
            self.id,
            record.name,
            await context.bootstrap(self.id, host, self.runtime),
            record.worker_options,
            place.folders(context.directory, record.code) if record.code else (),
            record.distributions,
        )
        self.handle = await context.runtimes.start(self.runtime, spec)
        worker = WorkerRecord(self.id, record.name, record.revision, self.handle.state, self.number, self.started_at)
        await context.store.call(lambda store: store.save_worker(worker))

    async def _find(self, earlier: WorkerRecord) -> None:
        try:
            self.handle = await self._context.runtimes.call(self.runtime.attach, earlier.handle)
        except LookupError as error:
            raise BackendStartError(f"replica {self.id} is gone: {error}") from error

    async def _await_ready(self) -> None:
        """Until the replica is ready, or told to go. Raises where it will not be ready."""
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
        """Until the replica ends, or is told to go and drained; returns how it ended."""
        drained_by = float("inf")
        while True:
            ended = await self._heard_or_ended()
            if ended is not None:
                return ended.reason
            if self._told_to_go and drained_by == float("inf"):
                drained_by = time.monotonic() + self._drain_timeout_s + 1.0
                if self.link is None or not self.ready_at or self._drain_timeout_s <= 0:
                    return "stopped"  # The replica has nothing that could be drained.
                self.link.send(frames.Drain(self._drain_timeout_s))
            if time.monotonic() > drained_by:
                self._overdue = True
                return "not drained in time"

    async def _heard_or_ended(self) -> Exit | None:
        """Wait for news of the replica, or until it is time to ask the runtime whether its process has ended."""
        is_quiet = self.link is not None and not self._told_to_go
        if await came_within(self.moved, WATCH_S if is_quiet else self._polls.next()):
            self.moved.clear()
            self._polls.reset()
            if self.link is not None:
                return None
        assert self.handle is not None
        return await self._context.runtimes.call(self.runtime.poll, self.handle)

    async def _end(self) -> None:
        if self.handle is None:
            return
        # A worker that hangs has had its time.
        grace_s = 1.0 if self.link is None or self._overdue else STOP_GRACE_S
        try:
            await self._context.runtimes.call(self.runtime.stop, self.handle, grace_s)
        except ServekitError:
            _log.exception("replica %s could not be stopped", self.id)
        await self._context.store.call(lambda store: store.forget_worker(self.id))

    # -- its control link ---------------------------------------------------------------------------------------------

    def dialled(self, link: Link, hello: WorkerHello) -> None:
        super().dialled(link, hello)
        self.node = hello.node
        self.moved.set()
        if not hello.ready:
            self._link_tasks.spawn(self._assign(link))
            return
        self._user_config = hello.user_config
        self._built(hello.addresses, hello.capabilities)
        self._advance()  # What serves already goes on, with whatever ``user_config`` it has.
        self.tell_ingresses()

    def frame_received(self, link: Link, frame: Any) -> None:
        if link is not self.link:
            return
        if isinstance(frame, Report):
            self.report = frame
        elif isinstance(frame, frames.Ready):
            self._built(frame.addresses, frame.capabilities)
        elif isinstance(frame, frames.Reconfigured):
            self.answered(frame)
        elif isinstance(frame, frames.StartFailed) and self.failure is None:  # Else the worker fails of being stopped.
            problem = f"its handler {self.record.target_text} could not be built"
            self.fail(BackendStartError(f"backend {self.record.name!r}: {problem}; in the replica:\n\n{frame.message}"))
        elif isinstance(frame, frames.Unhealthy) and self.state is ReplicaState.READY:
            self._context.events.replica_unhealthy(self, frame.reason)

    def link_lost(self, link: Link, error: Exception | None) -> None:
        if link is self.link:
            self._reconfiguring = None
            self.moved.set()
        super().link_lost(link, error)

    async def _assign(self, link: Link) -> None:
        """Tell the worker what to serve."""
        record, is_remote = self.record, _is_remote(link)
        try:
            target, code = await self._context.store.call(lambda store: store.get_target(record, is_remote))
        except ServekitError as error:
            self.fail(error)
            return
        if not self._user_config:  # A worker that lost its link as it built goes on with its first Assign.
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

    def _built(self, addresses: list[str], capabilities: Capabilities) -> None:
        self._addresses, self.capabilities = tuple(addresses), capabilities
        self._is_built = True
        self._reconfigure()
        if self.has_user_config:
            self._advance()

    def _advance(self) -> None:
        if self.state is ReplicaState.STARTING:
            self.state = ReplicaState.READY
            self.ready_at = time.monotonic()
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

"""The ingress workers: started, sent every change, and waited for until they have applied it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from servekit.backoff import Backoff
from servekit.config import SNAPSHOT_TIMEOUT_S
from servekit.control.counts import Counts
from servekit.control.events import WorkerEvents
from servekit.control.links import ControlServer, LinkedWorker
from servekit.control.snapshot import Content, difference
from servekit.errors import DeadlineError, InternalError
from servekit.tasks import TaskSet, came_within
from servekit.wire.control_frames import Applied, LinkAddresses, ListenOn, Report, Stop, WorkerHello
from servekit.wire.link import Link

_log = logging.getLogger("servekit.control")

_FIRST_RESTART_S = 0.1
_LONGEST_RESTART_S = 10.0
_ERRORS_KEPT = 100


class IngressProcess(Protocol):
    """A started ingress worker."""

    pid: int

    async def wait(self) -> str:
        """Return when the worker has ended, and how."""

    def kill(self) -> None: ...


class ManagedIngress(LinkedWorker):
    """What the controller has of one ingress worker. `keep` is run in one task."""

    def __init__(self, worker_id: str, fleet: IngressFleet) -> None:
        super().__init__(worker_id)
        self.process: IngressProcess | None = None
        self.addresses: list[str] = []
        """Where handles dial the worker: what it said last."""
        self.applied = 0
        self.errors: dict[int, str] = {}
        """What the worker could not apply, by version: of the last few."""
        self.report: Report | None = None
        """The worker's last, on this link."""
        self._fleet = fleet
        self._content: Content | None = None
        """What the worker was last sent, of the version `_sent`."""
        self._sent = 0

    async def keep(self) -> None:
        """Start the worker, and start it again whenever it ends, until the fleet stops."""
        fleet, pauses = self._fleet, Backoff(_FIRST_RESTART_S, _LONGEST_RESTART_S)
        while not fleet.stopping:
            began = time.monotonic()
            try:
                self.process = await fleet.launch(self.id)
            except OSError as error:
                ended = f"it could not be started: {error}"
            else:
                self.pid = self.process.pid
                ended = await self.process.wait()
            self.process = None
            self.process_ended()
            if not fleet.stopping:
                pause_s = pauses.next(time.monotonic() - began)
                _log.error("ingress worker %s ended (%s); starting it again in %g s", self.id, ended, pause_s)
                await asyncio.sleep(pause_s)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def push(self) -> None:
        """Send the worker what differs between the fleet's content and what the worker was last sent."""
        if self.link is not None:
            fleet = self._fleet
            self.link.send(difference(self._content, self._sent, fleet.content, fleet.version))
            self._content, self._sent = fleet.content, fleet.version

    # -- its control link ---------------------------------------------------------------------------------------------

    def dialled(self, link: Link, hello: WorkerHello) -> None:
        super().dialled(link, hello)
        self._set_addresses(hello.addresses)
        # The hosts that an earlier controller asked for: another worker may have to know.
        self._fleet.hosts.update(host_of(address) for address in hello.addresses if address.startswith("tcp:"))
        for host in self._fleet.hosts:
            link.send(ListenOn(host))
        if self._fleet.version:
            self.push()

    def frame_received(self, link: Link, frame: Any) -> None:
        fleet = self._fleet
        if isinstance(frame, Report):
            fleet.counts.add(frame.counts, frame.failovers)
        if link is not self.link:
            return
        if isinstance(frame, Report):
            self.report = frame
            if frame.waiting:
                fleet.events.requests_wait()
        elif isinstance(frame, LinkAddresses):
            self._set_addresses(frame.addresses)
        elif isinstance(frame, Applied):
            self.applied = frame.version
            if frame.error:
                self.errors[frame.version] = frame.error
                if len(self.errors) > _ERRORS_KEPT:
                    del self.errors[min(self.errors)]
            fleet.moved.set()

    def link_lost(self, link: Link, error: Exception | None) -> None:
        if link is self.link:
            self._content, self.applied, self.report = None, 0, None
            self._fleet.moved.set()
        super().link_lost(link, error)

    def _set_addresses(self, addresses: list[str]) -> None:
        if addresses != self.addresses:
            self.addresses = addresses
            self._fleet.events.addresses_changed()


class IngressFleet:
    """All ingress workers of the instance."""

    def __init__(
        self, launch: Callable[[str], Awaitable[IngressProcess]], control: ControlServer, events: WorkerEvents
    ) -> None:
        """``launch`` starts the worker of that id. Raises ``OSError``."""
        self.workers: dict[str, ManagedIngress] = {}
        self.counts = Counts()
        self.launch = launch
        self.events = events
        self.content = Content()
        """What all workers are to have applied, of the version `version`."""
        self.version = 0
        self.hosts: set[str] = set()
        """Where handles on other machines dial."""
        self.moved = asyncio.Event()
        """Some worker has applied a snapshot, or lost its link."""
        self.stopping = False
        self._control = control
        self._tasks = TaskSet()

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self, worker_ids: list[str]) -> None:
        """Start the workers, and start again whichever ends before `stop`."""
        for worker_id in worker_ids:
            self.workers[worker_id] = self._control.workers[worker_id] = ManagedIngress(worker_id, self)
            self._tasks.spawn(self.workers[worker_id].keep())

    async def stop(self, timeout_s: float) -> None:
        """Let every worker finish what is in flight; kill what takes longer than ``timeout_s``."""
        self.stopping = True
        for worker in self.workers.values():
            if worker.link is not None:
                worker.link.send(Stop(timeout_s))
            else:
                worker.kill()
        if not await self._tasks.wait(timeout_s + 1.0):
            for worker in self.workers.values():
                worker.kill()
            await self._tasks.wait(2.0)
        await self._tasks.close()

    # -- the links of handles ----------------------------------------------------------------------------------------

    @property
    def link_addresses(self) -> list[list[str]]:
        """Where handles dial: the addresses of each worker."""
        return [worker.addresses for worker in self.workers.values() if worker.addresses]

    def listen_on(self, host: str) -> None:
        """Let handles on other machines dial: every worker listens on ``host``, and says on which port."""
        if host not in self.hosts:
            self.hosts.add(host)
            for worker in self.workers.values():
                if worker.link is not None:
                    worker.link.send(ListenOn(host))

    # -- load --------------------------------------------------------------------------------------------------------

    def outstanding(self, replica_id: str) -> int:
        """Requests that the replica has, as the workers last reported."""
        reports = (worker.report for worker in self.workers.values() if worker.report is not None)
        return sum(report.replica_outstanding.get(replica_id, 0) for report in reports)

    def load(self, backend: str, replica_ids: Iterable[str]) -> int | None:
        """Requests that wait for the backend or are at these replicas of it; None until each linked worker has said."""
        reports = [worker.report for worker in self.workers.values() if worker.link is not None]
        if not reports or None in reports:
            return None
        waiting = sum(report.waiting.get(backend, 0) for report in reports if report is not None)
        return waiting + sum(map(self.outstanding, replica_ids))

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def publish(self, content: Content) -> int:
        """Push what changed to every worker; return the version to wait for. Nothing changed: nothing is sent."""
        if content != self.content or self.version == 0:
            self.content = content
            # Above every version of an earlier controller, whose acknowledgements may still be on their way.
            self.version = max(self.version + 1, int(time.time() * 1000))
            for worker in self.workers.values():
                worker.push()
        return self.version

    async def wait_applied(self, version: int, timeout_s: float = SNAPSHOT_TIMEOUT_S) -> None:
        """Until every live worker has applied ``version``.

        Raises `DeadlineError` after ``timeout_s``, and `InternalError` where a worker could not apply it.
        """
        ends = time.monotonic() + timeout_s
        while behind := [w.id for w in self.workers.values() if w.link is not None and w.applied < version]:
            if not await self._has_moved(ends - time.monotonic()):
                raise DeadlineError(
                    f"ingress workers {', '.join(behind)} have not applied the change within {timeout_s:g} s; "
                    "it stands, and they will"
                )
        errors = [worker.errors[version] for worker in self.workers.values() if version in worker.errors]
        if errors:
            raise InternalError(f"an ingress worker could not apply the change: {'; '.join(errors)}")

    async def wait_linked(self, timeout_s: float) -> None:
        """Until every worker is there and serves. Raises `DeadlineError`."""
        ends = time.monotonic() + timeout_s
        while any(worker.link is None or not worker.applied for worker in self.workers.values()):
            if not await self._has_moved(ends - time.monotonic()):
                raise DeadlineError(f"the ingress workers did not come up within {timeout_s:g} s")

    async def _has_moved(self, timeout_s: float) -> bool:
        self.moved.clear()
        return await came_within(self.moved, timeout_s)


def host_of(address: str) -> str:
    """The host in ``tcp:HOST:PORT``."""
    return address.removeprefix("tcp:").rpartition(":")[0]

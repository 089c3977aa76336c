"""The ingress workers: each is started, sent every change, and waited for until it has applied the change."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

from servekit.backoff import FIRST_RESTART_S, LONGEST_RESTART_S, Backoff
from servekit.config import DRAIN_TIMEOUT_S, SNAPSHOT_TIMEOUT_S
from servekit.control.counts import Counts
from servekit.control.events import EventLog
from servekit.control.links import ControlServer, LinkedWorker
from servekit.control.snapshot import Content, difference
from servekit.errors import DeadlineError, InternalError
from servekit.tasks import TaskSet, came_within
from servekit.wire.control_frames import (
    Applied,
    LinkAddresses,
    ListenOn,
    Recall,
    Recalled,
    Report,
    ShadowPair,
    Stop,
    Suspected,
    WorkerHello,
)
from servekit.wire.link import Link

_log = logging.getLogger("servekit.control")

_ERRORS_KEPT = 100
RECALL_TIMEOUT_S = 2.0
"""How long an ingress worker may take to say what it knows of a request."""
STOPPED_AFTER_S = 0.5
"""A worker that has not applied a change within this time may be stopped: its process is looked at."""


class IngressProcess(Protocol):
    """A started ingress worker."""

    pid: int
    replaces: bool
    """Whether the process takes the place of a recorded one that has ended."""

    async def wait(self) -> str:
        """Return how the worker ended, once it has."""

    def kill(self) -> None: ...


class IngressEvents(Protocol):
    """The controller, as ingress workers tell it of what happened; called on the controller's loop."""

    event_log: EventLog

    def requests_wait(self) -> None:
        """An ingress worker has requests that wait for a replica."""

    def replicas_had_served(self, replicas: Mapping[str, str]) -> None:
        """These replicas have died, or seem to have, and had answered calls: each with its backend."""

    def requests_refused(self, refused: list[tuple[str, str, int]]) -> None:
        """An ingress worker has answered so many requests with an error, by endpoint and the error's type."""

    def replicas_ejected(self, ejected: list[tuple[str, str, str]]) -> None:
        """These replicas, each with its backend and why, get no requests of an ingress worker for a while."""

    def shadow_answered(self, pair: ShadowPair) -> None:
        """An ingress worker has two answers to compare."""

    def addresses_changed(self) -> None:
        """Handles are to dial the ingress workers at other addresses than before."""


class ManagedIngress(LinkedWorker):
    """One ingress worker, as the controller knows it. `keep` runs in one task."""

    def __init__(self, worker_id: str, fleet: IngressFleet) -> None:
        super().__init__(worker_id)
        self.process: IngressProcess | None = None
        self.addresses: list[str] = []
        """Where handles dial the worker: the addresses that it told last."""
        self.applied = 0
        self.errors: dict[int, str] = {}
        """Of the last versions that the worker could not apply in full: what went wrong, by version."""
        self.report: Report | None = None
        """The last one that came on this link."""
        self._fleet = fleet
        self._killed_for = ""
        """Why the process was killed; empty: it was not."""
        self._content: Content | None = None
        """The content that the worker was last sent, of the version `_sent`."""
        self._sent = 0
        self._recalls: dict[int, asyncio.Future[Recalled]] = {}
        """Questions that the worker has not answered, by number; each for `RECALL_TIMEOUT_S` at most."""

    async def keep(self) -> None:
        """Start the worker, and start it again whenever it ends, until the fleet stops."""
        fleet, pauses, told = self._fleet, Backoff(FIRST_RESTART_S, LONGEST_RESTART_S), False
        while not fleet.stopping:
            began = time.monotonic()
            try:
                self.process = await fleet.launch(self.id)
            except OSError as error:
                ended = f"it could not be started: {error}"
            else:
                self.pid = self.process.pid
                if self.process.replaces and not told:  # It was an earlier controller's.
                    text = f"ingress {self.id} ended while no controller was there; another is started"
                    fleet.events.event_log.add("ingress_ended", text, level=logging.ERROR)
                told = True
                ended = await self.process.wait()
                if self._killed_for:
                    ended, self._killed_for = f"killed, for {self._killed_for}", ""
            self.process = None
            self.process_ended()
            if not fleet.stopping:
                pause_s = pauses.next(time.monotonic() - began)
                what = f"ingress {self.id} ended: {ended}"
                text = f"{what}; another is started in {pause_s:g} s"
                fleet.events.event_log.add("ingress_ended", text, alike=what, level=logging.ERROR)
                await asyncio.sleep(pause_s)

    @property
    def serves(self) -> bool:
        return self.applied > 0

    def found_silent(self, why: str) -> None:
        """`keep` starts another."""
        text = f"ingress {self.id} is killed: {why}"
        self._fleet.events.event_log.add("ingress_killed", text, level=logging.WARNING)
        self._killed_for = why
        self.kill()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def push(self) -> None:
        """Send the worker the difference between the fleet's content and the one that it was last sent."""
        if self.link is not None:
            fleet = self._fleet
            self.link.send(difference(self._content, self._sent, fleet.content, fleet.version))
            self._content, self._sent = fleet.content, fleet.version

    async def recall(self, question: Recall) -> Recalled | None:
        """What the worker knows of a request; None: it does not say, in time."""
        if self.link is None:
            return None
        answer = self._recalls[question.number] = asyncio.get_running_loop().create_future()
        self.link.send(question)
        try:
            await asyncio.wait([answer], timeout=RECALL_TIMEOUT_S)
        finally:
            del self._recalls[question.number]
        return answer.result() if answer.done() and not answer.cancelled() else None

    # -- its control link ---------------------------------------------------------------------------------------------

    def dialled(self, link: Link, hello: WorkerHello) -> None:
        if self.process is not None and hello.pid != self.process.pid:
            # An earlier controller started it, and was killed before it could record that.
            link.send(Stop(DRAIN_TIMEOUT_S))
            return
        super().dialled(link, hello)
        self._set_addresses(hello.addresses)
        # An earlier controller had the worker listen on these hosts; the other workers are to listen there as well.
        self._fleet.hosts.update(host_of(address) for address in hello.addresses if address.startswith("tcp:"))
        for host in self._fleet.hosts:
            link.send(ListenOn(host))
        if self._fleet.version:
            self.push()

    def frame_received(self, link: Link, frame: Any) -> None:
        super().frame_received(link, frame)
        fleet = self._fleet
        if isinstance(frame, Report):
            self._take_news(frame)
        if link is not self.link:
            return
        if isinstance(frame, Report):
            self.report = frame
            if frame.suspects:
                fleet.tell_others(self, Suspected(frame.suspects))
            if frame.served:
                fleet.events.replicas_had_served(frame.served)
            if frame.waiting:
                fleet.events.requests_wait()
        elif isinstance(frame, LinkAddresses):
            self._set_addresses(frame.addresses)
        elif isinstance(frame, Recalled):
            self._recalled(frame)
        elif isinstance(frame, Applied):
            self._has_applied(frame)
        elif isinstance(frame, ShadowPair):
            fleet.events.shadow_answered(frame)

    def _recalled(self, answer: Recalled) -> None:
        asked = self._recalls.get(answer.number)
        if asked is not None and not asked.done():
            asked.set_result(answer)

    def _has_applied(self, frame: Applied) -> None:
        if not self.applied:
            _log.info("ingress %s serves", self.id)
        self.applied = frame.version
        if frame.error:
            self.errors[frame.version] = frame.error
            if len(self.errors) > _ERRORS_KEPT:
                del self.errors[min(self.errors)]
        self._fleet.moved.set()

    def _take_news(self, report: Report) -> None:
        if report.refused:
            self._fleet.events.requests_refused(report.refused)
        if report.ejected:
            self._fleet.events.replicas_ejected(report.ejected)

    def link_lost(self, link: Link, error: Exception | None) -> None:
        if link is self.link:
            self._content, self.applied, self.report = None, 0, None
            for asked in self._recalls.values():
                asked.cancel()
            self._fleet.moved.set()
        super().link_lost(link, error)

    def _set_addresses(self, addresses: list[str]) -> None:
        if addresses != self.addresses:
            self.addresses = addresses
            self._fleet.events.addresses_changed()


class IngressFleet:
    """All ingress workers of the instance."""

    def __init__(
        self,
        launch: Callable[[str], Awaitable[IngressProcess]],
        control: ControlServer,
        events: IngressEvents,
        counts: Counts | None = None,
    ) -> None:
        """``launch`` starts the worker of the id that it is given, or raises ``OSError``."""
        self.workers: dict[str, ManagedIngress] = {}
        self.counts = counts or Counts()
        self.launch = launch
        self.events = events
        self.content = Content()
        """The content that all workers are to apply, of the version `version`."""
        self.version = 0
        self.hosts: set[str] = set()
        """The hosts of this machine that handles on other machines dial."""
        self.moved = asyncio.Event()
        """Set when a worker has applied a snapshot, or lost its link."""
        self.stopping = False
        self._control = control
        self._tasks = TaskSet()
        self._questions = itertools.count(1)

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self, worker_ids: list[str]) -> None:
        """Start the workers; one that ends before `stop` is started again."""
        for worker_id in worker_ids:
            self.workers[worker_id] = self._control.workers[worker_id] = ManagedIngress(worker_id, self)
            self._tasks.spawn(self.workers[worker_id].keep())

    async def stop(self, timeout_s: float, delay_s: float = 0.0) -> None:
        """Let every worker serve for ``delay_s`` and then finish its requests in flight; kill one that takes longer
        than ``timeout_s`` for that."""
        self.stopping = True
        for worker in self.workers.values():
            if worker.link is not None:
                worker.link.send(Stop(timeout_s, delay_s, all_end=True))
            else:
                worker.kill()
        if not await self._tasks.wait(delay_s + timeout_s + 1.0):
            self.kill()
            await self._tasks.wait(2.0)
        await self._tasks.close()

    def kill(self) -> None:
        """Kill every worker; one that is killed before `stop` is started again."""
        for worker in self.workers.values():
            worker.kill()

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

    def tell_others(self, worker: ManagedIngress, news: Suspected) -> None:
        """Tell all other workers of the suspects of one."""
        for other in self.workers.values():
            if other is not worker and other.link is not None:
                other.link.send(news)

    # -- load --------------------------------------------------------------------------------------------------------

    def outstanding(self, replica_id: str) -> int:
        """How many requests the replica has, as the workers last reported."""
        reports = (worker.report for worker in self.workers.values() if worker.report is not None)
        return sum(report.replica_outstanding.get(replica_id, 0) for report in reports)

    def queued(self, backend: str) -> int:
        """How many requests wait for room in a replica of the backend, as the workers last reported."""
        reports = (worker.report for worker in self.workers.values() if worker.report is not None)
        return sum(report.queued.get(backend, 0) for report in reports)

    def parked(self, endpoint: str) -> int:
        """How many requests of the endpoint wait for a backend that can serve, as the workers last reported."""
        reports = (worker.report for worker in self.workers.values() if worker.report is not None)
        return sum(report.parked.get(endpoint, 0) for report in reports)

    def overdue_s(self, replica_id: str) -> float:
        """How far the replica's oldest call is beyond its deadline, as the workers last reported."""
        reports = (worker.report for worker in self.workers.values() if worker.report is not None)
        return max((report.replica_overdue_s.get(replica_id, 0.0) for report in reports), default=0.0)

    def load(self, backend: str, replica_ids: Iterable[str]) -> int | None:
        """How many requests wait for the backend or are at these replicas; None until each linked worker has
        reported."""
        reports = [worker.report for worker in self.workers.values() if worker.link is not None]
        if not reports or None in reports:
            return None
        waiting = sum(report.waiting.get(backend, 0) for report in reports if report is not None)
        return waiting + sum(map(self.outstanding, replica_ids))

    async def recall(self, question: Recall) -> dict[str, Recalled | None]:
        """What each worker knows of a request; None for a worker that does not say, in time."""
        question.number = next(self._questions)
        workers = list(self.workers.values())
        answers = await asyncio.gather(*(worker.recall(question) for worker in workers))
        return {worker.id: answer for worker, answer in zip(workers, answers, strict=True)}

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def publish(self, content: Content) -> int:
        """Push the content to every worker, unless they have been sent the same; return the version to wait for."""
        if content != self.content or self.version == 0:
            self.content = content
            # Above every version of an earlier controller, of which acknowledgements may still be on their way.
            self.version = max(self.version + 1, int(time.time() * 1000))
            for worker in self.workers.values():
                worker.push()
        return self.version

    async def wait_applied(self, version: int, timeout_s: float = SNAPSHOT_TIMEOUT_S) -> None:
        """Return when every live worker has applied ``version``. A worker that is stopped is not waited for: it is
        replaced, or is in a debugger's hands, and then applies what it finds on its link before all else.

        Raises `DeadlineError` after ``timeout_s``, and `InternalError` where a worker could not apply it.
        """
        ends, look_at = time.monotonic() + timeout_s, time.monotonic() + STOPPED_AFTER_S
        stopped: list[ManagedIngress] = []
        while behind := [worker for worker in self._behind(version) if worker not in stopped]:
            now = time.monotonic()
            if now >= ends:
                raise DeadlineError(
                    f"ingress workers {', '.join(worker.id for worker in behind)} have not applied the change within "
                    f"{timeout_s:g} s; it stands, and they will"
                )
            await self._has_moved(min(ends, look_at) - now)
            if time.monotonic() >= look_at:
                stopped = [worker for worker in behind if worker.is_stopped]
                look_at = time.monotonic() + STOPPED_AFTER_S
        errors = [worker.errors[version] for worker in self.workers.values() if version in worker.errors]
        if errors:
            raise InternalError(f"an ingress worker could not apply the change: {'; '.join(errors)}")

    def _behind(self, version: int) -> list[ManagedIngress]:
        return [worker for worker in self.workers.values() if worker.link is not None and worker.applied < version]

    async def wait_linked(self, timeout_s: float) -> None:
        """Return when every worker is there and serves. Raises `DeadlineError` after ``timeout_s``."""
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

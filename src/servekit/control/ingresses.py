"""The ingress workers: started, pushed every change, and asked whether they have it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from servekit.config import SNAPSHOT_TIMEOUT_S
from servekit.control.snapshot import Content, difference
from servekit.errors import DeadlineError, InternalError
from servekit.wire.control_frames import Applied, LinkAddresses, ListenOn, Snapshot, Stop, WorkerHello
from servekit.wire.link import Link

_log = logging.getLogger("servekit.control")

_FIRST_RESTART_S = 0.1
_LONGEST_RESTART_S = 10.0
_ERRORS_KEPT = 100


class IngressProcess(Protocol):
    """A started ingress worker."""

    pid: int

    async def wait(self) -> str:
        """Return when it has ended, how."""

    def kill(self) -> None: ...


class Ingress:
    """What the controller knows of one ingress worker."""

    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id
        self.pid = 0
        self.process: IngressProcess | None = None
        self.link: Link | None = None
        self.addresses: list[str] = []
        """Where handles dial it: what it said last."""
        self.content: Content | None = None
        """What it was last sent."""
        self.sent = 0
        self.applied = 0
        self.errors: dict[int, str] = {}
        """What it could not apply, by version: of the last few."""


class IngressFleet:
    """All ingress workers of the instance."""

    def __init__(self, launch: Callable[[str], Awaitable[IngressProcess]]) -> None:
        self._launch = launch
        self._tasks: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()
        self._content = Content()
        self._stopping = False
        self._hosts: set[str] = set()
        """Where handles on other machines dial."""
        self.addresses_changed: Callable[[], None] = lambda: None
        self.workers: dict[str, Ingress] = {}
        self.version = 0

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self, worker_ids: list[str]) -> None:
        """Start them, and start again whichever ends before `stop`."""
        for worker_id in worker_ids:
            self.workers[worker_id] = Ingress(worker_id)
            self._tasks.add(asyncio.ensure_future(self._keep(self.workers[worker_id])))

    async def stop(self, timeout_s: float) -> None:
        """Let every worker finish what is in flight; kill what takes longer than ``timeout_s``."""
        self._stopping = True
        for worker in self.workers.values():
            if worker.link is not None:
                worker.link.send(Stop(timeout_s))
            elif worker.process is not None:
                worker.process.kill()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s + 1.0)
            if late:
                for worker in self.workers.values():
                    if worker.process is not None:
                        worker.process.kill()
                await asyncio.wait(late, timeout=2.0)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, worker: Ingress) -> None:
        pause_s = _FIRST_RESTART_S
        while not self._stopping:
            began = asyncio.get_running_loop().time()
            try:
                worker.process = await self._launch(worker.worker_id)
            except OSError as error:
                ended = f"it could not be started: {error}"
            else:
                worker.pid = worker.process.pid
                ended = await worker.process.wait()
            worker.process = None
            if worker.link is not None:
                worker.link.peer_ended()
            self.link_lost(worker)
            lived_s = asyncio.get_running_loop().time() - began
            pause_s = _FIRST_RESTART_S if lived_s > _LONGEST_RESTART_S else min(2 * pause_s, _LONGEST_RESTART_S)
            if not self._stopping:
                _log.error("ingress worker %s ended (%s); starting it again in %g s", worker.worker_id, ended, pause_s)
                await asyncio.sleep(pause_s)

    # -- the links of handles ----------------------------------------------------------------------------------------

    @property
    def link_addresses(self) -> list[list[str]]:
        """Where handles dial: the addresses of each worker."""
        return [worker.addresses for worker in self.workers.values() if worker.addresses]

    def listen_on(self, host: str) -> None:
        """Let handles on other machines dial: every worker listens on ``host``, and says on which port."""
        if host not in self._hosts:
            self._hosts.add(host)
            for worker in self.workers.values():
                if worker.link is not None:
                    worker.link.send(ListenOn(host))

    def _set_addresses(self, worker: Ingress, addresses: list[str]) -> None:
        if addresses != worker.addresses:
            worker.addresses = addresses
            self.addresses_changed()

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def publish(self, content: Content) -> int:
        """Push what changed to every worker; return the version to wait for. Nothing changed: nothing is sent."""
        if content != self._content or self.version == 0:
            self._content = content
            # Above every version of an earlier controller, whose acknowledgements may still be on their way.
            self.version = max(self.version + 1, int(time.time() * 1000))
            for worker in self.workers.values():
                self._push(worker)
        return self.version

    async def wait_applied(self, version: int, timeout_s: float = SNAPSHOT_TIMEOUT_S) -> None:
        """Until every live worker has applied ``version``.

        Raises `DeadlineError` after ``timeout_s``, and `InternalError` where a worker could not apply it.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        while behind := [w.worker_id for w in self.workers.values() if w.link is not None and w.applied < version]:
            left_s = ends - loop.time()
            if left_s <= 0:
                raise DeadlineError(
                    f"ingress workers {', '.join(behind)} have not applied the change within {timeout_s:g} s; "
                    "it stands, and they will"
                )
            self._moved.clear()
            try:
                await asyncio.wait_for(self._moved.wait(), left_s)
            except asyncio.TimeoutError:
                continue
        errors = [worker.errors[version] for worker in self.workers.values() if version in worker.errors]
        if errors:
            raise InternalError(f"an ingress worker could not apply the change: {'; '.join(errors)}")

    async def wait_linked(self, timeout_s: float) -> None:
        """Until every worker is there and serves. Raises `DeadlineError`."""

        async def linked() -> None:
            while any(worker.link is None or not worker.applied for worker in self.workers.values()):
                self._moved.clear()
                await self._moved.wait()

        try:
            await asyncio.wait_for(linked(), timeout_s)
        except asyncio.TimeoutError:
            raise DeadlineError(f"the ingress workers did not come up within {timeout_s:g} s") from None

    def _push(self, worker: Ingress) -> None:
        if worker.link is None:
            return
        snapshot: Snapshot = difference(worker.content, worker.sent, self._content, self.version)
        worker.content, worker.sent = self._content, self.version
        worker.link.send(snapshot)

    # -- control links ---------------------------------------------------------------------------------------------

    def link_opened(self, link: Link, hello: WorkerHello) -> None:
        worker = self.workers[hello.worker_id]
        worker.link, worker.pid = link, hello.pid
        worker.content, worker.applied = None, 0
        self._set_addresses(worker, hello.addresses)
        # Those that an earlier controller asked for: another worker may have to know.
        self._hosts.update(host_of(address) for address in hello.addresses if address.startswith("tcp:"))
        for host in self._hosts:
            link.send(ListenOn(host))
        if self.version:
            self._push(worker)

    def frame_received(self, worker_id: str, frame: Applied | LinkAddresses) -> None:
        worker = self.workers[worker_id]
        if isinstance(frame, LinkAddresses):
            self._set_addresses(worker, frame.addresses)
            return
        worker.applied = frame.version
        if frame.error:
            worker.errors[frame.version] = frame.error
            if len(worker.errors) > _ERRORS_KEPT:
                del worker.errors[min(worker.errors)]
        self._moved.set()

    def link_lost(self, worker: Ingress) -> None:
        worker.link = None
        worker.content, worker.applied = None, 0
        self._moved.set()


def host_of(address: str) -> str:
    """The host in ``tcp:HOST:PORT``."""
    return address.removeprefix("tcp:").rpartition(":")[0]

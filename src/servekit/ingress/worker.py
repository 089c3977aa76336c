"""An ingress worker's life: follow the controller's snapshots, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from servekit.config import DRAIN_TIMEOUT_S, HttpLimits
from servekit.forks import forks
from servekit.http1.server import HttpServer
from servekit.ingress.apply import Applier, build_policy
from servekit.ingress.callers import Callers
from servekit.ingress.links import ReplicaLinks
from servekit.ingress.observers import Observers
from servekit.ingress.router import Router
from servekit.ingress.spool import SpoolSpace
from servekit.ingress.waiting_requests import WaitingRequests
from servekit.interfaces import RoutingPolicy
from servekit.processes import extend_sys_path
from servekit.wire.bootstrap import WorkerBootstrap
from servekit.wire.control import ControlClient
from servekit.wire.control_frames import (
    Applied,
    LinkAddresses,
    ListenOn,
    PluginRef,
    Report,
    Snapshot,
    Stop,
    WorkerHello,
)
from servekit.wire.data_links import DataLinks
from servekit.wire.network import Listener, Network
from servekit.wire.polling import BusyPoll

_log = logging.getLogger("servekit.ingress")

SNAPSHOTS_WAITING = 1000
HOSTS_WAITING = 100
WANTED_EVERY_S = 0.05
"""Between two reports, at the least, when requests wait for a replica to start."""


class IngressWorker:
    """One ingress worker, on the running event loop. ``listen`` is replaced by the in-process instance."""

    def __init__(
        self,
        bootstrap: WorkerBootstrap,
        network: Network,
        *,
        build_policy: Callable[[PluginRef], RoutingPolicy] = build_policy,
        own_process: bool = True,
        clock: Any = None,
    ) -> None:
        """``clock``: what deadlines run on in the place of the loop; it has the loop's `time` and `call_later`."""
        assert bootstrap.http is not None
        self._bootstrap = bootstrap
        self._network = network
        self._build_policy = build_policy
        self._own_process = own_process
        self._clock = clock
        self._limits: HttpLimits = bootstrap.http.limits
        self._snapshots: asyncio.Queue[Snapshot] = asyncio.Queue(SNAPSHOTS_WAITING)
        self._hosts: asyncio.Queue[str] = asyncio.Queue(HOSTS_WAITING)
        self._callers_listen: dict[str, Listener] = {}
        """Where handles dial, by host; the machine's own socket under an empty one."""
        self._ending = asyncio.Event()
        self._begun = asyncio.Event()
        """The first snapshot is applied, or there will be none. Before it the worker knows no endpoint, and would say
        so to whoever asks."""
        self._waiting_requests = WaitingRequests()
        self._report_planned: asyncio.TimerHandle | None = None
        self._wanted_at = 0.0
        self._stop_timeout_s = DRAIN_TIMEOUT_S

    async def run(self) -> None:
        """Until stopped or orphaned."""
        loop = asyncio.get_running_loop()
        assert self._bootstrap.http is not None
        if self._own_process:
            extend_sys_path(self._bootstrap.http.sys_path)
            loop.add_signal_handler(signal.SIGTERM, self._end)
            loop.add_signal_handler(signal.SIGINT, lambda: None)
        observers = Observers(self._bootstrap.http.observers)
        clock = self._clock or loop
        spools = SpoolSpace(self._limits, self._bootstrap.directory, clock)
        self.router = Router(clock, spools, observers.add if observers else None)
        self.server = HttpServer(self.router, self._limits, loop)
        polling = BusyPoll.on(loop, self._bootstrap.busy_poll_s)
        links = DataLinks(self._bootstrap.token, self._bootstrap.worker_id, polling)
        self._links = ReplicaLinks(self._network, links)
        self.callers = Callers(self.router, links)
        self.router.dispatcher.replica_wanted = self._replica_wanted
        applier = Applier(self.router, self._links, self._build_policy, self.callers.ended)
        self._control = ControlClient(
            self._bootstrap, self._network, hello=self._hello, received=self._received, report=self._report
        )
        self.server.start()
        tasks = [
            asyncio.ensure_future(self._follow_controller()),
            asyncio.ensure_future(self._apply_snapshots(applier)),
            asyncio.ensure_future(self._listen_on_hosts()),
            asyncio.ensure_future(observers.run()),
        ]
        try:
            await self._begun.wait()
            listening = await self._listen(loop)
            await self._ending.wait()
            await self._drain(listening)
        finally:
            self._control.close()
            if self._report_planned is not None:
                self._report_planned.cancel()
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._links.close()
            self._stop_listening_for_handles()
            self.callers.close()
            observers.flush()
            self.server.close()
            self.router.close()

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> asyncio.Server | None:
        assert self._bootstrap.http is not None
        if not self._own_process or self._ending.is_set():
            return None
        sock = socket.socket(fileno=self._bootstrap.http.listen_fd)
        sock.setblocking(False)
        forks.hold(sock)
        return await loop.create_server(self.server.protocol_factory, sock=sock)

    def _end(self) -> None:
        self._ending.set()
        self._begun.set()

    async def _drain(self, listening: asyncio.Server | None) -> None:
        """Not ready, then no new connections, then the end of what is in flight."""
        self.router.builtin.ready = False
        if listening is not None:
            listening.close()
        self.callers.leave()
        ends = asyncio.get_running_loop().time() + self._stop_timeout_s
        await self.server.drain(self._stop_timeout_s)
        await self.callers.drain(ends - asyncio.get_running_loop().time())
        self._stop_listening_for_handles()  # Not before: a handler of what was in flight may dial yet.
        await self.callers.finish()
        # What was counted since the last report.
        self._control.send(self._report())

    # -- the links of handles -------------------------------------------------------------------------------------

    def _link_address(self) -> str:
        if not self._own_process:
            return f"memory:{self._bootstrap.worker_id}"
        return f"unix:{self._bootstrap.directory}/{self._bootstrap.worker_id}.sock"

    async def _listen_for_handles(self, host: str, address: str) -> None:
        self._callers_listen[host] = await self._network.listen(address, self.callers.new_link)

    async def _listen_on_hosts(self) -> None:
        """Replicas on other machines dial by TCP."""
        await self._begun.wait()
        while True:
            host = await self._hosts.get()
            try:
                if host not in self._callers_listen:
                    await self._listen_for_handles(host, f"tcp:{host}:0")
            except OSError:
                _log.exception("handles on other machines cannot dial: %s cannot be listened on", host)
            self._tell_link_addresses()

    def _tell_link_addresses(self) -> None:
        self._control.send(LinkAddresses(self._link_addresses()))

    def _link_addresses(self) -> list[str]:
        return [listener.address for listener in self._callers_listen.values()]

    def _stop_listening_for_handles(self) -> None:
        while self._callers_listen:
            _, listener = self._callers_listen.popitem()
            with contextlib.suppress(FileNotFoundError):  # The instance's directory may be gone already.
                listener.close()

    # -- the control link -----------------------------------------------------------------------------------------

    async def _follow_controller(self) -> None:
        reason = await self._control.run()
        if not self._ending.is_set():
            _log.warning("ending: %s", reason)
            self._end()

    def _hello(self) -> WorkerHello:
        return WorkerHello(
            self._bootstrap.worker_id,
            os.getpid(),
            socket.gethostname(),
            ready=self.router.builtin.ready,
            addresses=self._link_addresses(),
        )

    def _received(self, frame: Any) -> None:
        if isinstance(frame, Snapshot):
            self._snapshots.put_nowait(frame)
        elif isinstance(frame, ListenOn):
            self._hosts.put_nowait(frame.host)
        elif isinstance(frame, Stop):
            self._stop_timeout_s = frame.timeout_s
            self._end()

    async def _apply_snapshots(self, applier: Applier) -> None:
        while True:
            snapshot = await self._snapshots.get()
            try:
                error = await applier.apply(snapshot)
                await self._begin()
            except Exception as problem:
                _log.exception("snapshot %d could not be applied", snapshot.version)
                error = f"{type(problem).__name__}: {problem}"
            self.router.builtin.ready = not self._ending.is_set()
            self._control.send(Applied(snapshot.version, error))

    async def _begin(self) -> None:
        """After the first snapshot: let requests and calls come."""
        if not self._begun.is_set():
            await self._listen_for_handles("", self._link_address())
            self._tell_link_addresses()
            self._begun.set()

    def _report(self) -> Report:
        outstanding = {
            replica.id: replica.outstanding
            for backend in self.router.backends.values()
            for replica in backend.replicas.values()
        }
        failovers = self.router.counters.take_failovers()
        return Report(
            sum(outstanding.values()),
            0.0,
            self.router.counters.take(),
            outstanding,
            failovers,
            self._waiting_requests.take(self.router.endpoints.values(), self.router.backends.values(), failovers),
        )

    def _replica_wanted(self) -> None:
        """A request waits for a replica to start: the controller is not to hear of it in a second."""
        if self._report_planned is None:
            loop = asyncio.get_running_loop()
            self._report_planned = loop.call_later(max(0.0, self._wanted_at + WANTED_EVERY_S - loop.time()), self._want)

    def _want(self) -> None:
        self._report_planned = None
        self._wanted_at = asyncio.get_running_loop().time()
        if self._control.link is not None:
            self._control.send(self._report())

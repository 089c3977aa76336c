"""An ingress worker's life: follow the controller's snapshots, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable
from typing import Any

from servekit.config import DRAIN_TIMEOUT_S
from servekit.http1.acceptor import Acceptor
from servekit.http1.last_connections import SETTLE_S, refuse_new
from servekit.http1.request import HttpApp
from servekit.http1.server import HttpServer
from servekit.ingress.access_log import AccessLog
from servekit.ingress.apply import Applier, build_policy
from servekit.ingress.callers import Callers
from servekit.ingress.exchange import Exchange
from servekit.ingress.links import ReplicaLinks
from servekit.ingress.observers import Observers, build_observer
from servekit.ingress.recall import recalled
from servekit.ingress.router import Router
from servekit.ingress.shared import Shared
from servekit.ingress.spool import SpoolSpace
from servekit.ingress.waiting_requests import WaitingRequests
from servekit.interfaces import RoutingPolicy
from servekit.processes import extend_sys_path
from servekit.tallies import COUNT, Tallies
from servekit.vitals import LOOK_EVERY_S, LoopLag, Vitals, cpu_us, own_vitals
from servekit.wire.bootstrap import WorkerBootstrap
from servekit.wire.control import ControlClient
from servekit.wire.control_frames import (
    Applied,
    LinkAddresses,
    ListenOn,
    PluginRef,
    Recall,
    Report,
    Snapshot,
    Stop,
    Suspected,
    WorkerHello,
)
from servekit.wire.data_links import DataLinks
from servekit.wire.frames import Frame
from servekit.wire.network import Listener, listen
from servekit.wire.polling import BusyPoll

_log = logging.getLogger("servekit.ingress")

SNAPSHOTS_WAITING = 1000
HOSTS_WAITING = 100
FEW_CONNECTIONS = 1000
"""Where a process has no descriptors for so many, the log says so."""
WANTED_EVERY_S = 0.05
"""Between two reports, at the least, when requests wait for a replica to start."""


class IngressWorker:
    """One ingress worker, on the running event loop."""

    def __init__(
        self,
        bootstrap: WorkerBootstrap,
        *,
        build_policy: Callable[[PluginRef], RoutingPolicy] = build_policy,
        own_process: bool = True,
        clock: Any = None,
    ) -> None:
        """
        Args:
            own_process: False in an in-process instance, whose process is the user's.
            clock: has the loop's `time` and `call_later`, for deadlines; None: the loop.
        """
        assert bootstrap.http is not None
        self._bootstrap = bootstrap
        self._http = bootstrap.http
        self._build_policy = build_policy
        self._own_process = own_process
        self._clock = clock
        self._snapshots: asyncio.Queue[Snapshot] = asyncio.Queue(SNAPSHOTS_WAITING)
        self._hosts: asyncio.Queue[str] = asyncio.Queue(HOSTS_WAITING)
        self._callers_listen: dict[str, Listener] = {}
        """The listeners that handles dial, by host; the machine's own socket stands under an empty one."""
        self._ending = asyncio.Event()
        self._begun = asyncio.Event()
        """The first snapshot is applied, or there will be none. Before it the worker knows no endpoint, and would
        refuse every request."""
        self._waiting_requests = WaitingRequests()
        self._report_planned: asyncio.TimerHandle | None = None
        self._wanted_at = 0.0
        self._vitals, self._looked_at = Vitals(), 0.0
        self._stop = Stop(DRAIN_TIMEOUT_S)

    async def run(self) -> None:
        """Serve until stopped or orphaned."""
        loop = asyncio.get_running_loop()
        if self._own_process:
            extend_sys_path(self._http.sys_path)
            # Each connection is a descriptor; the soft limit is for programs that use select(2).
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            loop.add_signal_handler(signal.SIGTERM, self._end)
            loop.add_signal_handler(signal.SIGINT, lambda: None)
        told = self._bootstrap
        access_log = AccessLog(told.names, told.logs.format) if self._http.access_log else None
        observers = Observers(self._http.hooks, access_log, [build_observer(each) for each in self._http.observers])
        clock = self._clock or loop
        spools = SpoolSpace(self._http.limits, self._bootstrap.directory, clock)
        observe = observers.add if observers else None
        tallies = self._tallies = Tallies(told.directory, told.worker_id)
        self._lag = LoopLag()
        shared = Shared(clock, spools, self._replica_wanted, observe, told.token, tallies)
        shared.trace_share = observers.trace_share
        shared.tell_controller = self._tell
        self.router = Router(shared)
        app: HttpApp = self.router
        if self._http.trusted_proxies:
            from servekit.ingress.forwarded import BehindProxies

            app = BehindProxies(self.router, self._http.trusted_proxies)
        self.server = HttpServer(app, self._http.limits, loop)
        if self.server.most < min(self._http.limits.connections, FEW_CONNECTIONS):
            _log.warning(
                "%d connections at a time are served, not %d, for a process may have %d descriptors here (ulimit -n)",
                self.server.most,
                self._http.limits.connections,
                resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            )
        polling = BusyPoll.on(loop, self._bootstrap.busy_poll_s)
        links = DataLinks(self._bootstrap.token, self._bootstrap.worker_id, polling)
        self._links = ReplicaLinks(links)
        self.callers = Callers(self.router, links)
        applier = Applier(self.router, self._links, self._build_policy, self.callers.ended, told.worker_id)
        self._control = ControlClient(self._bootstrap, hello=self._hello, received=self._received, report=self._report)
        self.server.start()
        tasks = [
            asyncio.ensure_future(self._follow_controller()),
            asyncio.ensure_future(self._apply_snapshots(applier)),
            asyncio.ensure_future(self._listen_on_hosts()),
            asyncio.ensure_future(observers.run()),
            asyncio.ensure_future(shared.slowness.run(self.router.endpoints)),
        ]
        listening: Acceptor | None = None
        try:
            await self._begun.wait()
            listening = self._listen()
            await self._ending.wait()
            await self._drain(listening)
        finally:
            if listening is not None:
                listening.close()
            self._control.close()
            if self._report_planned is not None:
                self._report_planned.cancel()
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._links.close()
            self._stop_listening_for_handles()
            self.callers.calls.abort()
            self.server.close()
            self.router.close()
            self._lag.close()
            shared.settle_kinds()
            tallies.close()
            await observers.close()

    def _listen(self) -> Acceptor | None:
        if self._http.listen_fd is None:
            return None
        sock = socket.socket(fileno=self._http.listen_fd)
        if self._ending.is_set():
            sock.close()
            return None
        sock.setblocking(False)
        sock.listen(socket.SOMAXCONN)
        return Acceptor(sock, self.server)

    async def _stop_listening(self, listening: Acceptor) -> None:
        """Take no more connections, and reset none that the kernel has accepted. Where this worker alone ends, the
        others take those."""
        # Where there is no client, none is about to come.
        if self._stop.all_end and self.server.connections and refuse_new(listening.listening):
            await asyncio.sleep(SETTLE_S)
        await listening.stop(take_rest=self._stop.all_end)

    def _end(self) -> None:
        self._ending.set()
        self._begun.set()

    async def _drain(self, listening: Acceptor | None) -> None:
        """Be not ready; a little later take no new connections, and return once requests in flight have ended."""
        self.router.builtin.ready = False
        await asyncio.sleep(self._stop.delay_s)
        if listening is not None:
            await self._stop_listening(listening)
        self.callers.calls.leave()
        ends = asyncio.get_running_loop().time() + self._stop.timeout_s
        await self.server.drain(self._stop.timeout_s)
        await self.callers.drain(ends - asyncio.get_running_loop().time())
        self._stop_listening_for_handles()  # Not before: a handler of what was in flight may dial yet.
        await self.callers.calls.finish()
        self._control.send(self._report())

    # -- the links of handles -------------------------------------------------------------------------------------

    def _link_address(self) -> str:
        return f"unix:{self._bootstrap.directory}/{self._bootstrap.worker_id}.sock"

    async def _listen_for_handles(self, host: str, address: str) -> None:
        """Have handles dial there; in any case tell the controller where they may dial now."""
        try:
            if host not in self._callers_listen:
                self._callers_listen[host] = await listen(address, self.callers.calls.new_link)
        finally:
            self._control.send(LinkAddresses(self._link_addresses()))

    async def _listen_on_hosts(self) -> None:
        """Replicas on other machines dial by TCP."""
        await self._begun.wait()
        while True:
            host = await self._hosts.get()
            try:
                await self._listen_for_handles(host, f"tcp:{host}:0")
            except OSError:
                _log.exception("handles on other machines cannot dial: %s cannot be listened on", host)

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
            _log.warning("ingress %s ends: %s", self._bootstrap.worker_id, reason)
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
        elif isinstance(frame, Suspected):
            self.router.shared.suspects.heard(frame.deaths, self.router.shared.now())
        elif isinstance(frame, Recall):
            self._control.send(recalled(self.router.shared, self._under_way(), frame))
        elif isinstance(frame, Stop):
            self._stop = frame
            self._end()

    def _under_way(self) -> list[Exchange]:
        """The requests that have not ended, over HTTP and of handles."""
        requests = [connection.current for connection in self.server.connections]
        calls = [call.exchange for call in self.callers.calls]
        return [*(each for each in requests if isinstance(each, Exchange)), *calls]

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
            self._begun.set()

    def _report(self) -> Report:
        self._look()
        router, shared = self.router, self.router.shared
        endpoints, backends = router.endpoints.values(), router.backends.values()
        replicas = [replica for backend in backends for replica in backend.replicas.values()]
        return Report(
            replica_outstanding={replica.id: replica.outstanding for replica in replicas},
            waiting=self._waiting_requests.take(endpoints, backends, shared.take_failovers(), shared.now()),
            replica_overdue_s={replica.id: late_s for replica in replicas if (late_s := replica.overdue_s) > 0},
            suspects=shared.suspects.take_news(),
            served=shared.take_served(),
            refused=shared.take_refused(),
            ejected=shared.take_ejected(),
            queued={backend.name: len(backend.waiting) for backend in backends if backend.waiting},
            parked={endpoint.name: len(endpoint.waiting) for endpoint in endpoints if endpoint.waiting},
            connections=len(self.server.connections),
            snapshot=shared.snapshot,
            vitals=self._vitals,
        )

    def _look(self) -> None:
        """At this process, and at room for counts: not as often as there may be reports."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self.router.shared.set_clocks()
            self.router.shared.settle_kinds()
            self._tallies.settle()
            self._vitals = own_vitals(self._lag)
            if self._own_process:
                self._tallies.add(("cpu", self._bootstrap.worker_id))[COUNT] = cpu_us()

    def _tell(self, frame: Frame) -> bool:
        """Tell the controller, where it is there and takes what it was sent before."""
        link = self._control.link
        if link is None or not link.writable:
            return False
        link.send(frame)
        return True

    def _replica_wanted(self) -> None:
        """A request waits for a replica to start, or a replica has died: the controller is to hear of that at once, not
        in a second."""
        if self._report_planned is None:
            loop = asyncio.get_running_loop()
            self._report_planned = loop.call_later(max(0.0, self._wanted_at + WANTED_EVERY_S - loop.time()), self._want)

    def _want(self) -> None:
        self._report_planned = None
        self._wanted_at = asyncio.get_running_loop().time()
        if self._control.link is not None:
            self._control.send(self._report())

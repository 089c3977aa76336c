"""A whole control plane: store, runtimes, fleets, controller and operations; started and stopped in order."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any

from servekit.config import ORPHAN_TIMEOUT_S
from servekit.control.controller import Controller
from servekit.control.counts import Counts
from servekit.control.directories import stopped_by
from servekit.control.event_ring import Event
from servekit.control.events import EventLog
from servekit.control.ingress_process import check_version
from servekit.control.ingresses import IngressFleet, IngressProcess
from servekit.control.links import ControlServer
from servekit.control.log_files import LOG
from servekit.control.metrics import Metrics
from servekit.control.operations import Operations, Resolver
from servekit.control.replica import ReplicaContext, ReplicaEvents
from servekit.control.replicas import ReplicaFleet
from servekit.control.rollout_keeper import RolloutClock, RolloutKeeper
from servekit.control.runtimes import Runtimes
from servekit.control.setup import InstanceSetup
from servekit.control.store import Store, StoreThread, counted
from servekit.control.totals import Totals
from servekit.control.user_metrics import UserMetrics
from servekit.errors import StoreError
from servekit.interfaces import ReplicaRuntime, RuntimeContext
from servekit.plugins import Registry
from servekit.tallies import Tallies
from servekit.wire.bootstrap import IngressBootstrap, WorkerBootstrap, pack
from servekit.wire.control_frames import PluginRef

_log = logging.getLogger("servekit.control")

STANDING_ORPHAN_TIMEOUT_S = 300.0
"""How long a worker of a standing instance goes on without a controller: longer than any restart of a controller."""
INGRESS_START_TIMEOUT_S = 30.0


class Service:
    """One instance's control plane, on the running event loop."""

    def __init__(
        self,
        setup: InstanceSetup,
        registry: Registry,
        *,
        launch_ingress: Callable[[WorkerBootstrap], Awaitable[IngressProcess]],
        control_address: str,
        resolver: Resolver | None = None,
        fixed_runtime: ReplicaRuntime | None = None,
        clock: RolloutClock | None = None,
    ) -> None:
        """``clock``: what roll-outs run on; default, the time of the day."""
        self._clock = clock
        self._setup = setup
        self._registry = registry
        self._launch = launch_ingress
        self._control_address = control_address
        self._resolver = resolver or Resolver(registry)
        context = RuntimeContext(setup.instance_id, setup.standing, setup.directory)
        self.runtimes = Runtimes(registry, context, fixed_runtime)
        store = Store(
            setup.state_directory or setup.directory, setup.directory, durable=setup.standing, resumed=setup.resumed
        )
        self._store = StoreThread(store)
        self.user_metrics = UserMetrics(self._store if setup.standing else None)
        self._control = ControlServer(setup.token)
        self._controller: Controller | None = None
        self._tallies = Tallies(None)
        self._observers: list[PluginRef] = []
        self.event_log = EventLog()
        self.operations: Operations
        self.rollouts: RolloutKeeper
        self.metrics: Metrics
        self.kept = ""
        """What an earlier instance of the name had left, for people."""

    async def start(self) -> None:
        """Return when the ingress workers serve. Raises the errors of the runtime, and of a worker that does not
        start."""
        setup = self._setup
        if setup.resumed:
            check_version(setup.directory, setup.options.name)
        else:
            await self._store.call(lambda store: store.forget_workers())
        desired, workers = await self._store.call(lambda store: store.load())
        self.event_log = await self._open_event_log()
        if desired.endpoints or desired.backends:
            self.kept = counted(len(desired.endpoints), len(desired.backends))
        counts = Counts(Totals(setup.directory, resumed=setup.resumed))
        self._tallies = Tallies(setup.directory, "controller")
        controller = self._controller = Controller(
            desired,
            store=self._store,
            registry=self._registry,
            event_log=self.event_log,
            new_ingresses=lambda events: IngressFleet(self._launch_ingress, self._control, events, counts),
            new_replicas=self._new_replicas,
            tallies=self._tallies,
        )
        self.rollouts = RolloutKeeper(controller, self._resolver.judge, self._clock)
        runtime = (setup.options.runtime, setup.options.runtime_options)
        log_path = os.path.join(setup.log_directory, LOG) if setup.log_directory else ""
        self.operations = Operations(
            controller, self.rollouts, self._resolver, self.runtimes, self._store, runtime, self._about, log_path
        )
        self.metrics = Metrics(controller, self._tallies, self._about, self.user_metrics)
        self.runtimes.check(*runtime)
        self._observers = [self._resolver.observer(*each) for each in setup.options.observers.items()]
        await self.user_metrics.load()
        # All before a worker can dial: one without a record is told to end.
        for worker in workers:
            if worker.backend in desired.backends:
                controller.replicas.attach(desired.backends[worker.backend], worker)
            else:
                try:
                    await self._store.call(partial(Store.forget_worker, worker_id=worker.worker_id))
                except StoreError as error:
                    _log.warning("replica %s %s is in the store yet: %s", worker.backend, worker.worker_id, error)
        self.user_metrics.settle()
        self.user_metrics.keep_only(desired.backends)
        for host, port in (await self._store.call(Store.addresses)).items():
            try:
                await self._control.listen_on(host, port)
            except OSError as error:
                _log.error("workers on other machines cannot dial this one at %s:%s: %s", host, port, error)
        await self._control.listen(self._control_address)
        if not setup.options.debug:  # What a debugger has stopped is not to be replaced.
            self._control.watch()
        controller.ingresses.start([f"ingress{n}" for n in range(1, setup.options.ingress_workers + 1)])
        await self.runtimes.get(*runtime)
        controller.replicas.resume()
        await controller.begin()
        await controller.ingresses.wait_linked(INGRESS_START_TIMEOUT_S)
        await self.rollouts.start(counts_go_on=setup.resumed)

    async def _open_event_log(self) -> EventLog:
        """That of the instance, with its first event. A standing one's events outlive the controller."""
        setup, name = self._setup, self._setup.options.name
        event_log = EventLog()
        if setup.standing:
            try:
                event_log = EventLog(await self._store.call(Store.events), self._save_events)
            except StoreError as error:  # What is served must not wait for that.
                _log.warning("%s", error)
                event_log = EventLog(None, self._save_events)
        if setup.resumed:
            text = f"the controller of instance {name} was started again, for the one before ended: {setup.ended}"
            event_log.add("controller_restarted", text)
        else:
            event_log.add("instance_started", f"instance {name} is started")
        return event_log

    async def _save_events(self, events: Collection[Event], gone: Collection[int] | None) -> None:
        await self._store.call(lambda store: store.save_events(events, gone))

    async def stop(self, timeout_s: float, delay_s: float = 0.0) -> None:
        """End every worker, then the runtimes, then the store. For ``delay_s`` all is served yet; what is in flight has
        ``timeout_s`` after that."""
        if self._controller is not None:
            text, by = f"instance {self._setup.options.name} is told to end", stopped_by(self._setup.directory)
            self.event_log.add("instance_ended", text, who=by)
            self.metrics.close()
            await self.rollouts.stop()
            await self._controller.stop(timeout_s, delay_s)
        await self.runtimes.close()
        self._control.close()
        await self.user_metrics.close()
        self._tallies.close()
        await self.event_log.close()
        await self._store.close()

    def cut_off(self) -> None:
        """Have no request in flight waited for any longer."""
        if self._controller is not None:
            self._controller.ingresses.kill()

    def _new_replicas(self, events: ReplicaEvents, ingresses: IngressFleet) -> ReplicaFleet:
        setup = self._setup
        context = ReplicaContext(
            self.runtimes,
            self._store,
            ingresses,
            events,
            self._replica_bootstrap,
            setup.directory,
            setup.options.debug,
            setup.log_directory,
            metrics=self.user_metrics,
        )
        return ReplicaFleet(context, self._control)

    # -- what workers are started with ---------------------------------------------------------------------------------

    def _bootstrap(self, kind: str, worker_id: str, control: list[str]) -> WorkerBootstrap:
        setup = self._setup
        orphan_timeout_s = STANDING_ORPHAN_TIMEOUT_S if setup.standing else ORPHAN_TIMEOUT_S
        title = f"{kind} {worker_id.removeprefix(kind)} of {setup.options.name}"
        return WorkerBootstrap(
            kind,
            worker_id,
            setup.token,
            control,
            setup.directory,
            orphan_timeout_s,
            setup.options.busy_poll_s,
            title=title,
            keeper=setup.keeper,
            logs=setup.logs,
        )

    async def _launch_ingress(self, worker_id: str) -> IngressProcess:
        setup = self._setup
        bootstrap = self._bootstrap("ingress", worker_id, [self._control_address])
        hooks = [path for _, path, _ in self._registry.observers("servekit_requests_finished")]
        options = setup.options
        bootstrap.http = IngressBootstrap(
            setup.http_fd,
            options.limits,
            setup.sys_path,
            hooks,
            options.trusted_proxies,
            options.access_log,
            self._observers,
        )
        return await self._launch(bootstrap)

    async def _replica_bootstrap(
        self, worker_id: str, backend: str, host: str | None, runtime: ReplicaRuntime
    ) -> bytes:
        control = [self._control_address] if host is None or runtime.local_links else []
        if host is not None:
            address = await self._control.listen_on(host)
            control.append(address)
            await self._keep_address(host, int(address.rpartition(":")[2]))
        bootstrap = self._bootstrap("replica", worker_id, control)
        bootstrap.backend = backend
        return pack(bootstrap)

    async def _keep_address(self, host: str, port: int) -> None:
        """A later controller has to be at the same address."""

        def keep(store: Store) -> None:
            if store.addresses().get(host) != port:
                store.save_address(host, port)

        try:
            await self._store.call(keep)
        except StoreError as error:
            _log.warning("workers on other machines would not find a later controller: %s", error)

    def _about(self) -> dict[str, Any]:
        setup = self._setup
        return {
            "name": setup.options.name,
            "instance_id": setup.instance_id,
            "url": setup.http_url,
            "admin_url": setup.admin_url,
            "runtime": setup.options.runtime,
            "standing": setup.standing,
            "plugins": self._registry.loaded,
            "plugin_problems": self._registry.problems,
        }

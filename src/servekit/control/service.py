"""A whole control plane, put together: store, fleets, controller, admin API; started and stopped in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from servekit.config import ORPHAN_TIMEOUT_S
from servekit.control.controller import Controller
from servekit.control.events import WorkerEvents
from servekit.control.ingresses import IngressFleet, IngressProcess
from servekit.control.links import ControlServer
from servekit.control.operations import Operations, Resolver
from servekit.control.replica import ReplicaContext
from servekit.control.replicas import ReplicaFleet
from servekit.control.runtimes import Runtimes
from servekit.control.setup import InstanceSetup
from servekit.control.state import BackendRecord
from servekit.control.store import Store, StoreThread, WorkerRecord
from servekit.interfaces import ReplicaRuntime, RuntimeContext
from servekit.plugins import Registry
from servekit.wire.bootstrap import IngressBootstrap, WorkerBootstrap, pack
from servekit.wire.network import Network

STANDING_ORPHAN_TIMEOUT_S = 300.0
"""How long a worker of a standing instance goes on without a controller: longer than any restart of one."""
INGRESS_START_TIMEOUT_S = 30.0


class Service:
    """One instance's control plane, on the running event loop."""

    def __init__(
        self,
        setup: InstanceSetup,
        network: Network,
        registry: Registry,
        *,
        launch_ingress: Callable[[WorkerBootstrap], Awaitable[IngressProcess]],
        control_address: str,
        resolver: Resolver | None = None,
        fixed_runtime: ReplicaRuntime | None = None,
    ) -> None:
        self._setup = setup
        self._registry = registry
        self._launch = launch_ingress
        self._control_address = control_address
        self._resolver = resolver or Resolver(registry)
        context = RuntimeContext(setup.instance_id, setup.standing, setup.directory)
        self.runtimes = Runtimes(registry, context, fixed_runtime)
        self._store = StoreThread(Store(setup.directory))
        self._control = ControlServer(setup.token, network)
        self._controller: Controller | None = None
        self.operations: Operations

    async def start(self) -> None:
        """Until the ingress workers serve. Raises what the runtime, or the start of a worker, raised."""
        setup = self._setup
        desired, workers = await self._store.call(lambda store: store.load())
        controller = self._controller = Controller(
            desired,
            store=self._store,
            registry=self._registry,
            new_ingresses=lambda events: IngressFleet(self._launch_ingress, self._control, events),
            new_replicas=self._new_replicas,
        )
        runtime = (setup.options.runtime, setup.options.runtime_options)
        self.operations = Operations(controller, self._resolver, self.runtimes, self._store, runtime, self._about)
        self.runtimes.check(*runtime)
        # Before a worker can dial: one without a record is told to end.
        await self._adopt(controller.replicas, desired.backends, workers)
        await self._control.listen(self._control_address)
        controller.ingresses.start([f"ingress{n}" for n in range(1, setup.options.ingress_workers + 1)])
        await self.runtimes.get(*runtime)
        controller.replicas.resume()
        await controller.begin()
        await controller.ingresses.wait_linked(INGRESS_START_TIMEOUT_S)

    async def stop(self, timeout_s: float) -> None:
        """End every worker, then the runtimes, then the store; bounded by ``timeout_s`` for what is in flight."""
        if self._controller is not None:
            await self._controller.stop(timeout_s)
        await self.runtimes.close()
        self._control.close()
        await self._store.close()

    async def _adopt(
        self, replicas: ReplicaFleet, backends: Mapping[str, BackendRecord], workers: list[WorkerRecord]
    ) -> None:
        for worker in workers:
            record = backends.get(worker.backend)
            if record is None:
                await self._store.call(lambda store, worker=worker: store.forget_worker(worker.worker_id))  # type: ignore[misc]
            else:
                replicas.attach(msgspec.structs.replace(record, revision=worker.revision), worker)

    def _new_replicas(self, events: WorkerEvents, ingresses: IngressFleet) -> ReplicaFleet:
        setup = self._setup
        context = ReplicaContext(
            self.runtimes, self._store, ingresses, events, self._replica_bootstrap, setup.directory, setup.options.debug
        )
        return ReplicaFleet(context, self._control)

    # -- what workers are started with ---------------------------------------------------------------------------------

    def _bootstrap(self, kind: str, worker_id: str, control: list[str]) -> WorkerBootstrap:
        setup = self._setup
        orphan_timeout_s = STANDING_ORPHAN_TIMEOUT_S if setup.standing else ORPHAN_TIMEOUT_S
        identity = (kind, worker_id, setup.instance_id, setup.token)
        return WorkerBootstrap(*identity, control, setup.directory, orphan_timeout_s, setup.options.busy_poll_s)

    async def _launch_ingress(self, worker_id: str) -> IngressProcess:
        setup = self._setup
        bootstrap = self._bootstrap("ingress", worker_id, [self._control_address])
        observers = [path for _, path in self._registry.observers("servekit_requests_finished")]
        bootstrap.http = IngressBootstrap(setup.http_fd, setup.options.limits, setup.sys_path, observers)
        return await self._launch(bootstrap)

    async def _replica_bootstrap(self, worker_id: str, host: str | None, runtime: ReplicaRuntime) -> bytes:
        control = [self._control_address] if host is None or runtime.local_links else []
        if host is not None:
            control.append(await self._control.listen_on(host))
        return pack(self._bootstrap("replica", worker_id, control))

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
            "plugin_problems": [str(problem) for problem in self._registry.problems],
        }

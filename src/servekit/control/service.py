"""A whole control plane, put together: store, fleets, controller, admin API; started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from servekit.config import ORPHAN_TIMEOUT_S
from servekit.control.controller import Controller
from servekit.control.counts import Counts
from servekit.control.ingresses import IngressFleet, IngressProcess
from servekit.control.links import ControlServer
from servekit.control.operations import Operations
from servekit.control.replicas import ReplicaFleet
from servekit.control.resolve import Resolver
from servekit.control.runtimes import Runtimes
from servekit.control.setup import InstanceSetup
from servekit.control.state import BackendRecord
from servekit.control.store import Store, WorkerRecord
from servekit.control.writer import Writer
from servekit.interfaces import ReplicaEvent, ReplicaRuntime, RuntimeContext
from servekit.plugins import Registry
from servekit.wire.bootstrap import IngressBootstrap, WorkerBootstrap, pack
from servekit.wire.network import Listener, Network

STANDING_ORPHAN_TIMEOUT_S = 300.0
"""How long a worker of a standing instance goes on without a controller: longer than any restart of one."""
INGRESS_START_TIMEOUT_S = 30.0
ADOPTION_TIMEOUT_S = 5.0
"""How long a controller waits for the replicas of its predecessor: they dial at least once a second."""


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
        self._network = network
        self._registry = registry
        self._launch = launch_ingress
        self._control_address = control_address
        self._listeners: list[Listener] = []
        self._listening = asyncio.Lock()
        self._remote: dict[str, str] = {}
        """Control addresses for workers on other machines, by the host that reaches this one."""
        context = RuntimeContext(setup.instance_id, setup.standing, setup.directory)
        self.runtimes = Runtimes(registry, context, fixed_runtime)
        self._writer = Writer(Store(setup.directory))
        self._counts = Counts()
        self._ingresses = IngressFleet(self._launch_ingress)
        self._replicas = ReplicaFleet(
            self.runtimes,
            bootstrap=self._replica_bootstrap,
            blobs=self._blobs,
            save=lambda record: self._writer.call(lambda store: store.save_worker(record)),
            forget=lambda worker_id: self._writer.call(lambda store: store.forget_worker(worker_id)),
            changed=lambda: self._controller.wake(),
            observe=self._observe,
            debug=setup.debug,
            directory=setup.directory,
        )
        self._replicas.ingresses = lambda: self._ingresses.link_addresses
        self._ingresses.addresses_changed = self._replicas.tell_ingresses
        self._control = ControlServer(
            setup.token, self._ingresses, self._replicas, self._counts, lambda: self._controller.autoscalers.decide()
        )
        self._resolver = resolver or Resolver(registry)
        self._controller: Controller
        self.operations: Operations

    async def start(self) -> None:
        """Until the ingress workers serve. Raises what the runtime, or the start of a worker, raised."""
        setup = self._setup
        desired, workers = await self._writer.call(lambda store: store.load())
        self._controller = Controller(
            desired,
            writer=self._writer,
            registry=self._registry,
            ingresses=self._ingresses,
            replicas=self._replicas,
            counts=self._counts,
        )
        self.operations = Operations(
            self._controller,
            self._resolver,
            self.runtimes,
            self._writer,
            self._counts,
            (setup.runtime, setup.runtime_options),
            self._about,
        )
        self._listeners.append(await self._network.listen(self._control_address, self._control.new_link))
        self.runtimes.check(setup.runtime, setup.runtime_options)
        self._ingresses.start([f"ingress{n}" for n in range(1, setup.ingress_workers + 1)])
        await self.runtimes.get(setup.runtime, setup.runtime_options)
        await self._adopt(desired.backends, workers)
        # Before the first snapshot: one without them would make the ingress workers let go of replicas that serve.
        await self._replicas.wait_known(ADOPTION_TIMEOUT_S)
        self._controller.begin()
        await self._ingresses.wait_linked(INGRESS_START_TIMEOUT_S)

    async def stop(self, timeout_s: float) -> None:
        """End every worker, then the runtimes, then the store; bounded by ``timeout_s`` for what is in flight."""
        if hasattr(self, "_controller"):
            await self._controller.stop(timeout_s)
        else:
            await self._ingresses.stop(timeout_s)
        await self.runtimes.close()
        self._control.close()
        for listener in self._listeners:
            with contextlib.suppress(FileNotFoundError):
                listener.close()
        await self._writer.close()

    async def _adopt(self, backends: Mapping[str, Any], workers: list[WorkerRecord]) -> None:
        for worker in workers:
            record = backends.get(worker.backend)
            if record is None:
                await self._writer.call(lambda store, worker=worker: store.forget_worker(worker.worker_id))  # type: ignore[misc]
            else:
                self._replicas.attach(msgspec.structs.replace(record, revision=worker.revision), worker)

    # -- what workers are started with ---------------------------------------------------------------------------------

    def _bootstrap(self, kind: str, worker_id: str, control: list[str]) -> WorkerBootstrap:
        setup = self._setup
        orphan_timeout_s = STANDING_ORPHAN_TIMEOUT_S if setup.standing else ORPHAN_TIMEOUT_S
        return WorkerBootstrap(
            kind,
            worker_id,
            setup.instance_id,
            setup.token,
            control,
            setup.directory,
            orphan_timeout_s,
            setup.busy_poll_s,
        )

    async def _launch_ingress(self, worker_id: str) -> IngressProcess:
        setup = self._setup
        bootstrap = self._bootstrap("ingress", worker_id, [self._control_address])
        observers = [path for _, path in self._registry.observers("servekit_requests_finished")]
        bootstrap.http = IngressBootstrap(setup.http_fd, setup.limits, setup.sys_path, observers)
        return await self._launch(bootstrap)

    async def _replica_bootstrap(self, worker_id: str, runtime: ReplicaRuntime) -> bytes:
        host = await self.runtimes.call(runtime.advertise_host, failing="the runtime gave no address")
        control = [self._control_address]
        if host is not None:
            self._ingresses.listen_on(host)
            async with self._listening:
                if host not in self._remote:
                    listener = await self._network.listen(f"tcp:{host}:0", self._control.new_link)
                    self._listeners.append(listener)
                    self._remote[host] = listener.address
            control = [*control, self._remote[host]] if runtime.local_links else [self._remote[host]]
        return pack(self._bootstrap("replica", worker_id, control))

    async def _blobs(self, record: BackendRecord, remote: bool) -> tuple[bytes, bytes]:
        """The target, and the code for a replica that is on another machine; on this one it is put in its place."""
        target = await self._writer.call(lambda store: store.get_blob(record.target))
        if not record.code:
            return target, b""
        if remote:
            return target, await self._writer.call(lambda store: store.get_blob(record.code))
        await self._writer.call(lambda store: store.unpack_code(record.code))
        return target, b""

    def _observe(self, event: ReplicaEvent) -> None:
        self._registry.notify("servekit_replica_state_changed", event=event)

    def _about(self) -> dict[str, Any]:
        setup = self._setup
        return {
            "name": setup.name,
            "instance_id": setup.instance_id,
            "url": setup.http_url,
            "admin_url": setup.admin_url,
            "runtime": setup.runtime,
            "standing": setup.standing,
            "plugins": self._registry.loaded,
            "plugin_problems": [str(problem) for problem in self._registry.problems],
        }

"""Records to start from, links that only remember, and a controller on fakes."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.links import FakeLink

from servekit.config import BackendConfig, EndpointOptions, config_digest
from servekit.control import replica as replica_module
from servekit.control.controller import Controller
from servekit.control.events import EventLog
from servekit.control.ingresses import IngressEvents, IngressFleet, ManagedIngress
from servekit.control.links import ControlServer
from servekit.control.plan import ReplicaState
from servekit.control.replica import ManagedReplica, ReplicaContext, ReplicaEvents
from servekit.control.replicas import ReplicaFleet
from servekit.control.state import BackendRecord, Desired
from servekit.control.totals import Sums, Totals
from servekit.errors import ServekitError
from servekit.interfaces import Exit, ReplicaEvent, WorkerHandle, WorkerSpec
from servekit.tallies import COUNT, DURATION_US, FAILOVERS, FINE_BOUNDS, Tallies
from servekit.wire.control_frames import (
    Drain,
    EndpointRecord,
    PluginRef,
    Reconfigure,
    Reconfigured,
    Report,
    WorkerHello,
)


class Make:
    def endpoint(self, name: str = "e", **fields: Any) -> EndpointRecord:
        """``fields``: of the record, or of its options."""
        given = {"route": f"/{name}", **fields}
        options = {key: given.pop(key) for key in EndpointOptions.__struct_fields__ if key in given}
        values: dict[str, Any] = {
            "methods": ("GET",),
            "policy": "weighted",
            "policy_ref": PluginRef("policies:Weighted"),
            **given,
        }
        return EndpointRecord(name, EndpointOptions(**options), **values)

    def backend(self, name: str = "b", *, config: dict[str, Any] | None = None, **fields: Any) -> BackendRecord:
        values: dict[str, Any] = {
            "target": "0" * 64,
            "target_text": "module:Model",
            "sys_path": ("/lib",),
            "cwd": "/",
            "config": BackendConfig(**(config or {})),
            "adapter": "flask",
            "adapter_ref": PluginRef("adapters:Flask"),
            "runtime": "process",
            "runtime_options": {},
            "worker_options": {},
            **fields,
        }
        return BackendRecord(name=name, **values)

    def desired(self, *records: EndpointRecord | BackendRecord) -> Desired:
        return Desired(
            {record.name: record for record in records if isinstance(record, EndpointRecord)},
            {record.name: record for record in records if isinstance(record, BackendRecord)},
        )


class WorkerLink(FakeLink):
    """The controller's end of a worker's control link."""

    local_address: Any = ""
    """As a Unix socket's; a pair where the worker is on another machine."""

    def __init__(self) -> None:
        self.owner: Any = ControlServer(b"")
        self.peer_hello = b""
        super().__init__()

    def receive(self, frame: Any) -> None:
        """The worker has sent ``frame``."""
        self.owner.frame_received(self, frame)

    def lose(self) -> None:
        self.owner.link_lost(self, None)


@pytest.fixture(scope="session")
def make() -> Make:
    return Make()


@pytest.fixture
def new_link() -> type[WorkerLink]:
    class Link(WorkerLink):
        """One test's."""

    return Link


class Counted(Totals):
    """Totals of what a test says."""

    def __init__(self) -> None:
        super().__init__(None)
        self._tallies = Tallies(None)

    def count(
        self,
        endpoint: str,
        backend: str,
        status: int,
        requests: int,
        sum_s: float,
        *,
        failovers: int = 0,
        error: str = "",
        method: str = "GET",
    ) -> memoryview:
        """Count requests that took equally long; returns the slots of their record."""
        slots = self._tallies.add(("request", endpoint, backend, method, status, error))
        slots[bisect_left(FINE_BOUNDS, sum_s / requests)] += requests
        slots[DURATION_US] += int(sum_s * 1e6)
        slots[FAILOVERS] += failovers
        return slots

    def read(self) -> Sums:
        return {key: slots.tolist() for key, slots in self._tallies.slots.items()}


@pytest.fixture
def new_totals() -> type[Counted]:
    return Counted


class FakeStore:
    def __init__(self) -> None:
        self.saved: list[Desired] = []
        self.targets: dict[str, bytes] = {}
        self.fault: Exception | None = None

    def save(self, before: Desired, after: Desired) -> None:
        if self.fault is not None:
            raise self.fault
        self.saved.append(after)

    def save_worker(self, record: Any) -> None: ...

    def forget_worker(self, worker_id: str) -> None: ...

    def put_blob(self, data: bytes, digest: str) -> None:
        self.targets[digest] = data

    def drop_blobs_except(self, digests: set[str]) -> None:
        self.targets = {digest: data for digest, data in self.targets.items() if digest in digests}


class FakeStoreThread:
    """In the place of a `StoreThread`; ``store`` is a `FakeStore`, or what the test puts there."""

    def __init__(self) -> None:
        self.store: Any = FakeStore()

    async def call(self, work: Callable[[Any], Any]) -> Any:
        await asyncio.sleep(0)  # As with a thread, others have their turn meanwhile.
        return work(self.store)


@pytest.fixture
def store_thread() -> FakeStoreThread:
    return FakeStoreThread()


class FakeIngresses(IngressFleet):
    """Every ingress worker has applied everything, always."""

    def __init__(self, events: IngressEvents) -> None:
        super().__init__(self._never, ControlServer(b""), events)
        self.contents: list[Any] = []
        self.addresses: list[list[str]] = []

    async def _never(self, worker_id: str) -> Any:
        raise NotImplementedError

    @property
    def link_addresses(self) -> list[list[str]]:
        return self.addresses

    def publish(self, content: Any) -> int:
        if not self.contents or self.contents[-1] != content:
            self.contents.append(content)
            self.version += 1
        return self.version

    async def wait_applied(self, version: int, timeout_s: float = 0.0) -> None: ...

    def linked(self, name: str = "ingress1") -> ManagedIngress:
        """An ingress worker that has dialled."""
        if name not in self.workers:
            self.workers[name] = ManagedIngress(name, self)
            self.workers[name].dialled(WorkerLink(), WorkerHello(name, 1, "node"))  # type: ignore[arg-type]
        return self.workers[name]

    def report(self, outstanding: dict[str, int], waiting: dict[str, int], name: str = "ingress1") -> None:
        """It says how many requests it has at each replica, and how many wait for each backend."""
        self.linked(name).report = Report(replica_outstanding=outstanding, waiting=waiting)


class FakeWorkers:
    """In the place of `Runtimes` and of the workers that they start: ready at once, unless ``fails`` says why not; what
    is let go is gone, unless ``linger``."""

    local_links = True
    ends = None

    def __init__(self) -> None:
        self.replicas: dict[str, ManagedReplica]
        self.fails: ServekitError | None = None
        self._let_end = asyncio.Event()
        self._let_end.set()
        self.silent = 0
        """So many of the next to start say nothing."""
        self._exits: dict[str, Exit] = {}

    @property
    def linger(self) -> bool:
        return not self._let_end.is_set()

    @linger.setter
    def linger(self, value: bool) -> None:
        if value:
            self._let_end.clear()
        else:
            self._let_end.set()

    async def get(self, name: str, options: Any) -> FakeWorkers:
        return self

    async def call(self, function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        result = function(*arguments)
        return await result if asyncio.iscoroutine(result) else result

    async def advertise_host(self, runtime: Any) -> None:
        return None

    async def look(self, runtime: Any, handle: WorkerHandle) -> tuple[Exit | None, str]:
        return self.poll(handle), ""

    async def start(self, runtime: Any, spec: WorkerSpec) -> WorkerHandle:
        if self.silent:
            self.silent -= 1
            return WorkerHandle(spec.worker_id, b"")
        if self.fails is not None:
            raise self.fails
        self.dial(self.replicas[spec.worker_id])
        return WorkerHandle(spec.worker_id, b"")

    def dial(self, replica: ManagedReplica) -> None:
        """Its worker says that it is ready."""
        link: Any = ReplicaLink(replica)
        digest = config_digest(replica.record.config.user_config)
        replica.dialled(link, WorkerHello(replica.id, replica.number, "node", ready=True, user_config=digest))

    def poll(self, handle: WorkerHandle) -> Exit | None:
        link: Any = self.replicas[handle.worker_id].link
        if link is not None and link.of(Drain) and not self.linger:
            return Exit("drained")
        return self._exits.get(handle.worker_id)

    async def stop(self, handle: WorkerHandle, grace_s: float) -> None:
        if handle.worker_id not in self._exits:
            await self._let_end.wait()

    def end(self, replica: ManagedReplica, why: ServekitError) -> None:
        """It ends by itself."""
        replica.failure = why
        self._exits[replica.id] = Exit("ended by the test")
        replica.process_ended()


class ReplicaLink(WorkerLink):
    """To a replica that takes over each ``user_config`` that it is sent, unless it is what ``refuse`` says."""

    def __init__(self, owner: ManagedReplica) -> None:
        super().__init__()
        self.owner = owner
        self.refuse: object = None
        self.silent = False

    def send(self, frame: Any) -> None:
        super().send(frame)
        if isinstance(frame, Reconfigure) and not self.silent:
            error = "Traceback: no" if frame.user_config == self.refuse else ""
            asyncio.get_running_loop().call_soon(self.owner.frame_received, self, Reconfigured(error))


class Control:
    """A real controller, with real records of its replicas, on fakes. Make it inside a running loop."""

    def __init__(self, desired: Desired) -> None:
        self.store_thread, self.workers = FakeStoreThread(), FakeWorkers()
        self.told: list[Any] = []
        self.tallies = Tallies(None)
        parts: dict[str, Any] = {
            "store": self.store_thread,
            "registry": self,
            "event_log": EventLog(),
            "new_ingresses": FakeIngresses,
            "new_replicas": self._new_replicas,
            "tallies": self.tallies,
        }
        self.controller = Controller(desired, **parts)
        self.ingresses: Any = self.controller.ingresses
        self.replicas = self.controller.replicas
        self.workers.replicas = self.replicas.replicas

    def _new_replicas(self, events: ReplicaEvents, ingresses: IngressFleet) -> ReplicaFleet:
        fakes: Any = self.workers, self.store_thread
        context = ReplicaContext(*fakes, ingresses, events, self._bootstrap, "/instance", False)
        return ReplicaFleet(context, ControlServer(b""))

    async def _bootstrap(self, *_: Any) -> bytes:
        return b""

    def notify(self, hook: str, *, event: Any) -> None:
        if not isinstance(event, ReplicaEvent):
            self.told.append(event)

    def restarts(self) -> dict[str, int]:
        """Counted, by reason."""
        return {str(key[2]): slots[COUNT] for key, slots in self.tallies.slots.items() if key[0] == "restart"}

    def user_configs(self) -> list[Any]:
        """What replicas were sent."""
        links: list[Any] = [replica.link for replica in self.replicas.replicas.values()]
        return [frame.user_config for link in links for frame in link.of(Reconfigure)]

    def ready(self, name: str) -> list[ManagedReplica]:
        return [replica for replica in self.replicas.of(name) if replica.state is ReplicaState.READY]

    async def end(self) -> None:
        """Nothing of it goes on."""
        self.workers.linger = False
        await self.controller.stop(0.0)


@pytest.fixture
def new_control(monkeypatch: pytest.MonkeyPatch) -> type[Control]:
    for name in ("POLL_S", "WATCH_S"):
        monkeypatch.setattr(replica_module, name, 0.002)
    return Control

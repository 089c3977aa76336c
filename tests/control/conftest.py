"""Records to start from, links that only remember, and a controller on fakes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from servekit.config import BackendConfig, config_digest
from servekit.control import user_config
from servekit.control.controller import Controller
from servekit.control.counts import Counts
from servekit.control.plan import ReplicaFacts, ReplicaState
from servekit.control.replica import Taken
from servekit.control.state import BackendRecord, Desired, EndpointRecord
from servekit.errors import ServekitError
from servekit.wire.control_frames import Capabilities, PluginRef, Reconfigured, ReplicaEntry, Report


class Make:
    def endpoint(self, name: str = "e", **fields: Any) -> EndpointRecord:
        values: dict[str, Any] = {
            "route": f"/{name}",
            "methods": ("GET",),
            "mount": False,
            "policy": "weighted",
            "policy_ref": PluginRef("policies:Weighted"),
            "timeout_s": 60.0,
            "strict": False,
            **fields,
        }
        return EndpointRecord(name, **values)

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
        return BackendRecord(name, **values)

    def desired(self, *records: EndpointRecord | BackendRecord) -> Desired:
        return Desired(
            {record.name: record for record in records if isinstance(record, EndpointRecord)},
            {record.name: record for record in records if isinstance(record, BackendRecord)},
        )


class FakeLink:
    local_address: Any = ""
    """As a Unix socket's; a pair where the worker is on another machine."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.peer_has_ended = False

    def peer_ended(self) -> None:
        self.peer_has_ended = True

    def send(self, frame: Any) -> None:
        self.sent.append(frame)

    def flush(self) -> None: ...

    def of(self, kind: type) -> list[Any]:
        return [frame for frame in self.sent if type(frame) is kind]


@pytest.fixture(scope="session")
def make() -> Make:
    return Make()


@pytest.fixture
def new_link() -> type[FakeLink]:
    return FakeLink


class FakeStore:
    def __init__(self) -> None:
        self.saved: list[Desired] = []
        self.targets: dict[str, bytes] = {}
        self.fault: Exception | None = None

    def save(self, before: Desired, after: Desired) -> None:
        if self.fault is not None:
            raise self.fault
        self.saved.append(after)

    def put_blob(self, data: bytes, digest: str) -> None:
        self.targets[digest] = data

    def drop_blobs_except(self, digests: set[str]) -> None:
        self.targets = {digest: data for digest, data in self.targets.items() if digest in digests}


class FakeWriter:
    def __init__(self) -> None:
        self.store: Any = FakeStore()

    async def call(self, work: Callable[[Any], Any]) -> Any:
        await asyncio.sleep(0)  # As with a thread, others have their turn meanwhile.
        return work(self.store)


class FakeIngresses:
    """Every ingress worker has applied everything, always."""

    def __init__(self) -> None:
        self.version = 0
        self.contents: list[Any] = []
        self.workers: dict[str, Any] = {}
        self.link_addresses: list[list[str]] = []

    def publish(self, content: Any) -> int:
        if not self.contents or self.contents[-1] != content:
            self.contents.append(content)
            self.version += 1
        return self.version

    async def wait_applied(self, version: int) -> None: ...


class FakeReplica:
    """What the controller asks of `servekit.control.replicas.Replica`."""

    def __init__(self, record: BackendRecord, number: int) -> None:
        self.id = f"r{number}"
        self.record = record
        self.number = number
        self.state = ReplicaState.STARTING
        self.user_config = Taken()
        self.user_config.digest = config_digest(record.config.user_config)
        self.link: Any = None
        self.capabilities = Capabilities()
        self.ready_at = 0.0
        self.failure: Any = None
        self.may_have_calls = True
        self.entry = ReplicaEntry(self.id, "node", ())
        self.pid, self.node, self.started_at, self.report = number, "node", 0.0, Report()

    @property
    def facts(self) -> ReplicaFacts:
        return ReplicaFacts(self.id, self.record.name, self.record.revision, self.state, self.number)


class FakeReplicas:
    """Replicas that are ready at once, unless ``fails`` says why not; what is let go is gone, unless ``linger``."""

    def __init__(self) -> None:
        self.replicas: dict[str, Any] = {}
        self.fails: ServekitError | None = None
        self.linger = False
        self.wake: Callable[[], None] = lambda: None
        self.ended: Callable[[Any], None] = lambda replica: None
        self.unhealthy: Callable[[Any, str], None] = lambda replica, reason: None
        self.started = 0
        self.link: Any = None

    def of(self, name: str) -> list[Any]:
        return [replica for replica in self.replicas.values() if replica.record.name == name]

    def start(self, record: BackendRecord) -> None:
        self.started += 1
        replica = FakeReplica(record, self.started)
        replica.link = self.link
        self.replicas[replica.id] = replica
        asyncio.get_running_loop().call_soon(self._get_ready, replica)

    def update(self, replica: Any, record: BackendRecord) -> None:
        if replica.record.config.user_config != record.config.user_config:
            replica.user_config.refused = None
        replica.record = record
        user_config.bring(replica)

    def reconfigured(self, replica: Any, error: str = "") -> None:
        """It answers what it was sent last."""
        user_config.answered(replica, Reconfigured(replica.user_config.sent[0], error))
        self.wake()

    def _get_ready(self, replica: FakeReplica) -> None:
        if self.fails is None:
            if replica.state is ReplicaState.STARTING:
                replica.state, replica.ready_at = ReplicaState.READY, time.monotonic()
            self.wake()
        else:
            self.end(replica, self.fails)

    def end(self, replica: Any, why: ServekitError) -> None:
        """It ends by itself."""
        replica.failure = why
        self.replicas.pop(replica.id, None)
        self.ended(replica)
        self.wake()

    def mark_draining(self, replica_id: str) -> None:
        self.replicas[replica_id].state = ReplicaState.DRAINING

    def let_go(self, replica_id: str, drain_timeout_s: float) -> None:
        if not self.linger:
            self.replicas.pop(replica_id, None)
            asyncio.get_running_loop().call_soon(self.wake)


class Control:
    """A real controller on fakes. Make it inside a running loop."""

    def __init__(self, desired: Desired) -> None:
        self.writer, self.ingresses, self.replicas = FakeWriter(), FakeIngresses(), FakeReplicas()
        self.counts = Counts()
        self.told: list[Any] = []
        parts: dict[str, Any] = {
            "writer": self.writer,
            "registry": self,
            "ingresses": self.ingresses,
            "replicas": self.replicas,
            "counts": self.counts,
        }
        self.controller = Controller(desired, **parts)
        self.replicas.wake = self.controller.wake

    def notify(self, hook: str, *, event: Any) -> None:
        self.told.append(event)

    def ready(self, name: str) -> list[Any]:
        return [replica for replica in self.replicas.of(name) if replica.state is ReplicaState.READY]


@pytest.fixture
def new_control() -> type[Control]:
    return Control

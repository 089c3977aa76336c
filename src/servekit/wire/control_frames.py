"""The frames of control links, between each worker and the controller."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from servekit.config import BackendConfig, EndpointOptions
from servekit.wire.frames import Codec, Frame

CONTROL_FRAME_BYTES = 64 * 1024 * 1024
BLOB_PIECE_BYTES = 1024 * 1024


# -- worker to controller -----------------------------------------------------------------


class Capabilities(msgspec.Struct, array_like=True, frozen=True):
    """What a replica says of its handler once that is built, and ingress workers go by."""

    slots: int = 1
    """Calls of its handler at a time: what ``max_concurrent_queries`` says, or the default for such a handler."""
    streams_bodies: bool = False
    """It takes a call whose body is still arriving. False: it is to be given bodies whole."""


class WorkerHello(msgspec.Struct, array_like=True):
    """What a worker says of itself when it dials, inside the handshake; on a redial, what it holds already."""

    worker_id: str
    pid: int
    node: str
    ready: bool = False
    """A replica that was built under an earlier controller, or an ingress worker that has a snapshot."""
    addresses: list[str] = msgspec.field(default_factory=list)
    capabilities: Capabilities = Capabilities()
    user_config: bytes = b""
    """Digest of the one that a replica's handler has taken over; empty: that is not known."""


class Ready(Frame, tag=20):
    """A replica's handler is built; it listens on ``addresses``."""

    addresses: list[str]
    capabilities: Capabilities = Capabilities()


class StartFailed(Frame, tag=21):
    """A replica's handler could not be built."""

    message: str


class Applied(Frame, tag=22):
    """An ingress worker has applied the snapshot of this version; ``error`` says what of it could not be."""

    version: int
    error: str = ""


class Report(Frame, tag=23):
    """Sent about once a second: load, and what was counted since the last report."""

    outstanding: int = 0
    busy_s: float = 0.0
    """How long the call that runs now has been running."""
    counts: list[RequestCount] = msgspec.field(default_factory=list)
    replica_outstanding: dict[str, int] = msgspec.field(default_factory=dict)
    """From an ingress worker: requests that it has at each replica."""
    failovers: dict[str, int] = msgspec.field(default_factory=dict)
    """By endpoint: requests that were routed while some of its backends had no live replica."""
    waiting: dict[str, int] = msgspec.field(default_factory=dict)
    """From an ingress worker, by backend: requests that wait there for room in a replica, or for a replica."""


class LinkAddresses(Frame, tag=24):
    """From an ingress worker: where handles may dial it."""

    addresses: list[str]


class Reconfigured(Frame, tag=25):
    """The answer to `Reconfigure`: the handler has taken over; ``error`` is the traceback where it raised."""

    error: str = ""


class Unhealthy(Frame, tag=26):
    """From a replica: its handler's ``check_health()`` raised, or took too long."""

    reason: str


class RequestCount(msgspec.Struct, array_like=True, gc=False):
    """Requests that ended with one status."""

    endpoint: str
    backend: str
    status: int
    requests: int
    latency_s: float
    """Summed."""


# -- controller to worker -----------------------------------------------------------------


class Assign(Frame, tag=40):
    """To a replica: what to serve. The bytes of the target, then those of its code, follow in `Blob` frames."""

    backend: str
    target_bytes: int
    sys_path: list[str]
    cwd: str
    adapter: PluginRef
    config: BackendConfig
    debug: bool = False
    ingresses: list[list[str]] = msgspec.field(default_factory=list)
    """Where handles dial: the addresses of each ingress worker."""
    code: str = ""
    """SHA-256 of the frozen code; empty: there is none."""
    code_bytes: int = 0
    """Of the frozen code, which follows the target; 0: it is in the instance's directory on this machine."""


class Blob(Frame, tag=41):
    """A piece of those bytes."""

    data: bytes


class Drain(Frame, tag=42):
    """To a replica: end when every ingress worker has said `Bye` and every call is answered."""

    timeout_s: float


class Stop(Frame, tag=43):
    """To an ingress worker: stop listening, finish what is in flight, end."""

    timeout_s: float


class Snapshot(Frame, tag=44):
    """To an ingress worker: what changed since version ``base``; all there is, when ``base`` is None."""

    version: int
    base: int | None
    endpoints: dict[str, EndpointRecord | None]
    """None: the endpoint is gone."""
    backends: dict[str, BackendEntry | None]
    leaving: tuple[str, ...] = ()
    """All replicas that no backend here has, and whose processes may be there yet. Of any other replica, the process
    has ended: whoever else holds its sockets, no answer will come."""


class Reconfigure(Frame, tag=45):
    """To a replica: a new ``user_config`` for its handler. A question: `Reconfigured` answers it, on the same link."""

    user_config: Any


class Ingresses(Frame, tag=46):
    """To a replica: where handles dial from now on."""

    addresses: list[list[str]]


class ListenOn(Frame, tag=47):
    """To an ingress worker: take the links of handles on this host's TCP, too; answered by `LinkAddresses`."""

    host: str


class PluginRef(msgspec.Struct, array_like=True, frozen=True):
    """A plugin's factory, by the path that a worker imports it by, and its options."""

    path: str
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class EndpointRecord(msgspec.Struct, array_like=True, frozen=True):
    """An endpoint, as it was asked for."""

    name: str
    options: EndpointOptions
    methods: tuple[str, ...]
    """Empty: every method."""
    policy: str
    """The name or path that it was chosen by."""
    policy_ref: PluginRef
    traffic: dict[str, float] = {}
    """Weight by backend name; empty before `set_traffic`."""


class ReplicaEntry(msgspec.Struct, array_like=True, frozen=True):
    """A ready replica."""

    id: str
    node: str
    addresses: tuple[str, ...]
    capabilities: Capabilities = Capabilities()


class BackendEntry(msgspec.Struct, array_like=True, frozen=True):
    """A backend, as an ingress worker needs it."""

    name: str
    config: BackendConfig
    replicas: tuple[ReplicaEntry, ...]


FromWorker: TypeAlias = Ready | StartFailed | Applied | Report | LinkAddresses | Reconfigured | Unhealthy
ToWorker: TypeAlias = Assign | Blob | Drain | Stop | Snapshot | Reconfigure | Ingresses | ListenOn


def control_codec() -> Codec:
    return Codec(FromWorker | ToWorker)

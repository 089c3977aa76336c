"""The frames of control links, between each worker and the controller."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from servekit.config import BackendConfig, EndpointOptions
from servekit.interfaces import RequestRecord
from servekit.vitals import Vitals
from servekit.wire.frames import Codec, Frame

CONTROL_FRAME_BYTES = 64 * 1024 * 1024
BLOB_PIECE_BYTES = 1024 * 1024
MOST_RECALLED = 100
"""Requests in one `Recalled`."""


# -- worker to controller -----------------------------------------------------------------


class Capabilities(msgspec.Struct, array_like=True, frozen=True):
    """The kinds of calls that a replica takes; the replica tells them once its handler is built."""

    slots: int = 1
    """Calls of its handler at a time: what ``max_concurrent_queries`` says, or the default for such a handler."""
    streams_bodies: bool = False
    """Whether the replica takes a call whose body is still arriving. False: it is to be given bodies whole."""
    types: bytes = b""
    """`HandlerTypes` in JSON, compressed by zlib; empty: the handler does not say what it takes. A snapshot has them
    once for each backend."""


class WorkerHello(msgspec.Struct, array_like=True):
    """The description of a worker that has dialled, sent inside the handshake; on a redial, with all that it has
    already."""

    worker_id: str
    pid: int
    node: str
    ready: bool = False
    """A replica that was built under an earlier controller, or an ingress worker that has a snapshot."""
    addresses: list[str] = msgspec.field(default_factory=list)
    capabilities: Capabilities = Capabilities()
    user_config: bytes = b""
    """Digest of the ``user_config`` that a replica's handler has taken over; empty: not known."""
    companions: list[str] = msgspec.field(default_factory=list)
    """Where a replica on another machine takes companions: see `servekit.wire.companion`."""


class Ready(Frame, tag=20):
    """A replica's handler is built; it listens on ``addresses``, and on ``companions`` for these."""

    addresses: list[str]
    capabilities: Capabilities = Capabilities()
    companions: list[str] = msgspec.field(default_factory=list)


class StartFailed(Frame, tag=21):
    """A replica's handler could not be built."""

    message: str


class Applied(Frame, tag=22):
    """An ingress worker has applied the snapshot of this version; ``error`` names the parts that it could not apply."""

    version: int
    error: str = ""


class Report(Frame, tag=23):
    """Sent about once a second: the worker's load, and what it has to tell since the last report."""

    busy_s: float = 0.0
    """From a replica: how long the call that runs now has been running."""
    replica_outstanding: dict[str, int] = msgspec.field(default_factory=dict)
    """From an ingress worker: how many of its requests each replica has."""
    waiting: dict[str, int] = msgspec.field(default_factory=dict)
    """From an ingress worker, by backend: requests that wait for room in a replica, or for a replica; and the load of
    those that were refused because too many do."""
    overdue_s: float = 0.0
    """From a replica: how far beyond its deadline the call is that has held a slot for longest beyond it."""
    requests: int = 0
    """From a replica: how many calls it has been sent."""
    memory_bytes: int = 0
    """From a replica: resident memory of its process; 0 where it has none of its own."""
    replica_overdue_s: dict[str, float] = msgspec.field(default_factory=dict)
    """From an ingress worker: by replica, how far the first call is beyond its deadline of which nothing has come
    back; without replicas that have none."""
    suspects: dict[bytes, int] = msgspec.field(default_factory=dict)
    """From an ingress worker: the news of its `Suspects`, which the other ingress workers are to hear."""
    served: dict[str, str] = msgspec.field(default_factory=dict)
    """From an ingress worker: the replicas whose links were lost and that had answered calls, each with its backend."""
    refused: list[tuple[str, str, int]] = msgspec.field(default_factory=list)
    """From an ingress worker: by endpoint and the error's type, how many requests servekit itself answered with an
    error."""
    running: int = 0
    """From a replica: how many calls its handler is answering now."""
    calls_waiting: int = 0
    """From a replica: how many calls it has that have not begun."""
    gpus: list[GpuUse] = msgspec.field(default_factory=list)
    """From a replica whose handler uses CUDA: the devices that its process sees."""
    queued: dict[str, int] = msgspec.field(default_factory=dict)
    """From an ingress worker, by backend: requests that wait for room in a replica now."""
    parked: dict[str, int] = msgspec.field(default_factory=dict)
    """From an ingress worker, by endpoint: requests that wait for a backend that can serve."""
    connections: int = 0
    """Of an ingress worker, over HTTP."""
    snapshot: int = 0
    """From an ingress worker: the version that it routes by."""
    vitals: Vitals = Vitals()
    """The lag is that of the ingress worker's loop, or of a replica's data loop."""
    ejected: list[tuple[str, str, str]] = msgspec.field(default_factory=list)
    """From an ingress worker: the replicas to which it sends no requests for a while, each with its backend and
    why."""


class LinkAddresses(Frame, tag=24):
    """From an ingress worker: where handles may dial it."""

    addresses: list[str]


class Reconfigured(Frame, tag=25):
    """The answer to `Reconfigure`: the handler has taken over; ``error`` is the traceback where it raised."""

    error: str = ""


class Unhealthy(Frame, tag=26):
    """From a replica: its handler's ``check_health()`` raised, or took too long."""

    reason: str


class MetricsTold(Frame, tag=29):
    """From a replica: what it has counted and observed since its start. Sent at most about once a second, and on a new
    link."""

    families: list[MetricFamily]
    """Those in which something has changed since the last frame on this link, each whole."""
    dropped: int = 0
    """How often a series was used that would have been one too many."""


class MetricFamily(msgspec.Struct, array_like=True):
    """A metric of a replica, with all of its series."""

    kind: str
    """``counter``, ``gauge`` or ``histogram``."""
    name: str
    """Of a counter without ``_total``."""
    documentation: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...]
    """Of a histogram's buckets, without infinity."""
    series: dict[tuple[str, ...], list[float]]
    """By label values: one number; of a histogram how many values were at most each bound, how many there were, and
    their sum."""


class GpuUse(msgspec.Struct, array_like=True, gc=False):
    """One GPU, whoever uses it."""

    device: str
    busy: float
    """The part of the last moments in which it computed, from 0 to 1."""
    used_bytes: int
    memory_bytes: int


class RecalledRequest(msgspec.Struct, array_like=True):
    """A request that an ingress worker knows of."""

    record: RequestRecord
    pending: bool = False
    """It is under way: the record is of what it has done so far."""
    policy: str = ""
    """The endpoint's, when a backend was chosen; empty: not known any more, and neither are the weights."""
    weights: dict[str, float] = {}


class Recalled(Frame, tag=28):
    """The answer to `Recall`."""

    number: int
    requests: list[RecalledRequest]
    """The last first, those that are under way before all."""
    found: int = 0
    """How many there are."""
    known: int = 0
    """How many requests the ingress worker remembers of those that it has looked at."""
    oldest: float = 0.0
    """When the first of all that it remembers ended, by ``time.time``."""


class ShadowAnswer(msgspec.Struct, array_like=True, frozen=True):
    """An answer of a version, as answers are compared."""

    status: int
    content_type: str = ""
    body: bytes = b""


class ShadowPair(Frame, tag=30):
    """From an ingress worker: the answers of two versions to the same request; or of one version, to a request that it
    was sent twice."""

    endpoint: str
    number: int
    """That of the `ShadowEntry`."""
    repeat: bool
    """The second answer is of the version that gave the first."""
    request_id: str
    same: bool
    """The two are alike to the byte; and not in here."""
    live: ShadowAnswer
    shadow: ShadowAnswer


class Failed(Frame, tag=27):
    """From a replica: what its handler has raised since it told of that last."""

    groups: list[FailureGroup]


class FailureGroup(msgspec.Struct, array_like=True):
    """Errors of one type that were raised at one place."""

    what: str
    """What was being done: ``call``, ``build``, ``reconfigure`` or ``check_health``."""
    type: str
    file: str
    line: int
    function: str
    first_at: float = 0.0
    last_at: float = 0.0
    count: int = 0
    endpoint: str = ""
    """Of the last one, as are the next two."""
    request_id: str = ""
    traceback: str = ""


# -- controller to worker -----------------------------------------------------------------


class Assign(Frame, tag=40):
    """To a replica: the backend to serve. The bytes of the target, then those of its code, follow in `Blob` frames."""

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
    """The length of the frozen code, which follows the target; 0: the code is in the instance's directory."""
    rank: int = 0
    """Of the replica: see `WorkerSpec`."""


class Blob(Frame, tag=41):
    """A piece of the bytes of a target and its code."""

    data: bytes


class Drain(Frame, tag=42):
    """To a replica: end when every ingress worker has said `Bye` and every call is answered."""

    timeout_s: float
    hung_s: float = 0.0
    """Where something hangs in the replica: calls that hold a slot for so long beyond their deadlines are not waited
    for, and what they do goes to the log. 0: all are."""


class Stop(Frame, tag=43):
    """To an ingress worker: say that it is not ready; after ``delay_s`` stop listening, finish what is in flight within
    ``timeout_s``, end."""

    timeout_s: float
    delay_s: float = 0.0
    all_end: bool = False
    """The instance ends: nobody will take connections any more from the socket that the workers share."""


class Snapshot(Frame, tag=44):
    """To an ingress worker: the endpoints and backends that changed since version ``base``; all, where that is None."""

    version: int
    base: int | None
    endpoints: dict[str, EndpointRecord | None]
    """None: the endpoint is gone."""
    backends: dict[str, BackendEntry | None]
    leaving: tuple[str, ...] = ()
    """The replicas that no backend has any more, and whose processes may be there yet. The process of any other replica
    has ended: no answer of it will come, though another process may hold its sockets. A first snapshot says nothing of
    those that it does not name: see `servekit.ingress.apply`."""


class Reconfigure(Frame, tag=45):
    """To a replica: a new ``user_config`` for its handler. A question: `Reconfigured` answers it, on the same link."""

    user_config: Any


class Ingresses(Frame, tag=46):
    """To a replica: where handles dial from now on."""

    addresses: list[list[str]]


class ListenOn(Frame, tag=47):
    """To an ingress worker: take the links of handles on this host's TCP, too; answered by `LinkAddresses`."""

    host: str


class Recall(Frame, tag=51):
    """To an ingress worker: what does it know of the requests of an id? `Recalled` answers, with the same number."""

    number: int
    request_id: str = ""
    kind: str = ""
    """``slow`` or ``failed``, in the place of an id: the last ones."""
    endpoint: str = ""
    """Only those of this endpoint; empty: all."""
    most: int = 0


class Suspected(Frame, tag=50):
    """To an ingress worker: the news of another one's `Suspects`."""

    deaths: dict[bytes, int]


class PluginRef(msgspec.Struct, array_like=True, frozen=True):
    """A plugin's factory, as the path by which workers import it, and its options."""

    path: str
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class RolloutEntry(msgspec.Struct, array_like=True, frozen=True):
    """A roll-out under way, as ingress workers are to know it."""

    number: int
    """Greater than that of each roll-out of the endpoint before."""
    baseline: str
    """The backend that served before."""
    candidate: str
    seed: int
    """What the order of versions is drawn from; each ingress worker draws its own."""
    header: bool = False
    """A request may name its version itself, by ``x-servekit-version``."""
    propagate: bool = False
    """A call that a handler makes by a handle stays on the side of the request that is answered there."""


class ShadowEntry(msgspec.Struct, array_like=True, frozen=True):
    """The shadow of an endpoint: copies of some of its requests go to a backend whose answers nobody gets."""

    backend: str
    share: float
    """Of the requests, those that are copied: above 0, at most 1."""
    compare: str = "json"
    """How answers are compared: ``json``, ``status``, or a function at ``module:attr``; empty: not at all."""
    include_unsafe: bool = False
    """Also requests whose methods may change something are copied."""
    timeout_s: float = 10.0
    """How long a copy may take."""
    noise: float = 0.5
    """Of the copies, those that are sent to the version that had answered, too."""
    tolerance: float = 0.0
    """Numbers that are so near to each other are alike: relative, and absolute near 0."""
    ignore: tuple[str, ...] = ()
    """JSON pointers of what is not compared."""
    redact: str = ""
    """A function at ``module:attr`` that every value in an example goes through; empty: none."""
    number: int = 0
    """Greater than that of each shadow of the endpoint before."""
    at: float = 0.0
    """When it began, by ``time.time``."""


class EndpointRecord(msgspec.Struct, array_like=True, frozen=True):
    """An endpoint, as it was asked for."""

    name: str
    options: EndpointOptions
    methods: tuple[str, ...]
    """Empty: every method."""
    policy: str
    """The name or path that the user chose the policy by."""
    policy_ref: PluginRef
    traffic: dict[str, float] = {}
    """Weight by backend name; empty before `set_traffic`."""
    rollout: RolloutEntry | None = None
    """None: none is under way."""
    shadow: ShadowEntry | None = None


class ReplicaEntry(msgspec.Struct, array_like=True, frozen=True):
    """A ready replica."""

    id: str
    node: str
    addresses: tuple[str, ...]
    capabilities: Capabilities = Capabilities()
    companions: tuple[str, ...] = ()
    """Empty where the replica is on the ingress workers' machine."""


class BackendEntry(msgspec.Struct, array_like=True, frozen=True):
    """A backend, as an ingress worker needs it."""

    name: str
    config: BackendConfig
    replicas: tuple[ReplicaEntry, ...]
    types: bytes = b""
    """What the handler takes and gives: see `Capabilities`."""
    failing: bool = False
    """Whether its replicas have failed to start since one was ready last."""


FromWorker: TypeAlias = (
    Ready
    | StartFailed
    | Applied
    | Report
    | LinkAddresses
    | Reconfigured
    | Unhealthy
    | Failed
    | Recalled
    | MetricsTold
    | ShadowPair
)
ToWorker: TypeAlias = Assign | Blob | Drain | Stop | Snapshot | Reconfigure | Ingresses | ListenOn | Suspected | Recall


def control_codec() -> Codec:
    return Codec(FromWorker | ToWorker)

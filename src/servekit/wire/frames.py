"""What travels on the links: one msgpack array per frame, its first item the kind.

Data links (ingress to replica) carry the frames from `Call` to `Bye`; control links (worker to controller) the rest.

A body up to 64 KiB is in its `Call` or `Answer`. Of a longer one, or one whose length is not known, that frame has the
first part; `Chunk` frames bring what follows, as `Credit` allows (see `servekit.wire.credit`), and `End` ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec

from servekit.config import BackendConfig
from servekit.interfaces import Request

PROTOCOL_VERSION = 3
"""Raised whenever a frame changes its shape: both ends of a link must have the same."""

DATA_FRAME_BYTES = 1024 * 1024
"""Above the longest head of a request or an answer with the longest piece of a body."""
PIECE_BYTES = 64 * 1024
"""An answer's body is cut into pieces of this length; a request's comes as it was read, up to 256 KiB at a time."""
BODY_WINDOW_BYTES = 256 * 1024
"""Credit that a body begins with."""
CONTROL_FRAME_BYTES = 64 * 1024 * 1024
BLOB_PIECE_BYTES = 1024 * 1024


class Frame(msgspec.Struct, array_like=True, gc=False):
    """The base of all frames."""


# -- data links ---------------------------------------------------------------------------------------


class Call(Frame, tag=1):
    """Ingress to replica: run the handler. ``timeout_ms`` is what remains: clocks differ between machines."""

    id: int
    timeout_ms: int
    request: Request
    more: bool = False
    """``request.body`` is the first part of the body."""


class Answer(Frame, tag=2):
    """Replica to ingress. ``head`` is rendered header lines, without those that the ingress adds."""

    id: int
    status: int
    head: bytes
    body: bytes
    queue_length: int
    """Calls that the replica still holds, from every ingress worker."""
    service_us: int
    failed: bool = False
    """The handler raised, or its result could not be encoded."""
    rest: int = 0
    """Bytes of the body that follow; `UNKNOWN` when only its `End` will tell."""
    running: bool = False
    """The handler goes on: it makes the rest. Then the queue's length and the service time are in the `End`."""


UNKNOWN = -1


class Cancel(Frame, tag=3):
    """Ingress to replica: nobody waits for this call any more."""

    id: int


class Refusal(Frame, tag=4):
    """Replica to ingress: this call was not begun."""

    id: int
    reason: str
    """``draining``, ``expired`` or ``cancelled``."""


class Bye(Frame, tag=5):
    """Either way, in order behind the calls: none will follow (ingress), send no more (replica)."""


class Chunk(Frame, tag=6):
    """Either way: the next piece of a call's body."""

    id: int
    data: bytes


class End(Frame, tag=7):
    """Either way: a call's body is over."""

    id: int
    complete: bool = True
    """False: it was broken off."""
    queue_length: int = 0
    service_us: int = 0


class Credit(Frame, tag=8):
    """From the receiver of a body: so much more of it may be sent."""

    id: int
    size_bytes: int


class Load(Frame, tag=9):
    """Replica to ingress, where several ingress workers share a slow replica: how many calls it holds from all of them.

    What an `Answer` says of that is old by the time it matters: it comes with one's own last call, maybe long ago.
    """

    queue_length: int


class Invoke(Frame, tag=10):
    """Handle to ingress, in the place of an HTTP request: call an endpoint's handler. `Answer` and so on come back."""

    id: int
    endpoint: str
    body: bytes
    """Pickled arguments, or the first part of them."""
    more: bool = False
    timeout_ms: int | None = None
    """None: the endpoint's own timeout."""
    limit_ms: int | None = None
    """It never takes longer than this: what remains to the handler that calls."""
    method: str | None = None
    """The handler's method; None: ``__call__``."""
    request_id: str = ""
    chain: tuple[str, ...] = ()
    """The replicas whose handlers wait for this call, outermost first."""


# -- control links: worker to controller -----------------------------------------------------------------


class WorkerHello(msgspec.Struct, array_like=True):
    """What a worker says of itself when it dials, inside the handshake; on a redial, what it holds already."""

    worker_id: str
    pid: int
    node: str
    ready: bool = False
    """A replica that was built under an earlier controller, or an ingress worker that has a snapshot."""
    addresses: list[str] = []
    slots: int = 1
    user_config: bytes = b""
    """Digest of the one that a replica's handler has taken over; empty: that is not known."""


class Ready(Frame, tag=20):
    """A replica's handler is built; it listens on ``addresses``."""

    addresses: list[str]
    slots: int = 1
    """Calls of its handler at a time: what ``max_concurrent_queries`` says, or the default for such a handler."""


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
    counts: list[RequestCount] = []
    replica_outstanding: dict[str, int] = {}
    """From an ingress worker: requests that it has at each replica."""
    failovers: dict[str, int] = {}
    """By endpoint: requests that were routed while some of its backends had no live replica."""
    waiting: dict[str, int] = {}
    """From an ingress worker, by backend: requests that wait there for room in a replica, or for a replica."""


class LinkAddresses(Frame, tag=24):
    """From an ingress worker: where handles may dial it."""

    addresses: list[str]


class Reconfigured(Frame, tag=25):
    """From a replica: its handler took over `Reconfigure` ``number``; ``error`` is the traceback where it raised."""

    number: int
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


# -- control links: controller to worker -----------------------------------------------------------------


class Assign(Frame, tag=40):
    """To a replica: what to serve. The target's bytes follow in `Blob` frames."""

    backend: str
    target_bytes: int
    sys_path: list[str]
    cwd: str
    adapter: PluginRef
    config: BackendConfig
    debug: bool = False
    ingresses: list[list[str]] = []
    """Where handles dial: the addresses of each ingress worker."""


class Blob(Frame, tag=41):
    """A piece of the target's bytes."""

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
    endpoints: dict[str, EndpointEntry | None]
    """None: the endpoint is gone."""
    backends: dict[str, BackendEntry | None]


class Reconfigure(Frame, tag=45):
    """To a replica: a new ``user_config`` for its handler."""

    number: int
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
    options: dict[str, Any] = {}


class EndpointEntry(msgspec.Struct, array_like=True, frozen=True):
    """An endpoint, as an ingress worker needs it."""

    name: str
    route: str | None
    methods: tuple[str, ...]
    """Empty: every method."""
    mount: bool
    timeout_s: float
    strict: bool
    policy: PluginRef
    weights: dict[str, float]


class ReplicaEntry(msgspec.Struct, array_like=True, frozen=True):
    """A ready replica."""

    id: str
    node: str
    addresses: tuple[str, ...]
    slots: int = 1


class BackendEntry(msgspec.Struct, array_like=True, frozen=True):
    """A backend, as an ingress worker needs it."""

    name: str
    config: BackendConfig
    replicas: tuple[ReplicaEntry, ...]


# -- codecs ---------------------------------------------------------------------------------------------

_UUID_CODE = 1
_INT_CODE = 2


def extended(value: Any) -> Any:
    """``value``, which a route's converter made, as msgpack carries it: it knows no UUIDs, and no ints of any size."""
    if isinstance(value, UUID):
        return msgspec.msgpack.Ext(_UUID_CODE, value.bytes)
    if isinstance(value, int) and value.bit_length() > 63:
        return msgspec.msgpack.Ext(_INT_CODE, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    return value


def _from_ext(code: int, data: memoryview) -> Any:
    if code == _UUID_CODE:
        return UUID(bytes=bytes(data))
    if code == _INT_CODE:
        return int.from_bytes(data, "big", signed=True)
    raise ValueError(f"unknown msgpack extension {code}")


class Codec:
    """Frames to bytes and back. Decoding raises `msgspec.MsgspecError` for whatever is no frame of this kind."""

    def __init__(self, frames: Any) -> None:
        self.encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
        self.decode: Callable[[Any], Any] = msgspec.msgpack.Decoder(frames, ext_hook=_from_ext).decode


def data_codec() -> Codec:
    return Codec(Call | Answer | Cancel | Refusal | Bye | Chunk | End | Credit | Load | Invoke)


def control_codec() -> Codec:
    return Codec(
        Ready
        | StartFailed
        | Applied
        | Report
        | LinkAddresses
        | Reconfigured
        | Unhealthy
        | Assign
        | Blob
        | Drain
        | Stop
        | Snapshot
        | Reconfigure
        | Ingresses
        | ListenOn
    )

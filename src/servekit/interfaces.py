"""What a plugin implements, and what the core hands it.

Three abstract classes are the seams: `RoutingPolicy`, `ReplicaRuntime`, `RequestAdapter`. The views are read-only:
the core's own objects satisfy them, and a plugin that writes to one is refused by its type checker.
"""

from __future__ import annotations

import enum
import io
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar, Protocol, TypeAlias
from urllib.parse import quote

import msgspec

# -- views ---------------------------------------------------------------------------------------


class ReplicaView(Protocol):
    """One ready replica, as one ingress worker sees it."""

    @property
    def id(self) -> str: ...

    @property
    def node(self) -> str:
        """The machine it runs on, by its runtime's name for it."""

    @property
    def outstanding(self) -> int:
        """Requests that this ingress worker has sent to it and that have not been answered."""

    @property
    def queue_length(self) -> int:
        """Requests that it held, from every ingress worker, when it sent its last answer."""


class BackendView(Protocol):
    """One backend of an endpoint's traffic; its weight is above 0. A ready replica it may lack in a strict endpoint."""

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def replicas(self) -> Sequence[ReplicaView]: ...


class RequestInfo(Protocol):
    """What a routing policy may know of a request."""

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str:
        """The path, percent-decoded, without the query string."""

    @property
    def headers(self) -> Mapping[str, str]:
        """By lower-case name; of a repeated header, the last value."""

    @property
    def endpoint(self) -> str: ...

    @property
    def id(self) -> str:
        """The value of ``X-Request-ID``, taken over or made."""


class Outcome(enum.Enum):
    """How a request that was sent to a replica ended."""

    ANSWERED = "answered"
    FAILED = "failed"
    """The handler raised, or its result could not be encoded."""
    TIMED_OUT = "timed_out"
    ABANDONED = "abandoned"
    """The client went away."""
    LOST = "lost"
    """The replica died before its answer began."""


# -- routing policies -------------------------------------------------------------------------------


class RoutingPolicy(ABC):
    """Decides, for one endpoint, where each request goes.

    One instance per endpoint and ingress worker, called on that worker's event loop: no method may block.
    """

    _servekit_draw: Callable[[], float] = random.random
    """Where the default `choose_replica` draws from. Tests that are seeded give a policy one of its own."""

    def traffic_changed(self, weights: Mapping[str, float]) -> None:
        """The endpoint's traffic was set: weight by backend name, without those of 0. They sum to 1, or are none."""

    @abstractmethod
    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        """One of ``backends``, which is never empty and holds only what can serve now."""

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        """One of ``replicas``, which is never empty and holds only those with room for a request.

        Default: the better of two distinct random replicas by outstanding requests, ties at random
        (the power of two choices: Mitzenmacher, 2001).
        """
        count = len(replicas)
        if count == 1:
            return replicas[0]
        # Two distinct indices from one draw: `random.sample` costs ten times as much.
        draw = int(self._servekit_draw() * count * (count - 1))
        i, j = divmod(draw, count - 1)
        first, second = replicas[i], replicas[j if j < i else j + 1]
        return second if second.outstanding < first.outstanding else first

    def request_finished(self, request: RequestInfo, replica: ReplicaView, outcome: Outcome) -> None:
        """A request that `choose_replica` sent somewhere has ended."""

    def close(self) -> None:
        """The endpoint is gone, or its policy was replaced."""


# -- replica runtimes -----------------------------------------------------------------------------


@dataclass(frozen=True)
class RuntimeContext:
    """What a runtime is told about the instance that it works for."""

    instance_id: str
    """Unique to this instance on this machine; safe in names of files and actors."""
    standing: bool
    """True when workers outlive the controller, to be attached again after its restart."""
    directory: str
    """A directory (mode 0700) of the instance, for the runtime's own files."""


@dataclass(frozen=True)
class WorkerSpec:
    """A worker process to be started: it must end up in `servekit.worker.run(bootstrap)`, on its main thread."""

    worker_id: str
    backend: str
    bootstrap: bytes
    """Opaque, and secret: it holds the instance's token. Never in argv or the environment."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The backend's placement options (``ray_actor_options``), checked by `check_worker_options`."""
    code_folders: Sequence[str] = ()
    """Where the backend's frozen code stands, or will stand, on whatever machine: the first that is there. The worker
    and its children find it by themselves; other processes that run code for the worker do with ``PYTHONPATH``."""
    distributions: Sequence[str] = ()
    """The installed distributions that this code imports."""


@dataclass(frozen=True)
class WorkerHandle:
    """A started worker. ``state`` is all that `ReplicaRuntime.attach` needs to find it again."""

    worker_id: str
    state: bytes


@dataclass(frozen=True)
class Exit:
    """How a worker ended."""

    reason: str
    """In words, for people: ``exit code 1``, ``killed by SIGKILL``."""
    code: int | None = None


class ReplicaRuntime(ABC):
    """Starts, watches and stops worker processes. Knows nothing of HTTP, handlers or traffic.

    Calls may block: the core makes them off its loop, from several threads at once.
    """

    worker_options_name: ClassVar[str] = "options"
    """How users call ``WorkerSpec.options``, for messages."""
    local_links: bool = True
    """False: workers on this machine, too, are reached at `advertise_host`, over TCP."""

    @classmethod
    def complete_options(cls, options: Mapping[str, Any], *, outlives: bool) -> Mapping[str, Any]:
        """The runtime's options, and beside them what only the process that calls `init` or `create_backend` knows: a
        runtime lives in the controller's process. Called there, on the class; it may not block. Default: as they are.

        Args:
            options: what the user gave, not checked yet. What is given stays.
            outlives: the instance does not end with this process.

        Where what the process knows makes these options useless, it raises an error of `servekit.errors`, which `init`
        or `create_backend` then raises.
        """
        return options

    def describe(self) -> str:
        """Where its workers live, in a few words that follow a colon: for the log and for `status`. Called once it is
        open, on the controller's event loop: it must not block. Default: empty, which says nothing."""
        return ""

    def open(self, context: RuntimeContext) -> None:
        """Called once, before anything else. Raises what `init()` or `create_backend()` should raise."""

    def check_worker_options(self, options: Mapping[str, Any]) -> None:
        """Raise ``ValueError`` when a worker cannot be started with these options. Default: none are taken."""
        if options:
            raise ValueError(f"this runtime takes no placement options; it was given {', '.join(sorted(options))}")

    def advertise_host(self) -> str | None:
        """The address at which workers on other machines reach this one; None when there are no others."""
        return None

    @abstractmethod
    def start(self, spec: WorkerSpec) -> WorkerHandle:
        """Start a worker; return once it has a place to run. Raises where it will never have one."""

    @abstractmethod
    def poll(self, handle: WorkerHandle) -> Exit | None:
        """None while the process is there, else how it ended.

        Look at the process itself: a child that it has forked may keep its sockets and pipes open. What it had started
        and left is to end with it; see `servekit.processes.end_group`.
        """

    @abstractmethod
    def stop(self, handle: WorkerHandle, grace_s: float) -> None:
        """Ask it to end, insist after ``grace_s`` seconds, and return when it has ended. Ended already: no error."""

    @abstractmethod
    def attach(self, state: bytes) -> WorkerHandle:
        """The handle of a worker that an earlier controller started; raises ``LookupError`` when it is gone."""

    def close(self) -> None:
        """The instance ends; every worker has been stopped."""


# -- request adapters -------------------------------------------------------------------------------


class Request(msgspec.Struct, array_like=True, gc=False):
    """A request as it crossed the wire; ``headers`` has lower-case names, in the order sent."""

    method: str
    path: str
    """Percent-decoded, as text."""
    query_string: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    endpoint: str
    route: str
    """The endpoint's route as it was created: ``/users/<int:id>``."""
    id: str
    client: str
    """The peer's IP address; empty when it has none."""
    view_args: dict[str, Any] | None = None
    """What the variable parts of the route matched, converted; None when the route has none."""
    call_method: str | None = None
    """The method of a class backend to be called in the place of ``__call__``."""
    mount: bool = False
    """True when the endpoint has the whole subtree under ``route``."""
    upgrade: bool = False
    """True when the client asked for a WebSocket: a 101 makes of the two bodies the two directions of a raw stream."""
    chain: tuple[str, ...] | None = None
    """Of a call by a handle, whose ``body`` is pickled arguments: the replicas that wait for it, outermost first."""
    sent_target: bytes | None = None
    """The request target as it was sent, where ``path`` and ``query_string`` are not all of it: see `target`."""
    incoming: Any = None
    """Behind `stream` or `pieces`, where ``body`` has only the first part: see `RequestAdapter.streams_body`."""

    @property
    def target(self) -> bytes:
        """The request target as it was sent: escaped, with the query string, and with what a proxy put before it."""
        if self.sent_target is not None:
            return self.sent_target
        return self.raw_path + b"?" + self.query_string if self.query_string else self.raw_path

    @property
    def raw_path(self) -> bytes:
        """The path as it was sent: escaped, without the query string."""
        if self.sent_target is not None:
            return path_of(self.sent_target)
        return self.path.encode() if self.path.isascii() else quote(self.path).encode()  # By a handle, to a route.

    @property
    def stream(self) -> BinaryIO:
        """The body, to be read as a file. Reading may wait for what has not arrived, and raises `ConnectionError`
        when it never will: the client is gone, or the deadline has passed.
        """
        stream: BinaryIO = io.BytesIO(self.body) if self.incoming is None else self.incoming
        return stream

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, for an adapter that ``is_async``. Raises as `stream` does."""
        if self.incoming is None:
            if self.body:
                yield self.body
            return
        async for piece in self.incoming:
            yield piece

    def header(self, name: str, default: str | None = None) -> str | None:
        """The first value of the header ``name``, in whatever case."""
        wanted = name.lower().encode("latin-1")
        for key, value in self.headers:
            if key == wanted:
                return value.decode("latin-1")
        return default


def path_of(target: bytes) -> bytes:
    """The path in a request target, which may be a whole URL (RFC 9112, 3.2.2)."""
    path = target.partition(b"?")[0]
    if path.startswith(b"/") or b"://" not in path:
        return path
    return b"/" + path.partition(b"://")[2].partition(b"/")[2]


Body: TypeAlias = "bytes | Iterable[bytes] | AsyncIterable[bytes]"
Handler: TypeAlias = Callable[..., Any]


class Response(msgspec.Struct):
    """What goes back over the wire. The core adds Content-Length, Date and Connection, and drops a handler's own; but
    that of an answer to HEAD without a body is kept, for it is the one of GET's answer."""

    status: int
    headers: list[tuple[str, str]]
    body: Body = b""
    """An iterable goes out piece by piece, as it makes them; of such a body a Content-Length in ``headers`` is kept.
    It is closed at the end, early when the client is gone, if it has a ``close``."""


class RequestAdapter(ABC):
    """Turns a request into what a handler receives, and what it returns into a response. One per replica.

    A replica calls it on its main thread; where it has several slots, on other threads.
    A handler that is an ``async def`` is called by `call_async`, on the main thread's event loop.
    """

    whole_application: ClassVar[bool] = False
    """True: the handler is an application that speaks a protocol of its own (WSGI, ASGI). It is called through `call`
    or `call_async` alone: not in batches, not by handles, and its methods not by name."""
    is_async: ClassVar[bool] = False
    """True: every call is by `call_async`, whatever the handler is, and long bodies are read by `Request.pieces`."""

    streams_body: ClassVar[bool] = False
    """True: reads bodies through `Request.stream` alone, and so may be called, where there are several slots, while a
    long one is still arriving. With one slot a long one may be in a file. False: all of it is there, in ``body``."""

    @abstractmethod
    def decode(self, request: Request) -> Any:
        """The one argument that the handler is called with."""

    @abstractmethod
    def encode(self, result: Any) -> Response:
        """Raises ``TypeError`` for a result that it has no answer for; the client then gets a 500."""

    def call(self, handler: Handler, request: Request) -> Response:
        """Answer one request. Whole applications override this."""
        return self.encode(handler(self.decode(request)))

    async def call_async(self, handler: Handler, request: Request) -> Response:
        """As `call`, for a handler that is an ``async def``. It is cancelled when nobody waits for the answer."""
        return self.encode(await handler(self.decode(request)))

    def batch_context(self) -> AbstractContextManager[object]:
        """What a handler that takes batches is called within: its requests are many, so `call` is not around it."""
        return nullcontext()

    async def start(self, handler: Handler) -> None:
        """Called once, on the event loop, before the replica is ready."""

    def drain(self) -> None:
        """The replica leaves: what has no end of its own (a WebSocket) is to be ended. Called on the event loop."""

    async def stop(self) -> None:
        """Called once, on the event loop, after the last answer."""

    def close(self) -> None:
        """The replica ends."""


RoutingPolicyFactory: TypeAlias = Callable[..., RoutingPolicy]
ReplicaRuntimeFactory: TypeAlias = Callable[..., ReplicaRuntime]
RequestAdapterFactory: TypeAlias = Callable[..., RequestAdapter]

# -- what observers are told -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One finished request."""

    id: str
    endpoint: str
    backend: str
    """Empty when the request ended before a backend was chosen; likewise ``replica``."""
    replica: str
    method: str
    path: str
    status: int
    latency_s: float


@dataclass(frozen=True, slots=True)
class ReplicaEvent:
    """A replica went from one state to another."""

    backend: str
    replica: str
    state: str
    """``starting``, ``ready``, ``draining`` or ``gone``."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TrafficEvent:
    """An endpoint's traffic was set."""

    endpoint: str
    weights: Mapping[str, float]

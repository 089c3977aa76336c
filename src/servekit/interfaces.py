"""The classes that a plugin implements, and the types of the objects that the core hands to plugins.

A plugin implements one of five abstract classes: `RoutingPolicy`, `ReplicaRuntime`, `RequestAdapter`,
`RequestObserver`, `RolloutJudge`. The views are read-only: the core's own objects satisfy them, and a type checker
refuses a plugin that writes to a view.
"""

from __future__ import annotations

import enum
import io
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
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
        """The machine that the replica runs on, by the name that its runtime has for that machine."""

    @property
    def outstanding(self) -> int:
        """How many requests this ingress worker has sent to the replica that have not been answered."""

    @property
    def queue_length(self) -> int:
        """How many requests the replica held, from every ingress worker, when it sent its last answer."""


class BackendView(Protocol):
    """One backend of an endpoint's traffic, with a weight above 0. A backend without a ready replica is among an
    endpoint's views only where the endpoint is strict."""

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def replicas(self) -> Sequence[ReplicaView]: ...


class RequestInfo(Protocol):
    """The part of a request that a routing policy may look at."""

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str:
        """The path, percent-decoded, without the query string."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers by lower-case name. A repeated header has its last value."""

    @property
    def endpoint(self) -> str: ...

    @property
    def id(self) -> str:
        """The request's ``X-Request-ID``: the client's, or one that the ingress has made."""


class Outcome(enum.Enum):
    """The outcome of a request that was sent to a replica."""

    ANSWERED = "answered"
    FAILED = "failed"
    """The handler raised, or its result could not be encoded."""
    TIMED_OUT = "timed_out"
    ABANDONED = "abandoned"
    """The client went away."""
    LOST = "lost"
    """The replica died before its answer began."""


# -- routing policies -------------------------------------------------------------------------------

_default_draw: ContextVar[Callable[[], float]] = ContextVar("servekit.draw", default=random.random)
"""The function that `two_choices` draws from where its caller names none; a test that is seeded sets one."""


def two_choices(replicas: Sequence[ReplicaView], draw: Callable[[], float] | None = None) -> ReplicaView:
    """The one of two distinct random replicas that has fewer outstanding requests, ties at random
    (the power of two choices: Mitzenmacher, 2001).

    Args:
        replicas: at least one.
        draw: gives a random number from 0 to 1, as `random.Random.random` does. Default: `random.random`.
    """
    count = len(replicas)
    if count == 1:
        return replicas[0]
    # Two distinct indices from one draw: `random.sample` costs ten times as much.
    number = int((draw or _default_draw.get())() * count * (count - 1))
    i, j = divmod(number, count - 1)
    first, second = replicas[i], replicas[j if j < i else j + 1]
    return second if second.outstanding < first.outstanding else first


class DrawnUnit(enum.Enum):
    """What a routing policy draws a version for, while a roll-out is judged."""

    REQUEST = "request"
    KEY = "key"
    """All requests of a client, say, go to one version."""
    NONE = "none"


class RoutingPolicy(ABC):
    """Decides, for one endpoint, where each request goes.

    One instance per endpoint and ingress worker, called on that worker's event loop: no method may block.
    """

    def traffic_changed(self, weights: Mapping[str, float]) -> None:
        """The endpoint's traffic was set. ``weights`` has the weights above 0 by the name of the backend; they sum to
        1, or there are none."""

    @abstractmethod
    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        """Choose one of ``backends``, which is never empty and holds only backends that can serve now; but while a
        roll-out is judged, those too that cannot."""

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        """Choose one of ``replicas``, which is never empty and holds only replicas with room for a request.

        Default: `two_choices`.
        """
        return replicas[0] if len(replicas) == 1 else two_choices(replicas)  # one call less where nothing is chosen

    def draw_order(self, seed: int | None) -> DrawnUnit:
        """A roll-out of the endpoint is judged from now on: choose backends by chance, drawn from ``seed``, so that
        which requests a version gets has nothing to do with what is in them. None: it is judged no more.

        Called before the `traffic_changed` of the same change. Returns what is drawn. Default: nothing is, and no judge
        can say how often it raises a false alarm.
        """
        return DrawnUnit.NONE

    def request_finished(self, request: RequestInfo, replica: ReplicaView, outcome: Outcome) -> None:
        """A request that `choose_replica` sent somewhere has ended."""

    def close(self) -> None:
        """The endpoint is gone, or its policy was replaced."""


# -- replica runtimes -----------------------------------------------------------------------------


@dataclass(frozen=True)
class RuntimeContext:
    """The instance that a runtime works for."""

    instance_id: str
    """Unique to this instance on this machine; safe in names of files and actors."""
    standing: bool
    """True when workers outlive the controller, and are attached again after the controller's restart."""
    directory: str
    """A directory (mode 0700) of the instance, for the runtime's own files."""


@dataclass(frozen=True)
class WorkerSpec:
    """A worker process to be started. In the end it must call `servekit.worker.run(bootstrap)` on its main thread."""

    worker_id: str
    backend: str
    bootstrap: bytes
    """Opaque, and secret, for it holds the instance's token: never to be in argv or the environment."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The backend's placement options, checked by `check_worker_options`."""
    code_folders: Sequence[str] = ()
    """The folders in which the backend's frozen code may be; on each machine it is in the first of them that exists.
    The worker and its children find the code by themselves. Other processes that run code for the worker need
    ``PYTHONPATH``."""
    distributions: Sequence[str] = ()
    """The installed distributions that the frozen code imports."""
    avoid: Sequence[str] = ()
    """Machines that do not answer, by `WorkerHandle.node`: the worker is not to be placed on one of them, though the
    runtime may not have noticed yet."""
    rank: int = 0
    """From 0: no other living replica of the backend has it, and no lower one was free."""
    log_directory: str = ""
    """The folder, on the controller's machine, of the log in which the instance gathers what its workers print:
    `servekit.output.printing_into` gives the file. Empty: a worker prints where the runtime has it print. A worker
    that is started with another output, on that machine, opens a file for itself."""


@dataclass(frozen=True)
class Placement:
    """What the core is to know of a backend's placement options."""

    most_replicas: int | None = None
    """How many replicas there is a place for at a time, those included that are on their way out; None: any number."""
    cwd: str = ""
    """The replicas' working directory; empty: that of the process that created the backend."""


@dataclass(frozen=True)
class WorkerHandle:
    """A started worker. ``state`` is all that `ReplicaRuntime.attach` needs to find the worker again."""

    worker_id: str
    state: bytes
    node: str = field(default="", kw_only=True)
    """The runtime's own name for the machine that the worker is on; empty where all are on the controller's."""


@dataclass(frozen=True)
class Exit:
    """The end of a worker: the reason, and the exit code, if there is one."""

    reason: str
    """In words, for people: ``exit code 1``, ``killed by SIGKILL``."""
    code: int | None = None


class ReplicaRuntime(ABC):
    """Starts, watches and stops worker processes. Knows nothing of HTTP, handlers or traffic.

    Calls may block: the core makes them off its loop, from several threads at once.
    """

    local_links: bool = True
    """False: workers on this machine, too, reach the core at `advertise_host`, over TCP."""

    @classmethod
    def complete_options(cls, options: Mapping[str, Any], *, outlives: bool) -> Mapping[str, Any]:
        """Returns the runtime's options, completed by facts that only the process which calls `init` or
        `create_backend` knows, for the runtime lives in the controller's process. Called in that process, on the class;
        it may not block. Default: the options as they are.

        Args:
            options: the user's options, not checked yet. They are kept as they are.
            outlives: the instance does not end with this process.

        Where these options are of no use in this process, the method raises an error of `servekit.errors`, which `init`
        or `create_backend` then raises.
        """
        return options

    def describe(self) -> str:
        """The place where the workers live, in a few words that follow a colon, for the log and for `status`. Called
        once the runtime is open, on the controller's event loop: it must not block. Default: empty, which says
        nothing."""
        return ""

    def open(self, context: RuntimeContext) -> None:
        """Prepare the runtime. Called once, before anything else. `init()` or `create_backend()` raises the errors of
        this method."""

    def check_worker_options(self, options: Mapping[str, Any]) -> Placement | None:
        """Raise ``ValueError`` when a worker cannot be started with these placement options; return what the core is to
        know of them, if anything. Default: none are taken."""
        if options:
            raise ValueError(f"this runtime takes no placement options; it was given {', '.join(sorted(options))}")
        return None

    def advertise_host(self) -> str | None:
        """The address at which workers on other machines reach this machine; None when there are no others."""
        return None

    @abstractmethod
    def start(self, spec: WorkerSpec) -> WorkerHandle:
        """Start a worker; return once the worker has a place to run. Raises where it will never have a place."""

    @abstractmethod
    def poll(self, handle: WorkerHandle) -> Exit | None:
        """None while the process is there, else how the process ended.

        Look at the process itself: a child that it has forked may keep its sockets and pipes open. Processes that the
        worker has started and left behind are to end with it; see `servekit.processes.end_group`.
        """

    def doomed(self, handle: WorkerHandle) -> str:
        """Why a worker that is there will not be for long, in words; empty where nothing is known of that. The core
        starts another in its place, and ends this one once that serves. It may not block. Default: empty."""
        return ""

    @abstractmethod
    def stop(self, handle: WorkerHandle, grace_s: float) -> None:
        """Ask the worker to end, kill it after ``grace_s`` seconds, and return when it has ended. It is no error where
        the worker has ended already."""

    @abstractmethod
    def attach(self, state: bytes) -> WorkerHandle:
        """The handle of a worker that an earlier controller started; raises ``LookupError`` when the worker is gone."""

    def close(self) -> None:
        """The instance ends; every worker has been stopped."""


# -- request adapters -------------------------------------------------------------------------------


class Request(msgspec.Struct, array_like=True, gc=False):
    """A request as it crossed the wire. ``headers`` has lower-case names, in the order in which they were sent."""

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
    """The client's IP address: the peer's, or what a trusted proxy says; empty when the peer has none."""
    view_args: dict[str, Any] | None = None
    """The values of the route's variable parts, converted; None when the route has no such parts."""
    call_method: str | None = None
    """The method of a class backend to be called in the place of ``__call__``."""
    mount: bool = False
    """True when the endpoint has the whole subtree under ``route``."""
    upgrade: bool = False
    """True when the client asked for a WebSocket: by a 101, the two bodies become the directions of a raw stream."""
    chain: tuple[str, ...] | None = None
    """For a call by a handle, whose ``body`` is pickled arguments, the replicas that wait for the call, outermost
    first; None for a request by HTTP."""
    sent_target: bytes | None = None
    """The request target as it was sent, where ``path`` and ``query_string`` do not make up all of it: see `target`."""
    incoming: Any = None
    """The body that `stream` and `pieces` read, where ``body`` has only the first part: see
    `RequestAdapter.streams_body`."""
    scheme: str = "http"
    """``https`` where a trusted proxy says so."""
    shadow: bool = False
    """The request is a copy, whose answer no client gets. No client can have it so."""

    @property
    def target(self) -> bytes:
        """The request target as it was sent: escaped, with the query string, and with the scheme and host, if a proxy
        sent those."""
        if self.sent_target is not None:
            return self.sent_target
        return self.raw_path + b"?" + self.query_string if self.query_string else self.raw_path

    @property
    def raw_path(self) -> bytes:
        """The path as it was sent: escaped, without the query string."""
        if self.sent_target is not None:
            return path_of(self.sent_target)
        # A handle's call of a route may have a path that is not ASCII.
        return self.path.encode() if self.path.isascii() else quote(self.path).encode()

    @property
    def stream(self) -> BinaryIO:
        """The body, to be read as a file. Reading may wait for bytes that have not arrived, and raises
        `ConnectionError` when they never will: the client is gone, or the deadline has passed.
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
    """An answer, which goes back over the wire. The core adds Content-Length, Date and Connection, and drops those of
    the handler. But the handler's Content-Length is kept in an answer to HEAD without a body: it is that of GET's
    answer."""

    status: int
    headers: list[tuple[str, str]]
    body: Body = b""
    """The pieces of an iterable go out as they are made. Where the body is an iterable, a Content-Length in ``headers``
    is kept. An iterable that has a ``close`` is closed at the end, or earlier when the client is gone."""


class HandlerTypes(msgspec.Struct, omit_defaults=True):
    """What a handler takes and gives, for the OpenAPI document. Schemas are JSON Schema, and refer to one another as
    ``#/components/schemas/NAME``."""

    parameters: list[dict[str, Any]] = []
    """OpenAPI's parameter objects, without ``in``: what the route has a variable for is in the path, the others are in
    the query string."""
    body: dict[str, Any] | None = None
    """The schema of the request's body; None: there is none."""
    body_required: bool = True
    result: dict[str, Any] | None = None
    """The schema of what is returned; None: that is not said."""
    schemas: dict[str, dict[str, Any]] = {}
    """What the others refer to, by name."""
    summary: str = ""
    description: str = ""


class RequestAdapter(ABC):
    """Turns a request into the handler's argument, and the handler's result into a response. A replica has one.

    A replica calls the adapter on the main thread; a replica that has several slots, on other threads.
    A handler that is an ``async def`` is called by `call_async`, on the main thread's event loop.
    """

    whole_application: ClassVar[bool] = False
    """True: the handler is an application that speaks a protocol of its own (WSGI, ASGI). The application is called
    through `call` or `call_async` alone: not in batches, not by handles, and its methods not by name."""
    is_async: ClassVar[bool] = False
    """True: every call is by `call_async`, whatever the handler is, and long bodies are read by `Request.pieces`."""

    streams_body: ClassVar[bool] = False
    """True: the adapter reads bodies through `Request.stream` alone, and so may be called, where there are several
    slots, while a long body is still arriving. With one slot, a long body may be in a file. False: the whole body is
    there, in ``Request.body``."""

    def fit(self, handler: Handler, *, batches: bool) -> tuple[RequestAdapter, Handler]:
        """The adapter and the handler as they are to be called together: default, as they are.

        Called once for a backend's handler, before the replica is ready, and once for each method that is called by its
        name. An adapter that decodes by what a handler says of itself returns one that does; and where the handler
        takes other arguments than the one that `decode` makes, something around it that is called with that one first,
        and behind it with the arguments of a handle's call. What it raises is why the replica does not start.

        Args:
            batches: the handler takes batches, and is called with a list of what `decode` makes.
        """
        return self, handler

    def types(self) -> HandlerTypes | None:
        """What the handler that the adapter is fitted to takes and gives. Default: that is not known."""
        return None

    @abstractmethod
    def decode(self, request: Request) -> Any:
        """The one argument that the handler is called with."""

    @abstractmethod
    def encode(self, result: Any) -> Response:
        """The response for a handler's result. Raises ``TypeError`` for a result that the adapter has no response for;
        the client then gets a 500."""

    def call(self, handler: Handler, request: Request) -> Response:
        """Answer one request. Whole applications override this."""
        return self.encode(handler(self.decode(request)))

    async def call_async(self, handler: Handler, request: Request) -> Response:
        """As `call`, for a handler that is an ``async def``. The call is cancelled when nobody waits for the answer."""
        return self.encode(await handler(self.decode(request)))

    def answer_item(self, item: Any, request: Request) -> Response:
        """The answer to one request of a batch. Default: `call`, with a handler that does what ``item`` says.

        Args:
            item: what the handler returned for this request; an exception is raised for it alone: one of the handler's
                items, or what `decode` raised.
        """

        def handler(*_: Any) -> Any:
            if isinstance(item, BaseException):
                raise item
            return item

        return self.call(handler, request)

    def batch_context(self) -> AbstractContextManager[object]:
        """A context in which a handler of batches is called: `call`, which is for one request, is not around that
        call."""
        return nullcontext()

    async def start(self, handler: Handler) -> None:
        """Called once, on the event loop, before the replica is ready."""

    def drain(self) -> None:
        """The replica leaves: calls that have no end of their own (a WebSocket) are to be ended. Called on the event
        loop."""

    async def stop(self) -> None:
        """Called once, on the event loop, after the last answer."""

    def close(self) -> None:
        """The replica ends."""


RoutingPolicyFactory: TypeAlias = Callable[..., RoutingPolicy]
ReplicaRuntimeFactory: TypeAlias = Callable[..., ReplicaRuntime]
RequestAdapterFactory: TypeAlias = Callable[..., RequestAdapter]

# -- records for observers --------------------------------------------------------------------------


class RequestStep(msgspec.Struct, frozen=True, gc=False):
    """One thing that happened to a request on an unusual way. One that is sent at once, and answered, has none."""

    after_s: float
    """After its coming."""
    what: str
    """``parked``, ``queued``, ``queue_full``, ``overloaded``, ``failed_over``, ``sent``, ``lost``, ``left``, ``held``,
    ``alone``, ``ejected``, ``gathering`` or ``gathered``: see ``docs/explain.md``."""
    backend: str = ""
    replica: str = ""
    number: int = 0
    """How many were before it, where it waits; how many bytes, of a body."""
    text: str = ""
    """More, for people."""
    loads: dict[str, tuple[int, int]] = {}
    """By replica of the backend, for the first 16: how many calls it had, and how many it may have; 0 of these where it
    was given none then."""


class RequestRecord(msgspec.Struct, frozen=True, gc=False):
    """One finished request. Durations are of the ingress worker's monotonic clock."""

    id: str
    endpoint: str
    backend: str
    """Empty when the request ended before a backend was chosen; likewise ``replica``."""
    replica: str
    method: str
    path: str
    status: int
    """499 where the client was gone before it had an answer."""
    latency_s: float
    """From its coming, with its head and the first part of its body, to the last byte of the answer."""
    ended_at: float = 0.0
    """By ``time.time``."""
    body_bytes: int = 0
    """The part of the answer's body that was given to the client's connection."""
    client: str = ""
    """The client's address, as the handler sees it; empty for a call of a handle."""
    route: str = ""
    """The endpoint's route, as it was set."""
    error: str = ""
    """The type of the error, as ``docs/errors.md`` lists them, where servekit made the answer; ``handler_failed`` where
    the replica did, ``broken_off`` where an answer ended early."""
    sent_s: float = -1.0
    """When it was sent to its replica, the last one where there were several, after its coming; below 0: it was not."""
    began_s: float = -1.0
    """When the answer began to come from the replica, after its coming; below 0: it did not."""
    service_s: float = -1.0
    """How long the handler ran; below 0: unknown."""
    sends: int = 0
    """How often it was sent to a replica: more than 1 where one died, or left, with it."""
    ahead: int = 0
    """How many calls its replica had of this ingress worker when it was sent."""
    snapshot: int = 0
    """The version of the snapshot that it was routed by."""
    trace: str = ""
    """The ``traceparent`` that it was passed on with; empty: it came with none, and none was made."""
    parent: str = ""
    """The span id that it came with, in that trace; empty: the trace begins with it."""
    scheme: str = "http"
    """``https`` where a trusted proxy says so."""
    by_handle: bool = False
    """It is a call of a handle, and no request by HTTP."""
    batch_size: int = 0
    """How many requests the handler was called for at a time; 0: it takes no batches."""
    steps: tuple[RequestStep, ...] = ()
    """What happened to it on an unusual way, in order: 20 steps at the most, of which the last replaces the others."""
    chain: tuple[str, ...] = ()
    """For a call of a handle: the replicas whose handlers waited for it, outermost first."""


class RequestObserver(ABC):
    """Is told of the requests that have ended. Each ingress worker has one, which is made when the worker starts.

    Its methods are called in a thread, one at a time: they may block, and meanwhile records are kept, up to a bound.
    """

    trace_share: float = 0.0
    """Of the traces that begin with a request here, how many are sampled, from 0 to 1: read once, when the worker
    starts. Above 0, a request that comes without a ``traceparent`` begins a trace. Of several observers the largest
    share counts."""

    @abstractmethod
    def requests_finished(self, records: Sequence[RequestRecord]) -> None:
        """Requests that ended since the last call, about once a second."""

    def close(self) -> None:
        """The worker ends. It waits for that for two seconds, at most."""


RequestObserverFactory: TypeAlias = Callable[..., RequestObserver]


# -- judges of roll-outs -----------------------------------------------------------------------------


class Reported(msgspec.Struct, frozen=True):
    """What a version's handlers have said by ``servekit.report`` under one name."""

    count: int = 0
    total: float = 0.0

    @property
    def mean(self) -> float | None:
        """None: nothing was reported."""
        return self.total / self.count if self.count else None


class Sample(msgspec.Struct, frozen=True):
    """What one version of an endpoint did with the requests that were chosen for it, since some moment."""

    requests: int = 0
    """Those that have ended; also where another version had to answer in its place."""
    errors: int = 0
    """Those of them that ended with a 5xx, with a lost replica, or beyond their deadline."""
    bounds: tuple[float, ...] = ()
    """The upper bounds of `durations`, in seconds; a duration that is a bound is in the bucket below it."""
    durations: tuple[int, ...] = ()
    """How many requests took how long: one bucket more than there are bounds. They sum to ``requests``."""
    reports: dict[str, Reported] = {}
    """By name."""
    shadow_pairs: int = 0
    """Copies of requests that the version answered as a shadow, and that were compared; the candidate alone has any."""
    shadow_differing: int = 0
    """Those of them whose answers differ, beyond what two answers of the other version do."""


class Ruling(enum.Enum):
    """What a judge makes of a candidate."""

    NO_WORSE = "no_worse"
    """It may have more of the traffic."""
    WORSE = "worse"
    """It is to have none."""
    UNSURE = "unsure"
    """What was seen is not enough to tell."""


class Verdict(msgspec.Struct, frozen=True):
    """What a judge says."""

    ruling: Ruling
    reason: str
    """For people: the figures that decided, in one sentence without a full stop."""


class RolloutJudge(ABC):
    """Says whether the candidate of a roll-out is worse than the version that serves beside it at the same time.

    A roll-out has one, which is made anew where its controller is: a judge keeps nothing between two calls.
    """

    reports: Collection[str] = ()
    """The names of ``servekit.report`` that it looks at. A roll-out is refused where the version that serves has
    reported nothing under one of them."""
    per_step: bool = False
    """True: samples are of the present step. False: of the whole roll-out, since the candidate's warm-up."""
    look_every_s: float = 1.0
    """How often it is asked."""
    patience: int = 1
    """How often in a row it has to say `Ruling.WORSE` before that is believed."""
    claim: str = ""
    """What it guarantees, for people, where versions are drawn by chance; empty: nothing."""

    @abstractmethod
    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        """Judge the candidate. Pure: the same arguments get the same verdict.

        Args:
            elapsed_s: since the samples began.
        """


RolloutJudgeFactory: TypeAlias = Callable[..., RolloutJudge]
"""One that takes an option ``steps``, which the user has not given, is given the number of steps that are judged: so a
judge that is `per_step` can divide among them what it may be wrong."""

# -- events for observers ----------------------------------------------------------------------------


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

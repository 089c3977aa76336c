"""Every default and every limit, and the checks on what users set."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from servekit.errors import InvalidInputError

# -- default names: the one place --------------------------------------------------------------------

DEFAULT_POLICY = "weighted"
DEFAULT_RUNTIME = "ray"
DEFAULT_ADAPTER = "flask"
DEFAULT_METHODS = ("GET",)
DEFAULT_TIMEOUT_S = 60.0

# -- bounds of the control plane ----------------------------------------------------------------------

SNAPSHOT_TIMEOUT_S = 10.0
"""How long a change waits for every live ingress worker to have applied it."""
DRAIN_TIMEOUT_S = 60.0
"""How long a replica that is to go may go on with what it has."""
STOP_GRACE_S = 5.0
"""Between asking a worker process to end and killing it."""
ORPHAN_TIMEOUT_S = 10.0
"""How long a worker of an owned instance goes on without a controller."""
BUSY_POLL_S = 100e-6
"""How long an ingress worker or a replica looks for more work before it sleeps."""
HELLO_TIMEOUT_S = 5.0
"""How long the two ends of a new link may take to know each other."""


class EndpointOptions(msgspec.Struct, frozen=True):
    """What a user may set of an endpoint, as it travels from the admin API to the store and to the ingress workers."""

    route: str | None = None
    """None: it is not reachable over HTTP."""
    mount: bool = False
    """Whether the whole subtree under the route belongs to it."""
    timeout_s: float = DEFAULT_TIMEOUT_S
    """How long a request may take."""
    strict: bool = False
    """Whether a request whose chosen version has no live replica fails, rather than go to another version."""


class Autoscaling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many replicas a backend has, by its load: requests that its replicas have or that wait for them."""

    min_replicas: int = 1
    """0: none while nothing comes; the first request then waits for one to start, within its deadline."""
    max_replicas: int = 1
    target_ongoing_requests: float = 2.0
    """Per replica: what load is divided by."""
    upscale_delay_s: float = 3.0
    """How long the load must ask for more replicas before there are more; from 0 replicas there is no delay."""
    downscale_delay_s: float = 60.0
    """How long it must ask for fewer before there are fewer."""

    def __post_init__(self) -> None:
        _at_least("min_replicas", self.min_replicas, 0)
        _at_least("max_replicas", self.max_replicas, max(1, self.min_replicas))
        _at_least("target_ongoing_requests", self.target_ongoing_requests, 0.001)
        _at_least("upscale_delay_s", self.upscale_delay_s, 0)
        _at_least("downscale_delay_s", self.downscale_delay_s, 0)


class BackendConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user may set of a backend; `update_backend_config` changes any part of it."""

    num_replicas: int = 1
    """Where ``autoscaling`` is set, how many to begin with."""
    max_concurrent_queries: int | None = None
    """Calls of the handler at a time in one replica, at most: a promise to the user's code. One runs on the
    replica's main thread; more run in as many threads; an ``async def`` on its event loop. A batch counts as one, and
    has a thread of its own.
    None: 1, and 100 where the handler is an ``async def`` or an ASGI application."""
    max_batch_size: int | None = None
    """Requests that a handler with `servekit.accept_batch` is given at a time, at most; None: one."""
    batch_wait_timeout: float = 0.0
    """Seconds that the first request of a batch waits for others, at most; it does not wait where none is expected."""
    max_queued_requests: int = 1000
    """Requests that one ingress worker holds back while no replica has room; beyond them, 503."""
    callable_methods: tuple[str, ...] = ()
    """Methods of a class backend that ``X-SERVE-CALL-METHOD`` may name."""
    startup_timeout_s: float = 600.0
    """How long a replica's ``__init__`` may take."""
    autoscaling: Autoscaling | None = None
    """How the number of replicas follows the load; None: it stays ``num_replicas``."""
    user_config: Any = None
    """What the handler's ``reconfigure(user_config)`` is called with, after ``__init__`` and at every change; plain
    data: None, booleans, numbers, text, bytes, lists and dicts of those."""
    health_check_period_s: float = 10.0
    """Between two calls of the handler's ``check_health()``, where it has one."""
    health_check_timeout_s: float = 30.0
    """How long one may take. A replica whose check raises, or takes longer, is replaced."""

    def __post_init__(self) -> None:
        _at_least("num_replicas", self.num_replicas, 0)
        if self.max_concurrent_queries is not None:
            _at_least("max_concurrent_queries", self.max_concurrent_queries, 1)
        if self.max_batch_size is not None:
            _at_least("max_batch_size", self.max_batch_size, 1)
        _at_least("batch_wait_timeout", self.batch_wait_timeout, 0)
        _at_least("health_check_period_s", self.health_check_period_s, 0.1)
        _at_least("health_check_timeout_s", self.health_check_timeout_s, 0.1)
        _at_least("max_queued_requests", self.max_queued_requests, 0)
        _at_least("startup_timeout_s", self.startup_timeout_s, 0)
        _plain("user_config", self.user_config)


def config_digest(user_config: Any) -> bytes:
    """By what controller and replica tell one ``user_config`` from another."""
    return hashlib.sha256(msgspec.msgpack.encode(user_config)).digest()[:16]


ASYNC_SLOTS = 100
"""``max_concurrent_queries`` of handlers that are an ``async def``, where it is not given."""

REPLICA_FIELDS = frozenset({"max_concurrent_queries", "max_batch_size", "batch_wait_timeout"})
"""Fields that a running replica does not take over: a change replaces the replicas, one version by the next."""


def backend_config(
    changes: Mapping[str, Any] | BackendConfig | None, base: BackendConfig | None = None
) -> BackendConfig:
    """``base`` (default: the defaults) with ``changes``; raises `InvalidInputError` and names the key at fault."""
    if isinstance(changes, BackendConfig):
        return changes
    base = base or BackendConfig()
    if changes is None:
        return base
    if not isinstance(changes, Mapping):
        raise InvalidInputError(f"a backend's config is a dict, not {type(changes).__name__}: {changes!r}")
    known = BackendConfig.__struct_fields__
    for key in changes:
        if key not in known:
            raise InvalidInputError(f"{key!r} is not a backend config key{nearest(key, known)}")
    scaling = changes.get("autoscaling")
    for key in scaling if isinstance(scaling, Mapping) else ():
        if key not in Autoscaling.__struct_fields__:
            raise InvalidInputError(f"{key!r} is not a key of autoscaling{nearest(key, Autoscaling.__struct_fields__)}")
    # Not to_builtins, which would make text of the bytes in a user_config.
    values = {field: getattr(base, field) for field in known}
    try:
        return msgspec.convert({**values, **changes}, BackendConfig)
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"backend config: {error}") from None


class HttpLimits(msgspec.Struct, frozen=True):
    """What one HTTP listener bears; every limit is finite."""

    request_line_bytes: int = 8 * 1024
    header_bytes: int = 16 * 1024
    """Name and value of one header."""
    headers_bytes: int = 64 * 1024
    header_count: int = 200
    body_bytes: int = 64 * 1024 * 1024
    header_timeout_s: float = 10.0
    """From a request's first byte to the end of its headers."""
    body_timeout_s: float = 30.0
    """Between two pieces of a body."""
    body_rate_bytes_s: int = 240
    """The mean rate at which a body must come while it is read, at least; 0: any will do. It, and the time of grace,
    are Kestrel's (``MinRequestBodyDataRate``)."""
    body_rate_grace_s: float = 5.0
    """How long a body may come more slowly at first."""
    idle_timeout_s: float = 75.0
    """A kept-alive connection without a request."""
    write_buffer_bytes: int = 256 * 1024
    """Unsent answer bytes at which a connection's next request waits."""
    write_timeout_s: float = 30.0
    """How long a client may take nothing of what is to be sent to it, be it little or much; one that takes a little is
    not cut."""
    connections: int = 10_000
    spool_answer_bytes: int = 64 * 1024 * 1024
    """What one slow reader's answer may hold on the disk; beyond that, its replica waits for the reader."""
    spool_total_bytes: int = 4 * 1024 * 1024 * 1024
    """What all answers and bodies may hold on the disk, in one ingress worker; beyond that, the slowest is cut."""
    spool_directory: str = ""
    """Where; empty: the instance's own directory, which is below ``TMPDIR``."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not isinstance(value, str):
                _at_least(name, value, 0)


def nearest(name: object, known: Iterable[str]) -> str:
    """``; did you mean 'x'? Known: …``, to end a message about an unknown name."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} Known: {', '.join(names) or 'none'}"


def _plain(where: str, value: Any) -> None:
    """Raise ``ValueError`` where ``value`` would not arrive in a replica as it is here."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if type(key) not in (str, int):
                raise ValueError(f"{where} has the key {key!r}; its keys may be text and whole numbers")
            _plain(f"{where}[{key!r}]", inner)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _plain(f"{where}[{index}]", inner)
    elif type(value) not in (type(None), bool, int, float, str, bytes):
        raise ValueError(
            f"{where} is plain data (None, booleans, numbers, text, bytes, lists and dicts of those), not "
            f"{type(value).__module__}.{type(value).__qualname__}; give what it is made of, or where it is found"
        )
    else:
        try:
            msgspec.msgpack.encode(value)
        except (OverflowError, ValueError) as error:
            raise ValueError(f"{where} cannot be sent to replicas: {error}") from None


def _at_least(name: str, value: float, low: float) -> None:
    if not low <= value < float("inf"):
        raise ValueError(f"{name} must be finite and at least {low}, not {value}")

"""Every default and every limit, and the checks on what users set."""

from __future__ import annotations

import difflib
import functools
import hashlib
import reprlib
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, Union

import msgspec

from servekit.errors import ArgumentError, InvalidInputError
from servekit.old_names import IN_RAY_SERVE, PAGE

# -- default names: the one place --------------------------------------------------------------------

DEFAULT_JUDGE = "sequential"
DEFAULT_STEPS: tuple[float | str, ...] = (0.01, 0.1, 0.5, 1.0)
DEFAULT_POLICY = "weighted"
DEFAULT_RUNTIME = "ray"
DEFAULT_ADAPTER = "flask"
TYPED_ADAPTER = "json"
"""Of a handler whose annotations say what it takes, where no adapter is named."""
DEFAULT_METHODS = ("GET",)
DEFAULT_TIMEOUT_S = 60.0
_COMMON = "GET HEAD POST PUT PATCH DELETE OPTIONS TRACE QUERY PURGE SEARCH REPORT"
_OTHERS = """ACL BIND CHECKOUT COPY LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY PROPFIND PROPPATCH
    REBIND SOURCE SUBSCRIBE UNBIND UNLINK UNLOCK UNSUBSCRIBE"""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""RFC 9110, 9.2.1: requests with these methods change nothing, and a shadow gets copies of them without being asked."""
COMMON_METHODS = tuple(_COMMON.split())
METHODS = (*COMMON_METHODS, *_OTHERS.split())
"""Those that the HTTP parser reads, without CONNECT."""

# -- bounds of the control plane ----------------------------------------------------------------------

SNAPSHOT_TIMEOUT_S = 10.0
"""How long a change waits for every live ingress worker to have applied it."""
DRAIN_TIMEOUT_S = 60.0
"""How long a replica that is to go may go on with what it has; a backend's ``drain_timeout_s``."""
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
        check_fields(type(self), msgspec.structs.asdict(self))
        _at_least("min_replicas", self.min_replicas, 0)
        _at_least("max_replicas", self.max_replicas, 1)
        if self.max_replicas < self.min_replicas:
            raise InvalidInputError(
                f"max_replicas is {self.max_replicas}, but min_replicas is {self.min_replicas}: raise the one or lower "
                "the other"
            )
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
    drain_timeout_s: float = DRAIN_TIMEOUT_S
    """How long a replica that is to go may go on with the calls that it has; what is left then is cut off."""
    hang_grace_s: float | None = 10.0
    """How long a call whose answer has not begun may hold a slot beyond its deadline; then its replica is replaced, and
    what it did is in the log. None: for ever."""
    max_requests: int | None = None
    """After so many requests, a tenth more or less, a replica is replaced, when the next is ready; None: never."""
    max_memory_bytes: int | None = None
    """The resident memory of a replica's process, without its children, beyond which the same is done; None: any."""
    max_surge: int | None = None
    """While new replicas take the place of old ones: how many there may be beyond ``num_replicas``. None: all new ones
    beside the old."""
    max_unavailable: int = 0
    """Likewise: how many fewer than ``num_replicas`` may serve."""
    keep_last: int = 3
    """How many earlier revisions are kept, code and config, at no replicas: `rollback` starts them again."""

    def __post_init__(self) -> None:
        first: Any = self.num_replicas
        if isinstance(first, Mapping):
            raise ArgumentError("BackendConfig takes its keys by name: BackendConfig(num_replicas=2), or (**{…})")
        check_fields(type(self), msgspec.structs.asdict(self))
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
        _at_least("drain_timeout_s", self.drain_timeout_s, 0)
        for name, low in (("hang_grace_s", 0.1), ("max_requests", 1), ("max_memory_bytes", 1)):
            if (value := getattr(self, name)) is not None:
                _at_least(name, value, low)
        _at_least("max_unavailable", self.max_unavailable, 0)
        _at_least("keep_last", self.keep_last, 0)
        if self.max_surge is not None:
            _at_least("max_surge", self.max_surge, 0 if self.max_unavailable else 1)
        for name in self.callable_methods:
            if not name.isidentifier():
                raise InvalidInputError(f"callable_methods has {name!r}, which cannot name a method")
            if name.startswith("_"):
                raise InvalidInputError(
                    f"callable_methods has {name!r}, which begins with _, so it is private: rename it"
                )
        check_plain("user_config", self.user_config)


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
        raise InvalidInputError(f"a backend's config is a dict, not {type(changes).__name__}: {short(changes)}")
    scaling = changes.get("autoscaling")
    if isinstance(scaling, Mapping):
        changes = {**changes, "autoscaling": _changed(Autoscaling(), "autoscaling", scaling)}
    return _changed(base, "a backend's config", changes)


def http_limits(given: Mapping[str, Any] | HttpLimits | None) -> HttpLimits:
    """The limits that ``given`` says, or the defaults; raises `InvalidInputError` and names the one at fault."""
    return given if isinstance(given, HttpLimits) else _changed(HttpLimits(), "http_limits", given or {})


S = TypeVar("S", bound=msgspec.Struct)


def _changed(base: S, what: str, changes: Mapping[str, Any]) -> S:
    known = base.__struct_fields__
    for key in changes:
        if key not in known:
            raise InvalidInputError(f"{short(key)} is not a key of {what}{nearest(key, known, IN_RAY_SERVE)}")
    # Not to_builtins, which would make text of the bytes in a user_config.
    values = {**{field: getattr(base, field) for field in known}, **changes}
    try:
        check_fields(type(base), values)
        return msgspec.convert(values, type(base))
    except ValueError as error:
        raise InvalidInputError(f"{what}: {error}") from None


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
        check_fields(type(self), msgspec.structs.asdict(self))
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not isinstance(value, str):
                _at_least(name, value, 0)


def sendable(text: str, longest: int) -> str:
    """A text of this length at most. What no UTF-8 has, half of a surrogate pair, is escaped."""
    cut = str.encode(text[: longest + 1], errors="backslashreplace").decode()
    return cut if len(cut) <= longest else f"{cut[: longest - 1]}…"


def nearest(
    name: object,
    known: Iterable[str],
    old: Mapping[str, str] = types.MappingProxyType({}),
    *,
    most: int | None = None,
) -> str:
    """``; did you mean 'x'? Known: …``, to end a message about an unknown name.

    Args:
        old: `IN_RAY_SERVE`, where that may be what is meant.
        most: so many names are listed, those that are most like it; None: all.
    """
    names = sorted(known)
    meant = old.get(str(name), "")
    with_word = [each for each in names if str(name) in each.split("_")]
    close = [meant] if meant in names else difflib.get_close_matches(str(name), names, n=1)
    if not close and len(with_word) == 1:
        close = with_word
    hint = f"; did you mean {close[0]!r}?" if close else "."
    if meant and meant not in names:
        hint = f"; in the place of what Ray Serve calls so: {meant} ({PAGE})."
    more = ""
    if most is not None and len(names) > most:
        like = difflib.get_close_matches(str(name), names, n=most)
        listed = [*like, *(each for each in names if each not in like)][:most]
        names, more = sorted(listed), f" and {len(names) - most} more"
    return f"{hint} Known: {', '.join(names) or 'none'}{more}"


# -- what is of which type -----------------------------------------------------------------------------

_WORDS: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "True or False"}
_WORDS[Autoscaling] = "a dict, as in {'max_replicas': 4},"
_PLURALS: dict[Any, str] = {str: "text", float: "numbers"}
_ALIKE: dict[Any, Any] = {float: (int, float), None: type(None), tuple: (tuple, list, set, frozenset)}
"""What does as well as a type."""
_LISTS = (list, set, frozenset, Iterable, Collection, Sequence)
_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = 80
short = _shortened.repr
"""What a message shows of a value, however long that is and whatever its ``repr`` does."""


def fits(value: Any, kind: Any) -> bool:
    """Whether ``value`` is what the annotation ``kind`` says; True where that is none of the plain ones."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if _is_union(kind):
        return any(fits(value, each) for each in inner)
    plain: Any = {float: (int, float), None: type(None), tuple: (tuple, list, set, frozenset)}.get(
        origin or kind, origin or kind
    )
    try:
        if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
            return kind is Any
    except TypeError:
        return True
    if isinstance(value, Mapping) and len(inner) == 2:
        return all(fits(key, inner[0]) and fits(each, inner[1]) for key, each in value.items())
    of_one_kind = origin in _LISTS or (origin is tuple and Ellipsis in inner)
    if of_one_kind and not isinstance(value, Iterator):
        return not isinstance(value, (str, bytes)) and all(fits(each, inner[0]) for each in value)
    return True


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (Union, types.UnionType)


def in_words(kind: Any) -> str:
    """What an annotation asks for."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if _is_union(kind):
        return " or ".join(dict.fromkeys(in_words(each) for each in inner))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a dict of {_PLURALS[inner[1]]} by name" if inner[1] in _PLURALS else "a dict"
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return f"a list of {_PLURALS[inner[0]]}" if inner[0] in _PLURALS else "a list"
    return "None" if kind is type(None) else _WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def misfit(name: str, value: Any, kind: Any) -> str:
    """What is wrong with ``value``, which is called ``name``, where it is not what the annotation ``kind`` says."""
    if isinstance(value, Mapping):
        for each in filter(None, map(typing.get_args, typing.get_args(kind) if _is_union(kind) else (kind,))):
            for key, item in value.items():
                if len(each) == 2 and fits(key, each[0]) and not fits(item, each[1]):
                    return misfit(f"{name}[{short(key)}]", item, each[1])
    words, as_list = in_words(kind), ""
    if isinstance(value, str) and "a list" in words:
        as_list = f"; for one, write {name}=[{short(value)}]"
        if name == "methods" and value.upper() not in METHODS:
            as_list = f"; {short(value)} is no HTTP method: if it is a backend, write backend={short(value)}"
    of_right_kind = "a dict" in words if isinstance(value, Mapping) else isinstance(value, list) and "a list" in words
    what = "" if of_right_kind else f"{type(value).__name__}: "
    return f"{name} must be {words}, not {what}{short(value)}{as_list}"


@functools.cache
def _kinds(struct: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(struct)


def check_fields(kind: type[Any], values: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` where one of ``values`` is not what the annotation of the field of that name says."""
    hints: dict[str, Any] = _kinds(kind)  # type: ignore[arg-type]  # classes are hashable
    for name, annotation in hints.items():
        if not fits(values[name], annotation):
            raise ArgumentError(misfit(name, values[name], annotation))


def check_plain(name: str, value: Any) -> None:
    """Raise `InvalidInputError` where ``value``, which is called ``name``, would not arrive as it is here."""
    try:
        _plain(name, value)
    except RecursionError:
        raise InvalidInputError(f"{name} contains itself, or is nested too deep: it must be plain data") from None


def _plain(where: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if type(key) not in (str, int):
                raise InvalidInputError(f"{where} has the key {key!r}; its keys may be text and whole numbers")
            _plain(f"{where}[{key!r}]", inner)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _plain(f"{where}[{index}]", inner)
    elif type(value) not in (type(None), bool, int, float, str, bytes):
        raise InvalidInputError(
            f"{where} must be plain data (None, booleans, numbers, text, bytes, lists and dicts of those), not "
            f"{type(value).__qualname__}: {short(value)}; give what it is made of, or where it is found"
        )
    else:
        try:
            msgspec.msgpack.encode(value)
        except (OverflowError, ValueError) as error:
            raise InvalidInputError(f"{where} cannot be sent to replicas: {error}") from None


def _at_least(name: str, value: float, low: float) -> None:
    if not low <= value < float("inf"):
        finite = "" if isinstance(value, int) else "finite and "
        raise InvalidInputError(f"{name} must be {finite}at least {low}, not {value}")

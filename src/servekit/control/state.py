"""The desired state, as users asked for it: endpoints, backends, traffic; and every change to it, as a pure function.

A change takes the state and returns a new one, or raises and leaves all as it was. Nothing here does any I/O.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from servekit.config import (
    COMMON_METHODS,
    DEFAULT_ADAPTER,
    METHODS,
    REPLICA_FIELDS,
    BackendConfig,
    EndpointOptions,
    nearest,
)
from servekit.control.rollout import Rollout
from servekit.errors import AlreadyExistsError, InUseError, InvalidInputError, NotFoundError
from servekit.handler_shape import WAYS_OUT, HandlerShape, check_config
from servekit.routes import VARIABLE, canonical, check_route
from servekit.wire.control_frames import EndpointRecord, PluginRef

WEIGHTS_TOLERANCE = 1e-6
_is_name = re.compile(r"[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?").fullmatch
_WITHOUT_BODY = {"GET", "HEAD", "OPTIONS", "TRACE"}
_in_braces = re.compile(r"\{(?P<name>\w+)(?::(?P<converter>\w+))?\}").search
_LONGEST_NAME = 200


class Written(msgspec.Struct, frozen=True):
    """A value of a deployed file that has variables of the environment."""

    text: str
    """As it is written."""
    digest: bytes
    """Of the value."""


class InFile(msgspec.Struct, frozen=True):
    """What a configuration file would say of a target, beside its name: plain data."""

    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    freeze: bool = True
    include: list[str] = []
    exclude: list[str] = []


class BackendSource(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a backend that travels unchanged from the admin API to the store."""

    name: str
    target_text: str
    """The target's name, for people."""
    sys_path: tuple[str, ...]
    cwd: str
    adapter: str = DEFAULT_ADAPTER
    worker_options: dict[str, Any] = {}
    """``placement``."""
    code_digest: str = ""
    """A short digest by which people tell one version of the code from another."""
    requires: str = ""
    """Arguments that the handler cannot do without and no HTTP request has; handles give them."""
    shape: HandlerShape | None = None
    """None: of a target that was given as ``"module:attr"`` nothing is known."""
    in_file: InFile | None = None
    """None: no file could name the target, or its arguments."""


class BackendRecord(BackendSource, frozen=True, kw_only=True):
    """A backend, as it was asked for."""

    target: str
    """SHA-256 of the target's bytes."""
    config: BackendConfig
    adapter_ref: PluginRef
    runtime: str
    runtime_options: dict[str, Any]
    revision: int = 1
    """Greater after every change that running replicas cannot take over."""
    code: str = ""
    """SHA-256 of the frozen code's bytes; empty: there is none."""
    distributions: tuple[str, ...] = ()
    """The names of the installed distributions that the code imports."""
    most_replicas: int | None = None
    """See `Placement`."""
    written: dict[str, Written] = {}
    """By `servekit.control.tables.key_path`."""
    repeats: int = 0
    """The revision that this one is the same as, after a restart or a rollback; 0: none."""

    @property
    def original(self) -> int:
        """The revision, for people: the same for the same code, arguments and config."""
        return self.repeats or self.revision


class TrafficEntry(msgspec.Struct, frozen=True):
    """What an endpoint's traffic has been since a moment."""

    number: int
    """The first of an endpoint is 1."""
    at: float
    traffic: dict[str, float]
    revisions: dict[str, int]
    """Of each of these backends."""
    who: str = ""
    why: str = ""
    back_to: int = 0
    """The number of the entry that a rollback went back to."""
    on_the_way: bool = False
    """It was a step of a roll-out: a rollback goes further, to what there was before that."""


class Kept(msgspec.Struct, frozen=True):
    """The revisions of one backend that are kept at no replicas."""

    records: tuple[BackendRecord, ...] = ()
    """The newest last."""
    at: float = 0.0
    """When the last of them was added."""
    newest: int = 0
    """The last revision that went, kept or not."""


class Desired(msgspec.Struct, frozen=True):
    """All endpoints and backends that were asked for, by name; and what there was before."""

    endpoints: dict[str, EndpointRecord] = {}
    backends: dict[str, BackendRecord] = {}
    number: int = 0
    """How many changes there have been."""
    kept: dict[str, Kept] = {}
    """By the backend's name."""
    history: dict[str, tuple[TrafficEntry, ...]] = {}
    """By the endpoint's name."""
    written: dict[str, Written] = {}
    """Of the endpoints, by `servekit.control.tables.key_path`."""
    rollouts: dict[str, Rollout] = {}
    """The last one of each endpoint, under way or not."""

    @property
    def all_written(self) -> dict[str, Written]:
        """Those of the backends, too."""
        found = dict(self.written)
        for record in self.backends.values():
            found.update(record.written)
        return found

    def endpoint(self, name: str) -> EndpointRecord:
        """The endpoint of that name. Raises `NotFoundError`."""
        if name not in self.endpoints:
            if name in self.backends:
                raise NotFoundError(
                    f"there is no endpoint {name!r}, but a backend of that name: HTTP and handles call endpoints; "
                    f"create_endpoint({name!r}, backend={name!r}) makes one for it"
                )
            raise NotFoundError(f"there is no endpoint {name!r}{nearest(name, self.endpoints)}")
        return self.endpoints[name]

    def backend(self, name: str) -> BackendRecord:
        """The backend of that name. Raises `NotFoundError`."""
        if name not in self.backends:
            raise NotFoundError(f"there is no backend {name!r}{nearest(name, self.backends)}")
        return self.backends[name]


# -- changes ---------------------------------------------------------------------------------------------------


def add_endpoint(desired: Desired, record: EndpointRecord) -> Desired:
    """The state with one more endpoint. Raises where its name or route is taken, or a part of it is not acceptable."""
    check_name("endpoint", record.name)
    if record.name in desired.endpoints:
        raise AlreadyExistsError(
            f"endpoint {record.name!r} exists already; choose another name, or delete_endpoint({record.name!r}) first"
        )
    for method in record.methods:
        if method not in METHODS:
            raise InvalidInputError(f"{method!r} is not an HTTP method{nearest(method.upper(), COMMON_METHODS)}")
    if not (0 < record.options.timeout_s < math.inf):
        raise InvalidInputError(f"timeout_s must be finite and above 0, not {record.options.timeout_s:g}")
    _check_route(desired, record)
    _check_weights(desired, record.name, record.traffic, may_be_empty=True)
    return _with_endpoint(desired, record)


def remove_endpoint(desired: Desired, name: str) -> Desired:
    """The state without the endpoint; its backends stay."""
    desired.endpoint(name)
    return msgspec.structs.replace(desired, endpoints={k: v for k, v in desired.endpoints.items() if k != name})


def add_backend(desired: Desired, record: BackendRecord) -> Desired:
    check_name("backend", record.name)
    if record.name in desired.backends:
        raise AlreadyExistsError(
            f"backend {record.name!r} exists already; choose another name, or delete_backend({record.name!r}) first"
        )
    _check_room(record)
    return msgspec.structs.replace(desired, backends={**desired.backends, record.name: record})


def put_backends(desired: Desired, records: Mapping[str, BackendRecord]) -> Desired:
    """The state with these records, in the place of those of their names."""
    for name, record in records.items():
        desired = replace_backend(desired, record) if name in desired.backends else add_backend(desired, record)
    return desired


def put_back(desired: Desired, before: Desired, new: Mapping[str, BackendRecord]) -> Desired:
    """The state with the backends as they were ``before``, and what was kept of them, where they are ``new`` now: of
    the new revision, or where there is none, the very record. A new one that was given traffic meanwhile stays."""
    kept = dict(desired.kept)
    for name, record in new.items():
        now, old = desired.backends.get(name), before.backends.get(name)
        in_place = old is not None and old.revision == record.revision
        if now is None or (now is not record and (in_place or now.revision != record.revision)):
            continue
        if old is not None:
            desired = replace_backend(desired, old)
        elif all(name not in endpoint.traffic for endpoint in desired.endpoints.values()):
            desired = remove_backend(desired, name)
        else:
            continue
        kept.pop(name, None)
        if name in before.kept:
            kept[name] = before.kept[name]
    return msgspec.structs.replace(desired, kept=kept)


def with_config(record: BackendRecord, config: BackendConfig) -> BackendRecord:
    """The record with this config; its revision is 0 where running replicas cannot take that over."""
    if all(getattr(config, field) == getattr(record.config, field) for field in REPLICA_FIELDS):
        return msgspec.structs.replace(record, config=config)
    return msgspec.structs.replace(record, config=config, revision=0, repeats=0)


def newest_revision(desired: Desired, name: str) -> int:
    """The last revision that a backend of this name has had, be it one that a roll-out has put back and history names;
    0: none."""
    current = desired.backends.get(name)
    told = (entry.revisions.get(name, 0) for entries in desired.history.values() for entry in entries)
    return max(current.revision if current is not None else 0, desired.kept.get(name, Kept()).newest, *told, 0)


def remove_backend(desired: Desired, name: str) -> Desired:
    """The state without the backend. Raises `InUseError` while an endpoint has the backend in its traffic."""
    desired.backend(name)
    users = sorted(endpoint.name for endpoint in desired.endpoints.values() if name in endpoint.traffic)
    if users:
        raise InUseError(
            f"backend {name!r} is in the traffic of {', '.join(map(repr, users))}; "
            "set_traffic without it, or delete the endpoint, first"
        )
    shadowed = sorted(e.name for e in desired.endpoints.values() if e.shadow is not None and e.shadow.backend == name)
    if shadowed:
        raise InUseError(
            f"backend {name!r} is the shadow of {', '.join(map(repr, shadowed))}; stop_shadow({shadowed[0]!r}) first"
        )
    return msgspec.structs.replace(desired, backends={k: v for k, v in desired.backends.items() if k != name})


def replace_backend(desired: Desired, record: BackendRecord) -> Desired:
    """The state with this record in the place of the backend of that name."""
    desired.backend(record.name)
    if record.shape is not None:
        check_config(record.target_text, record.shape, record.config)
    _check_room(record)
    return msgspec.structs.replace(desired, backends={**desired.backends, record.name: record})


def set_traffic(desired: Desired, name: str, shares: Mapping[str, float]) -> Desired:
    """The state with the traffic set.

    ``name`` is an endpoint and ``shares`` weights by backend; or, as the first Ray Serve had it, ``name`` is a backend
    and ``shares`` its shares by endpoint. Where both readings are possible, the first is meant.
    """
    if not isinstance(shares, Mapping):
        raise InvalidInputError(
            f"traffic must be a dict of weights by backend, as in {{'my_backend': 1.0}}, not {shares!r}"
        )
    if not shares:
        raise InvalidInputError("traffic is empty: name at least one backend, as in {'my_backend': 1.0}")
    if name not in desired.endpoints and name in desired.backends and all(key in desired.endpoints for key in shares):
        return _set_shares_of(desired, name, shares)
    record = desired.endpoint(name)
    weights = _check_weights(desired, name, shares)
    return _with_endpoint(desired, msgspec.structs.replace(record, traffic=weights))


def _set_shares_of(desired: Desired, backend: str, shares: Mapping[str, float]) -> Desired:
    for endpoint, share in shares.items():
        share = _check_weight(endpoint, backend, share)
        record = desired.endpoint(endpoint)
        others = {name: weight for name, weight in record.traffic.items() if name != backend}
        total = sum(others.values())
        rest = max(0.0, 1.0 - share)
        if rest > WEIGHTS_TOLERANCE and total <= 0:
            raise InvalidInputError(
                f"backend {backend!r} is to get {share} of endpoint {endpoint!r}, and no other backend is there to "
                f"take the rest; give it 1.0, or set_traffic({endpoint!r}, {{…}}) with all its backends"
            )
        scaled = {name: weight / total * rest for name, weight in others.items()} if rest > WEIGHTS_TOLERANCE else {}
        weights = _check_weights(desired, endpoint, {**scaled, backend: share})
        desired = _with_endpoint(desired, msgspec.structs.replace(record, traffic=weights))
    return desired


def traffic_set(before: Desired, after: Desired) -> list[str]:
    """The names of the endpoints whose traffic a change has set, be it to the weights that they had."""
    found = []
    for name, record in after.endpoints.items():
        old = before.endpoints.get(name)
        if record.traffic and record is not old and not _shadow_alone(old, record):
            found.append(name)
    return found


def _shadow_alone(old: EndpointRecord | None, new: EndpointRecord) -> bool:
    """Whether no more than the endpoint's shadow was changed."""
    return old is not None and old.shadow is not new.shadow and msgspec.structs.replace(old, shadow=new.shadow) == new


# -- checks ----------------------------------------------------------------------------------------------------


def check_name(kind: str, name: object) -> None:
    """Raise `InvalidInputError` where ``name`` cannot name an endpoint, a backend, or an instance: a folder's name."""
    fits = isinstance(name, str) and _is_name(name) and len(name) <= _LONGEST_NAME
    if not fits or (kind == "instance" and ("/" in str(name) or name in (".", ".."))):
        raise InvalidInputError(
            f"{name!r} cannot name {'an' if kind[0] in 'aeiou' else 'a'} {kind}: a name is text of 1 to "
            f"{_LONGEST_NAME} characters, without control characters{' and /' if kind == 'instance' else ''}, and with "
            "no space at its ends"
        )


def _check_room(record: BackendRecord) -> None:
    """Raise `InvalidInputError` where the backend could be asked for more replicas than its placement has room for."""
    config, most = record.config, record.most_replicas
    name, wanted = "num_replicas", config.num_replicas
    if config.autoscaling is not None:
        name, wanted = "max_replicas", config.autoscaling.max_replicas
    if most is not None and wanted > most:
        raise InvalidInputError(
            f"backend {record.name!r}: {name} is {wanted}, and its placement has room for {most} replicas at a time; "
            "ask for fewer, or create a backend whose placement has more (gpus, say)"
        )


def _check_route(desired: Desired, record: EndpointRecord) -> None:
    route, mount = record.options.route, record.options.mount
    if route is None:
        if mount:
            raise InvalidInputError(f"endpoint {record.name!r} is to be mounted, so it needs a route")
        return
    braces = _in_braces(VARIABLE.sub("", route))
    if braces is not None:
        converter = f"{braces['converter']}:" if braces["converter"] else ""
        raise InvalidInputError(
            f"the route {route!r} has {braces[0]}: a variable is written in angle brackets here, "
            f"<{converter}{braces['name']}>"
        )
    check_route(route, mount=mount)
    for other in desired.endpoints.values():
        if _route_key(other.options) == _route_key(record.options):
            raise AlreadyExistsError(
                f"the route {route!r} belongs to endpoint {other.name!r}; choose another, or delete that one"
            )


def _route_key(options: EndpointOptions) -> str | None:
    """The same for two routes that match the same paths; None without a route."""
    if options.route is None:
        return None
    return canonical(options.route.rstrip("/") if options.mount else options.route)


def _check_weights(
    desired: Desired, endpoint: str, weights: Mapping[str, float], *, may_be_empty: bool = False
) -> dict[str, float]:
    checked = {}
    for name, weight in weights.items():
        desired.backend(name)
        checked[name] = _check_weight(endpoint, name, weight)
    total = math.fsum(checked.values())
    if abs(total - 1) > WEIGHTS_TOLERANCE and not (may_be_empty and not weights):
        raise InvalidInputError(
            f"the weights of endpoint {endpoint!r} must sum to 1; these sum to {total:.7g}: {abs(1 - total):.7g} is "
            f"{'missing' if total < 1 else 'too much'}"
        )
    return checked


def _check_weight(endpoint: str, backend: str, weight: object) -> float:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 1 + WEIGHTS_TOLERANCE:
        percent = ""
        if isinstance(weight, (int, float)) and 1 < weight <= 100:
            percent = f"; {weight:g} % is {weight / 100:g}"
        raise InvalidInputError(
            f"the weight of backend {backend!r} in endpoint {endpoint!r} must be a number from 0 to 1, not "
            f"{weight!r}{percent}"
        )
    return float(weight)


def _with_endpoint(desired: Desired, record: EndpointRecord) -> Desired:
    for name in record.traffic if record.options.route is not None else ():
        backend = desired.backend(name)
        shape = backend.shape
        if shape is not None and shape.doubt:
            raise InvalidInputError(
                f"the handler {backend.target_text} of backend {name!r} cannot be called with a request to the route "
                f"of endpoint {record.name!r}: {shape.doubt}. {WAYS_OUT}"
            )
        if backend.requires:
            raise InvalidInputError(
                f"the handler {backend.target_text} of backend {name!r} cannot be called without {backend.requires}, "
                f"and a request to the route of endpoint {record.name!r} is its one argument: give the others "
                "defaults, annotate all parameters (docs/validation.md), or create the endpoint without a route, for "
                "handles alone"
            )
        if shape is not None and shape.parameters is not None:
            _check_parameters(record, backend, shape.parameters)
    return msgspec.structs.replace(desired, endpoints={**desired.endpoints, record.name: record})


def check_takes_requests(desired: Desired, endpoint: str, backend: str) -> None:
    """Raise `InvalidInputError` where the backend's handler cannot be called with requests to the endpoint's route."""
    _with_endpoint(desired, msgspec.structs.replace(desired.endpoint(endpoint), traffic={backend: 1.0}))


def _check_parameters(record: EndpointRecord, backend: BackendRecord, parameters: Mapping[str, str]) -> None:
    """Raise `InvalidInputError` where no request to the endpoint's route could have what a typed handler takes."""
    options, sources = record.options, list(parameters.values())
    which = f"endpoint {record.name!r}, whose backend {backend.name!r} has the handler {backend.target_text}"
    if options.mount and "request" not in sources:
        raise InvalidInputError(
            f"{which}: mount=True is for applications, and this handler cannot see which path below {options.route!r} "
            "was asked for; leave mount out, or name what varies, as in '/users/<int:user_id>'"
        )
    variables = [found["name"] for found in VARIABLE.finditer(options.route or "")]
    unused = [name for name in variables if name not in parameters]
    missing = [name for name, source in parameters.items() if source == "text" and name not in variables]
    if unused and missing and "request" not in sources:
        raise InvalidInputError(
            f"{which}: the route {options.route!r} has <{unused[0]}>, which is no parameter of the handler, and the "
            f"handler needs {missing[0]!r}: give both the same name"
        )
    bodies = [name for name, source in parameters.items() if source == "body"]
    if bodies and record.methods and set(record.methods) <= _WITHOUT_BODY:
        raise InvalidInputError(
            f"{which}: its parameter {bodies[0]!r} is the body of the request, which {' and '.join(record.methods)} "
            "requests do not have: create the endpoint with methods=['POST']"
        )

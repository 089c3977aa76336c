"""What users asked for: endpoints, backends, traffic; and every change to it, as a pure function.

A change takes the state and gives a new one, or raises and leaves all as it was. Nothing here does any I/O.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from servekit.config import DEFAULT_ADAPTER, BackendConfig, EndpointOptions, nearest
from servekit.errors import AlreadyExistsError, InUseError, InvalidInputError, NotFoundError
from servekit.routes import canonical, check_route
from servekit.wire.control_frames import EndpointRecord, PluginRef

WEIGHTS_TOLERANCE = 1e-6
_is_name = re.compile(r"[^\s/\x00-\x1f\x7f](?:[^/\x00-\x1f\x7f]*[^\s/\x00-\x1f\x7f])?").fullmatch
_is_method = re.compile(r"[A-Z][A-Z-]*").fullmatch
_LONGEST_NAME = 200


class BackendSource(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend is made of, as it travels from the admin API to the store."""

    name: str
    target_text: str
    """What people call the target."""
    sys_path: tuple[str, ...]
    cwd: str
    adapter: str = DEFAULT_ADAPTER
    worker_options: dict[str, Any] = {}
    """``ray_actor_options``."""
    code_digest: str = ""
    """By what people tell one code from another."""


class BackendRecord(BackendSource, frozen=True, kw_only=True):
    """A backend, as it was asked for."""

    target: str
    """SHA-256 of the target's bytes."""
    config: BackendConfig
    adapter_ref: PluginRef
    runtime: str
    runtime_options: dict[str, Any]
    revision: int = 1
    """Raised by every change that running replicas do not take over."""
    code: str = ""
    """SHA-256 of the frozen code's bytes; empty: there is none."""
    distributions: tuple[str, ...] = ()
    """What the code imports of installed distributions, by name."""


class Desired(msgspec.Struct, frozen=True):
    """All that was asked for."""

    endpoints: dict[str, EndpointRecord] = {}
    backends: dict[str, BackendRecord] = {}

    def endpoint(self, name: str) -> EndpointRecord:
        """Raises `NotFoundError`."""
        if name not in self.endpoints:
            raise NotFoundError(f"there is no endpoint {name!r}{nearest(name, self.endpoints)}")
        return self.endpoints[name]

    def backend(self, name: str) -> BackendRecord:
        """Raises `NotFoundError`."""
        if name not in self.backends:
            raise NotFoundError(f"there is no backend {name!r}{nearest(name, self.backends)}")
        return self.backends[name]


# -- changes ---------------------------------------------------------------------------------------------------


def add_endpoint(desired: Desired, record: EndpointRecord) -> Desired:
    """With one more endpoint. Raises where its name or route is taken, or a part of it is not acceptable."""
    check_name("endpoint", record.name)
    if record.name in desired.endpoints:
        raise AlreadyExistsError(
            f"endpoint {record.name!r} exists already; choose another name, or delete_endpoint({record.name!r}) first"
        )
    for method in record.methods:
        if not _is_method(method):
            raise InvalidInputError(f"{method!r} is not an HTTP method; write it in upper case, as in methods=['POST']")
    if not (0 < record.options.timeout_s < math.inf):
        raise InvalidInputError(f"timeout_s must be finite and above 0, not {record.options.timeout_s}")
    _check_route(desired, record)
    _check_weights(desired, record.name, record.traffic, may_be_empty=True)
    return _with_endpoint(desired, record)


def remove_endpoint(desired: Desired, name: str) -> Desired:
    """Without the endpoint; its backends stay."""
    desired.endpoint(name)
    return msgspec.structs.replace(desired, endpoints={k: v for k, v in desired.endpoints.items() if k != name})


def add_backend(desired: Desired, record: BackendRecord) -> Desired:
    check_name("backend", record.name)
    if record.name in desired.backends:
        raise AlreadyExistsError(
            f"backend {record.name!r} exists already; choose another name, or delete_backend({record.name!r}) first"
        )
    return msgspec.structs.replace(desired, backends={**desired.backends, record.name: record})


def remove_backend(desired: Desired, name: str) -> Desired:
    """Without the backend. Raises `InUseError` while an endpoint has it in its traffic."""
    desired.backend(name)
    users = sorted(endpoint.name for endpoint in desired.endpoints.values() if name in endpoint.traffic)
    if users:
        raise InUseError(
            f"backend {name!r} is in the traffic of {', '.join(map(repr, users))}; "
            "set_traffic without it, or delete the endpoint, first"
        )
    return msgspec.structs.replace(desired, backends={k: v for k, v in desired.backends.items() if k != name})


def replace_backend(desired: Desired, record: BackendRecord) -> Desired:
    """With another record in the place of the backend of that name."""
    desired.backend(record.name)
    return msgspec.structs.replace(desired, backends={**desired.backends, record.name: record})


def set_traffic(desired: Desired, name: str, shares: Mapping[str, float]) -> tuple[Desired, list[str]]:
    """With the traffic set; and the names of the endpoints that this changed.

    ``name`` is an endpoint and ``shares`` weights by backend; or, as the first Ray Serve had it, ``name`` is a backend
    and ``shares`` its shares by endpoint. Where both readings are possible, the first is meant.
    """
    if not isinstance(shares, Mapping) or not shares:
        raise InvalidInputError(f"traffic is a dict of weights by backend, as in {{'my_backend': 1.0}}, not {shares!r}")
    if name not in desired.endpoints and name in desired.backends and all(key in desired.endpoints for key in shares):
        return _set_shares_of(desired, name, shares)
    record = desired.endpoint(name)
    weights = _check_weights(desired, name, shares)
    return _with_endpoint(desired, msgspec.structs.replace(record, traffic=weights)), [name]


def _set_shares_of(desired: Desired, backend: str, shares: Mapping[str, float]) -> tuple[Desired, list[str]]:
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
    return desired, list(shares)


# -- checks ----------------------------------------------------------------------------------------------------


def check_name(kind: str, name: object) -> None:
    """Raise `InvalidInputError` where ``name`` cannot name an endpoint or a backend."""
    if not isinstance(name, str) or not name or not _is_name(name) or len(name) > _LONGEST_NAME:
        raise InvalidInputError(
            f"{name!r} cannot name {'an' if kind[0] in 'aeiou' else 'a'} {kind}: a name is text of 1 to "
            f"{_LONGEST_NAME} characters, without '/' and control characters, and with no space at its ends"
        )


def _check_route(desired: Desired, record: EndpointRecord) -> None:
    route, mount = record.options.route, record.options.mount
    if route is None:
        if mount:
            raise InvalidInputError(f"endpoint {record.name!r} is to be mounted, so it needs a route")
        return
    check_route(route, mount=mount)
    for other in desired.endpoints.values():
        if _route_key(other.options) == _route_key(record.options):
            raise AlreadyExistsError(
                f"the route {route!r} belongs to endpoint {other.name!r}; choose another, or delete that one"
            )


def _route_key(options: EndpointOptions) -> str | None:
    """By what two routes are one."""
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
        raise InvalidInputError(f"the weights of endpoint {endpoint!r} must sum to 1; these sum to {total:.7g}")
    return checked


def _check_weight(endpoint: str, backend: str, weight: object) -> float:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 1 + WEIGHTS_TOLERANCE:
        raise InvalidInputError(
            f"the weight of backend {backend!r} in endpoint {endpoint!r} must be a number from 0 to 1, not {weight!r}"
        )
    return float(weight)


def _with_endpoint(desired: Desired, record: EndpointRecord) -> Desired:
    return msgspec.structs.replace(desired, endpoints={**desired.endpoints, record.name: record})

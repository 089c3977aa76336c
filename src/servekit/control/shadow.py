"""The shadow of an endpoint in the desired state: pure functions."""

from __future__ import annotations

import math

from msgspec import structs

from servekit.control import state
from servekit.control.state import Desired
from servekit.errors import InvalidInputError, NotFoundError
from servekit.wire.control_frames import ShadowEntry

COMPARE = ("json", "status")
"""The ways to compare answers that have a name."""
LONGEST_TIMEOUT_S = 3600.0
"""Of a copy."""


def set_shadow(desired: Desired, endpoint: str, entry: ShadowEntry) -> Desired:
    """The state in which copies of the endpoint's requests go to a backend; a shadow that the endpoint has is replaced.

    Raises `NotFoundError` for names that there are not, and `InvalidInputError`.
    """
    record = desired.endpoint(endpoint)
    desired.backend(entry.backend)
    _check(endpoint, entry)
    if record.options.route is None:
        raise InvalidInputError(
            f"endpoint {endpoint!r} has no route, and only requests over HTTP are copied: give it one"
        )
    if set(record.traffic) == {entry.backend}:
        raise InvalidInputError(
            f"backend {entry.backend!r} has all the traffic of endpoint {endpoint!r}: a shadow is another one, whose "
            "answers are compared with those"
        )
    state.check_takes_requests(desired, endpoint, entry.backend)
    entry = structs.replace(entry, number=desired.number + 1)
    return structs.replace(desired, endpoints={**desired.endpoints, endpoint: structs.replace(record, shadow=entry)})


def end_shadow(desired: Desired, endpoint: str) -> Desired:
    """The state in which no requests of the endpoint are copied. Raises `NotFoundError` where none are now."""
    record = desired.endpoint(endpoint)
    shadow_of(desired, endpoint)
    return structs.replace(desired, endpoints={**desired.endpoints, endpoint: structs.replace(record, shadow=None)})


def shadow_of(desired: Desired, endpoint: str) -> ShadowEntry:
    """The endpoint's shadow. Raises `NotFoundError` where it has none."""
    entry = desired.endpoint(endpoint).shadow
    if entry is None:
        raise NotFoundError(f"endpoint {endpoint!r} has no shadow; shadow({endpoint!r}, to=BACKEND) begins one")
    return entry


def _check(endpoint: str, entry: ShadowEntry) -> None:
    what = f"the shadow of endpoint {endpoint!r}"
    if not 0 < entry.share <= 1:
        raise InvalidInputError(f"{what}: share must be above 0 and at most 1, not {entry.share:g}")
    if not 0 <= entry.noise <= 1:
        raise InvalidInputError(f"{what}: noise must be from 0 to 1, not {entry.noise:g}")
    if not 0 <= entry.tolerance < math.inf:
        raise InvalidInputError(f"{what}: tolerance must be finite and at least 0, not {entry.tolerance:g}")
    if not 0 < entry.timeout_s <= LONGEST_TIMEOUT_S:
        raise InvalidInputError(
            f"{what}: timeout_s must be above 0 and at most {LONGEST_TIMEOUT_S:g}, not {entry.timeout_s:g}"
        )
    if entry.compare and entry.compare not in COMPARE and ":" not in entry.compare:
        raise InvalidInputError(
            f"{what}: compare must be 'json', 'status', a function as 'module:attr', or None; not {entry.compare!r}"
        )
    if entry.redact and ":" not in entry.redact:
        raise InvalidInputError(f"{what}: redact must be a function as 'module:attr', or None; not {entry.redact!r}")
    for pointer in entry.ignore:
        if not pointer.startswith("/"):
            raise InvalidInputError(
                f"{what}: ignore has {pointer!r}, which is no JSON pointer: write '/name', or '/items/*/price'"
            )

"""Roll-outs that a deploy asks for: which of them begin, and which are there already. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from servekit.control.rollout import Rollout, RolloutKeys, RolloutOptions, check_options
from servekit.control.rollout_changes import check_no_rollout
from servekit.control.state import Desired
from servekit.errors import InUseError, InvalidInputError


def options_of(endpoint: str, keys: RolloutKeys, traffic: Mapping[str, float] | None) -> RolloutOptions:
    """What a file says of an endpoint's roll-out. Raises `InvalidInputError`, also where its traffic is not one
    backend's."""
    backends = [name for name, share in (traffic or {}).items() if share]
    if len(backends) != 1:
        raise InvalidInputError(
            f"endpoint {endpoint!r}: a roll-out leads to one backend: beside the table rollout, give it the traffic of "
            "that one, as in traffic = { v2 = 1.0 }"
        )
    options = RolloutOptions(to=backends[0], **msgspec.structs.asdict(keys))
    try:
        check_options(options)
    except InvalidInputError as error:
        raise InvalidInputError(f"endpoint {endpoint!r}: {error}") from None
    return options


def to_begin(
    desired: Desired, wanted: Mapping[str, RolloutOptions], kept: Collection[str]
) -> dict[str, RolloutOptions]:
    """Those of the roll-outs, by endpoint, that begin: where one other backend serves now.

    Args:
        kept: the names of the backends that there are to be.

    Raises:
        InUseError: another roll-out of the endpoint is under way, or the version that serves would be deleted.
        InvalidInputError: the endpoint's traffic is split, so that there is no version to begin from.
    """
    found: dict[str, RolloutOptions] = {}
    for name, options in wanted.items():
        if not _has_other(desired, name, options.to):
            continue
        rollout = desired.rollouts.get(name)
        if rollout is None or not _is_under_way(rollout, options):
            check_no_rollout(desired, name)
            _check_traffic(desired, name, options.to)
            found[name] = options
        _check_kept(desired, name, options.to, kept)
    return found


def by_rollout(desired: Desired, wanted: Mapping[str, RolloutOptions]) -> frozenset[str]:
    """The endpoints whose traffic a roll-out sets, so that a deploy leaves it as it is."""
    return frozenset(name for name, options in wanted.items() if _has_other(desired, name, options.to))


def outcome(desired: Desired, endpoint: str, to: str) -> str:
    """How the last roll-out of the endpoint has ended, where that was to the same backend, for people."""
    rollout = desired.rollouts.get(endpoint)
    if rollout is None or rollout.state != "rolled_back" or rollout.candidate != to:
        return ""
    return f"the last roll-out to {to!r} was rolled back: {rollout.reason}"


def _has_other(desired: Desired, endpoint: str, to: str) -> bool:
    """Another backend has a part of the endpoint's requests."""
    record = desired.endpoints.get(endpoint)
    return record is not None and any(name != to for name, share in record.traffic.items() if share)


def _is_under_way(rollout: Rollout, options: RolloutOptions) -> bool:
    asked = rollout.options if options.seed else msgspec.structs.replace(rollout.options, seed=0)
    return not rollout.is_over and asked == options


def _check_traffic(desired: Desired, endpoint: str, to: str) -> None:
    traffic = desired.endpoints[endpoint].traffic
    if len(traffic) > 1:
        raise InvalidInputError(
            f"the traffic of endpoint {endpoint!r} is split between {', '.join(map(repr, traffic))}: a roll-out to "
            f"{to!r} begins from one version; deploy it without the table rollout, or set_traffic to that one first"
        )


def _check_kept(desired: Desired, endpoint: str, to: str, kept: Collection[str]) -> None:
    for name in desired.endpoints[endpoint].traffic:
        if name != to and name not in kept:
            raise InUseError(
                f"backend {name!r} serves endpoint {endpoint!r} until its roll-out to {to!r} has ended, and goes on "
                f"serving where {to!r} is worse: keep [backends.{name}] in the file until then"
            )

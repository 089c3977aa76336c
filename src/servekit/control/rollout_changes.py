"""Changes of the desired state by roll-outs, and what roll-outs forbid meanwhile: pure functions, as `state` has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from servekit.control.rollout import Rollout, RolloutOptions, check_options
from servekit.control.state import BackendRecord, Desired, set_traffic
from servekit.errors import InUseError, InvalidInputError, NotFoundError
from servekit.interfaces import DrawnUnit


def begin_rollout(
    desired: Desired,
    endpoint: str,
    options: RolloutOptions,
    now: float = 0.0,
    who: str = "",
    unit: DrawnUnit = DrawnUnit.NONE,
) -> Desired:
    """The state with a roll-out that has just begun: no traffic has changed. Raises where there can be none."""
    record = desired.endpoint(endpoint)
    check_options(options)
    desired.backend(options.to)
    check_no_rollout(desired, endpoint)
    if not record.traffic:
        raise InvalidInputError(
            f"endpoint {endpoint!r} has no traffic, so there is nothing to compare {options.to!r} with: "
            f"set_traffic({endpoint!r}, {{{options.to!r}: 1.0}}) instead"
        )
    if len(record.traffic) > 1:
        raise InvalidInputError(
            f"the traffic of endpoint {endpoint!r} is split between {', '.join(map(repr, record.traffic))}: a roll-out "
            "begins from one version; set_traffic to that one first"
        )
    (baseline,) = record.traffic
    if baseline == options.to:
        raise InvalidInputError(f"endpoint {endpoint!r} has backend {baseline!r} already: name another one in to=")
    before = desired.rollouts.get(endpoint)
    rollout = Rollout(
        number=1 if before is None else before.number + 1,
        endpoint=endpoint,
        baseline=baseline,
        reason=f"until backend {options.to!r} has a replica that is ready",
        options=options,
        began_at=now,
        who=who,
        unit=unit,
    )
    # Where the candidate cannot take the endpoint's requests, that is said now, and not at the first step.
    set_traffic(desired, endpoint, {options.to: 1.0})
    return put_rollout(desired, rollout)


def put_rollout(desired: Desired, rollout: Rollout) -> Desired:
    """The state with the roll-out, and the traffic that belongs to it."""
    record = desired.endpoint(rollout.endpoint)
    shadow = record.shadow
    if shadow is not None and rollout.is_over and shadow.backend in rollout.traffic:
        shadow = None  # It answers now what it had copies of.
    now = msgspec.structs.replace(record, traffic=rollout.traffic, rollout=rollout.entry, shadow=shadow)
    endpoints = desired.endpoints
    if now != record:
        endpoints = {**endpoints, record.name: now}
    return msgspec.structs.replace(
        desired, endpoints=endpoints, rollouts={**desired.rollouts, rollout.endpoint: rollout}
    )


def move_rollout(desired: Desired, endpoint: str, move: Callable[[Rollout], Rollout]) -> Desired:
    """The state with the endpoint's roll-out under way moved on. Raises `NotFoundError` where none is."""
    return put_rollout(desired, under_way(desired, endpoint, move))


def under_way(desired: Desired, endpoint: str, move: Callable[[Rollout], Rollout] = lambda rollout: rollout) -> Rollout:
    """The endpoint's roll-out, moved on. Raises `NotFoundError` where none is under way."""
    desired.endpoint(endpoint)
    rollout = desired.rollouts.get(endpoint)
    if rollout is None or rollout.is_over:
        was = (
            ""
            if rollout is None
            else f"; the last one, to {rollout.candidate!r}, was {rollout.state.replace('_', ' ')}"
        )
        raise NotFoundError(f"endpoint {endpoint!r} has no roll-out under way{was}")
    return move(rollout)


# -- what is refused meanwhile -----------------------------------------------------------------------------------------


def check_no_rollout(desired: Desired, endpoint: str) -> None:
    """Raise `InUseError` while a roll-out of the endpoint is under way."""
    rollout = desired.rollouts.get(endpoint)
    if rollout is not None and not rollout.is_over:
        raise InUseError(
            f"endpoint {endpoint!r} has a roll-out from {rollout.baseline!r} to {rollout.candidate!r} under way "
            f"({rollout.state}), which sets its traffic: wait for its end, or promote_rollout({endpoint!r}), or "
            f"abort_rollout({endpoint!r}) first"
        )


def check_parts(desired: Desired, backends: Iterable[str]) -> None:
    """Raise `InUseError` where one of these backends is a part of a roll-out under way."""
    named = set(backends)
    for rollout in desired.rollouts.values():
        if not rollout.is_over and (parts := named & {rollout.baseline, rollout.candidate}):
            check_no_rollout_of(rollout, sorted(parts)[0])


def check_no_rollout_of(rollout: Rollout, backend: str) -> None:
    part = "candidate" if backend == rollout.candidate else "version that serves"
    raise InUseError(
        f"backend {backend!r} is the {part} in a roll-out of endpoint {rollout.endpoint!r} that is under way "
        f"({rollout.state}): wait for its end, or promote_rollout({rollout.endpoint!r}), or "
        f"abort_rollout({rollout.endpoint!r}) first"
    )


def check_change(before: Desired, after: Desired) -> Desired:
    """``after``, unless it has changed what a roll-out under way relies on: `InUseError`.

    Every change but those of roll-outs themselves goes by here, whatever has made it.
    """
    for name, rollout in before.rollouts.items():
        if rollout.is_over or name not in after.endpoints:
            continue
        was, now = before.endpoints[name], after.endpoints[name]
        if msgspec.structs.replace(now, shadow=was.shadow) != was:
            check_no_rollout(before, name)
        check_parts(before, _changed(before.backends, after.backends))
    gone = {name for name in before.rollouts if name not in after.endpoints}
    if not gone:
        return after
    rollouts = {name: each for name, each in after.rollouts.items() if name not in gone}
    return msgspec.structs.replace(after, rollouts=rollouts)


def _changed(before: Mapping[str, BackendRecord], after: Mapping[str, BackendRecord]) -> set[str]:
    """Those that are gone, or have other code or another config that replicas cannot take over."""
    return {name for name, record in before.items() if name not in after or after[name].original != record.original}


# -- what serves after it ----------------------------------------------------------------------------------------------


def kept_warm(autoscaled: Mapping[str, int], desired: Desired, now: float) -> dict[str, int]:
    """How many replicas each backend that autoscales is to have, where the version that a promoted one has followed
    keeps those that it had, for a while: a way back finds them ready."""
    found = dict(autoscaled)
    for rollout in desired.rollouts.values():
        if rollout.state == "promoted" and now < rollout.ended_at + rollout.options.keep_warm_s:
            name = rollout.baseline
            if name in found:
                found[name] = max(found[name], rollout.warm_replicas)
    return found

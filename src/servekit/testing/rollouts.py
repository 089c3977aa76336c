"""Whole roll-outs in a test: time is moved and requests are sent until they have ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx

from servekit.errors import InvalidInputError
from servekit.testing.clock import MOST_ADVANCE_S, Clock

STAYS = ("promoted", "rolled_back", "inconclusive", "paused")
"""The states of a roll-out in which nothing more comes of time."""


def finish(
    told: Callable[[], Mapping[str, Any]],
    clock: Clock,
    send: Callable[[httpx.Client], object],
    client: httpx.Client,
    at_most_s: float,
    every_s: float,
) -> dict[str, Any]:
    """Have ``send`` send requests each ``every_s`` of the clock's seconds until what is ``told`` of a roll-out is that
    it has ended, or asks. Raises `AssertionError` where it has not within ``at_most_s``."""
    if not 0 < every_s <= MOST_ADVANCE_S:
        raise InvalidInputError(f"every_s is {every_s!r}: give seconds above 0, up to {MOST_ADVANCE_S:g}")
    ends_s = clock.time_s + at_most_s
    while (found := told())["state"] not in STAYS:
        if clock.time_s >= ends_s:
            raise AssertionError(f"after {at_most_s:g} s {described(found)}")
        send(client)
        clock.advance(min(every_s, max(0.0, ends_s - clock.time_s)))
    return dict(found)


def described(told: Mapping[str, Any]) -> str:
    """Where a roll-out is, why, and what its versions did, for a test that fails."""
    lines = [
        f"the roll-out of endpoint {told['endpoint']!r} from {told['baseline']!r} to {told['candidate']!r} is "
        f"{told['state']} at {told['share']:g}, step {told['step']} of {len(told['steps'])}: {told['reason']}"
    ]
    for version, seen in told["seen"].items():
        p99 = "" if seen["p99_s"] is None else f", p99 {1000 * seen['p99_s']:.3g} ms"
        lines.append(f"    {version}: {seen['requests']} requests, {seen['errors']} errors{p99}")
    return "\n".join(lines)

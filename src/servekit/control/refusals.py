"""When endpoints begin to refuse requests, and when that has ended. Decisions alone: times are given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

QUIET_S = 10.0
"""After so long without a refusal, refusals have ended."""
OF_STATE = frozenset(
    {
        *("queue_full", "overloaded", "no_replica", "not_ready", "version_down", "no_traffic", "no_room", "deadline"),
        *("replica_died", "deadly_request", "call_cycle", "policy_failed"),
    }
)
"""The types of errors that tell of the instance's state, and not of a request that is at fault."""


class Refusing(NamedTuple):
    """An endpoint that refuses requests."""

    endpoint: str
    type: str
    requests: int
    began_at: float
    last_at: float


class RefusalWatch:
    """Knows which endpoints refuse requests now, with what error."""

    def __init__(self) -> None:
        self._now: dict[tuple[str, str], Refusing] = {}

    def reported(self, refused: Iterable[tuple[str, str, int]], now: float) -> list[Refusing]:
        """An ingress worker has refused so many requests, by endpoint and the error's type; returns what has begun."""
        began = []
        for endpoint, type_, count in refused:
            if type_ not in OF_STATE or not endpoint:
                continue
            seen = self._now.get((endpoint, type_))
            if seen is None:
                began.append(Refusing(endpoint, type_, count, now, now))
                self._now[endpoint, type_] = began[-1]
            else:
                self._now[endpoint, type_] = seen._replace(requests=seen.requests + count, last_at=now)
        return began

    def ended(self, now: float) -> list[Refusing]:
        """What has ended since the last question, with how many requests it was."""
        over = [each for each in self._now.values() if now - each.last_at >= QUIET_S]
        for each in over:
            del self._now[each.endpoint, each.type]
        return over

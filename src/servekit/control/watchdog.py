"""Which replica of a backend is to be replaced though its process is there: one in which a call hangs, or that is worn.
Pure: the time is passed in, and nothing is done here."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from servekit.backoff import Backoff
from servekit.config import BackendConfig
from servekit.control.plan import ReplicaState
from servekit.wire.control_frames import Report

JITTER = 0.1
"""By so much of ``max_requests``, more or less, replicas differ: those that started together must not all be worn at
once."""
FIRST_RECYCLE_S, LONGEST_RECYCLE_S = 1.0, 600.0
"""Between two replicas of a backend that are replaced for their memory: a handler that needs more than it may from its
start is not to be loaded again and again."""


@dataclass(frozen=True)
class WatchedReplica:
    """One replica, as far as these decisions depend on it."""

    id: str
    state: ReplicaState
    report: Report
    overdue_s: float = 0.0
    """How far beyond its deadline the call is that has held a slot for longest beyond it."""
    worn: bool = False
    """The replica is being recycled."""


class Watchdog:
    """Decides for one backend. It remembers what it has decided, and expects that to be done."""

    def __init__(self) -> None:
        self._doublings = 0
        self._well_since: float | None = None
        self._next_hang = 0.0
        """Until then the replacement of the last hung replica is waited for."""
        self._next_recycling = 0.0
        self._recycled_at = 0.0
        self._recyclings = Backoff(FIRST_RECYCLE_S, LONGEST_RECYCLE_S)

    def grace_s(self, config: BackendConfig) -> float:
        """How long a call may hold a slot beyond its deadline now: ``hang_grace_s``, doubled by each replica that
        hung of late, up to ``startup_timeout_s``. `float("inf")` where nothing is to be replaced for that."""
        if config.hang_grace_s is None:
            return float("inf")
        return min(config.hang_grace_s * 2.0**self._doublings, max(config.hang_grace_s, config.startup_timeout_s))

    def hung(self, now: float, config: BackendConfig, wanted: int, replicas: Sequence[WatchedReplica]) -> str:
        """The id of the replica in which a call hangs, to be replaced; or an empty text. Called about once a second.

        One at a time: no other counts before ``wanted`` are ready again, or could have become so. The grace is halved
        when no slot has been held for ``hang_grace_s`` beyond a deadline for as long as the grace is.
        """
        ready = [replica for replica in replicas if replica.state is ReplicaState.READY]
        worst = max(ready, key=lambda replica: replica.overdue_s, default=None)
        grace_s = self.grace_s(config)
        if config.hang_grace_s is None or worst is None:
            return ""
        if worst.overdue_s < config.hang_grace_s:
            self._is_well(now, grace_s)
            return ""
        self._well_since = None
        if worst.overdue_s < grace_s or (len(ready) < wanted and now < self._next_hang):
            return ""
        self._doublings += grace_s < config.startup_timeout_s
        self._next_hang = now + config.startup_timeout_s
        return worst.id

    def _is_well(self, now: float, grace_s: float) -> None:
        if self._well_since is None or not self._doublings:
            self._well_since = now
        elif now - self._well_since >= grace_s:
            self._doublings -= 1
            self._well_since = now

    def worn(
        self, now: float, config: BackendConfig, wanted: int, replicas: Sequence[WatchedReplica]
    ) -> tuple[str, str]:
        """The id of a replica that is to be recycled, and why; or two empty texts.

        One at a time: only where ``wanted`` are ready, and none is on its way in or out.
        """
        if len(replicas) != wanted or any(each.worn or each.state is not ReplicaState.READY for each in replicas):
            return "", ""
        for replica in replicas:
            if config.max_requests is not None:
                limit = most_requests(config.max_requests, replica.id)
                if replica.report.requests >= limit:
                    return replica.id, f"it has had {replica.report.requests} requests (max_requests)"
            used, most = replica.report.memory_bytes, config.max_memory_bytes
            if most is not None and used > most and now >= self._next_recycling:
                self._next_recycling = now + self._recyclings.next(now - self._recycled_at)
                self._recycled_at = now
                return replica.id, f"its process has {used} bytes of memory (max_memory_bytes is {most})"
        return "", ""


def most_requests(max_requests: int, replica_id: str) -> float:
    """After how many requests the replica of this id is worn: the same after a change of controllers."""
    return max_requests * (1 + JITTER * random.Random(replica_id).uniform(-1, 1))

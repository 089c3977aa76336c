"""The state that all requests of one ingress worker share."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from servekit.config import COMMON_METHODS
from servekit.ingress.copy_pauses import CopyPauses
from servekit.ingress.deadlines import Deadlines
from servekit.ingress.recent import RecentRequests, RequestKind
from servekit.ingress.slowness import Slowness
from servekit.ingress.spool import SpoolSpace
from servekit.ingress.suspects import Suspects
from servekit.ingress.weights import WeightsHistory
from servekit.interfaces import ReplicaView, RequestRecord
from servekit.tallies import OTHER, QUICK_HANDLER_US, QUICK_THERE_US, QUICK_WAIT_US, Tallies
from servekit.wire.frames import Frame

RECENT_REQUESTS = 10_000
"""Requests that are remembered, of one ingress worker."""
REMARKABLE_REQUESTS = 2_000
"""Those that failed are remembered longer, and so are those that were slow: so many of each."""

MOST_EJECTED = 100
"""Ejections of which the controller is told at a time; those that are the oldest go."""


class EndedKind:
    """What is counted of the requests of one kind that have ended, beside what is counted at once."""

    __slots__ = ("number", "quick_handler_us", "quick_s", "quick_wait_s", "slots")

    def __init__(self, slots: memoryview, number: int) -> None:
        """``slots``: of the tallies' record; ``number``: of the `RequestKind`."""
        self.slots = slots
        self.number = number
        self.quick_s = 0.0
        """How long the quick ones took together, waited to be sent, and were in the handler: not in the slots yet."""
        self.quick_wait_s = 0.0
        self.quick_handler_us = 0

    def settle(self) -> None:
        """Move how long the quick ones took to the slots."""
        wait_us, handler_us = int(self.quick_wait_s * 1e6), self.quick_handler_us
        self.slots[QUICK_WAIT_US] += wait_us
        self.slots[QUICK_HANDLER_US] += handler_us
        # The clocks are those of two processes.
        self.slots[QUICK_THERE_US] += max(0, int(self.quick_s * 1e6) - wait_us - handler_us)
        self.quick_s, self.quick_wait_s, self.quick_handler_us = 0.0, 0.0, 0


class Shared:
    """The clock, the deadlines, the room for spools, the suspects, and the counts since the last report to the
    controller."""

    def __init__(
        self,
        clock: asyncio.AbstractEventLoop,
        spools: SpoolSpace,
        replica_wanted: Callable[[], None],
        observe: Callable[[RequestRecord], None] | None = None,
        secret: bytes = b"",
        tallies: Tallies | None = None,
    ) -> None:
        """
        Args:
            clock: has the `time` and `call_later` of the event loop.
            spools: the room for bytes that are to wait on the disk.
            replica_wanted: called when a request has to wait for a replica to start, or one has died: the controller is
                to hear of that at once.
            observe: called with every request that has ended.
            secret: that of the instance, for `Suspects`.
            tallies: where requests that have ended are counted; default, in memory.
        """
        self.now = clock.time
        self.later = clock.call_later
        self.deadlines = Deadlines(clock)
        self.spools = spools
        self.replica_wanted = replica_wanted
        self.observe = observe
        self.tell_controller: Callable[[Frame], bool] = lambda frame: False
        """Sends a frame that may be left out: False, it was, for there is no controller, or it is behind."""
        self.copies: Counter[str] = Counter()
        """Copies of requests that are at replicas, by backend: see `servekit.ingress.shadow`."""
        self.copy_pauses = CopyPauses(self.now)
        self.suspects = Suspects(secret)
        self.tallies = tallies or Tallies(None)
        self.kinds: dict[tuple[Any, ReplicaView | str, str, int, str], EndedKind] = {}
        """Found again in one step, by endpoint, replica or else backend, method, status and error. Emptied once a
        second, so that it holds on to nothing that is gone."""
        self.recent = RecentRequests(RECENT_REQUESTS)
        """The requests that have ended last."""
        self.slowness = Slowness(self.recent)
        """Which requests are remembered as slow."""
        self.trace_share = 0.0
        """Of the traces that begin here, how many are sampled; 0: none begins."""
        self.failed: deque[RequestRecord] = deque(maxlen=REMARKABLE_REQUESTS)
        """Those with a 5xx, and those whose answers were broken off."""
        self.slow: deque[RequestRecord] = deque(maxlen=REMARKABLE_REQUESTS)
        """Those of the others that were slow for their endpoint: see `servekit.ingress.slowness`."""
        self.weights = WeightsHistory()
        self.set_clocks()
        self.snapshot = 0
        """The version of the snapshot that is applied."""
        self.refused: Counter[tuple[str, str]] = Counter()
        """Requests that servekit itself answered with an error, by endpoint and the error's type."""
        self.failovers: Counter[str] = Counter()
        """Requests by endpoint that were dispatched while some of its backends had no live replica."""
        self.ejected: deque[tuple[str, str, str]] = deque(maxlen=MOST_EJECTED)
        """The replicas that get no requests for a while, each with its backend and why."""
        self.served: dict[str, str] = {}
        """Replicas that have died, or seem to have, and had answered calls: each with its backend."""

    def set_clocks(self) -> None:
        self.recent.epoch_s = time.time() - time.monotonic()

    def new_kind(
        self, owner: Any, backend: str, replica: ReplicaView | None, method: str, status: int, error: str
    ) -> EndedKind:
        """What counts the requests that ended so, of which there has been none, or none for a second.

        ``owner``: the endpoint, with a ``name`` and a ``route_text``.
        """
        replica_id = "" if replica is None else replica.id
        alike = RequestKind(owner.name, owner.route_text, backend, replica_id, method, status, error)
        number = self.recent.number_of(alike)
        if number is None:
            self.recent.forget()
            self.settle_kinds()
            number = self.recent.number_of(alike)
            assert number is not None
        named = method if method in COMMON_METHODS else OTHER
        slots = self.tallies.add(("request", owner.name, backend, named, status, error))
        kind = self.kinds[owner, replica or backend, method, status, error] = EndedKind(slots, number)
        return kind

    def settle_kinds(self) -> None:
        """Move to the tallies what is not in there yet. Their slots may be elsewhere afterwards."""
        for kind in self.kinds.values():
            kind.settle()
        self.kinds.clear()

    def take_refused(self) -> list[tuple[str, str, int]]:
        """By endpoint and the error's type."""
        refused, self.refused = self.refused, Counter()
        return [(*key, count) for key, count in refused.items()]

    def take_failovers(self) -> Counter[str]:
        failovers, self.failovers = self.failovers, Counter()
        return failovers

    def take_ejected(self) -> list[tuple[str, str, str]]:
        ejected = [*self.ejected]
        self.ejected.clear()
        return ejected

    def take_served(self) -> dict[str, str]:
        served, self.served = self.served, {}
        return served

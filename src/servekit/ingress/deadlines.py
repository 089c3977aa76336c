"""The deadlines of many requests, by one timer per worker rather than a timer per request.

Most requests end long before their deadline. So nothing is kept in order: the timer runs to the earliest deadline that
was seen, and then finds the earliest of those that are still open.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

GRAIN_S = 0.02
"""The timer strikes no more often than this, however many deadlines pass one after another."""


class Expiring(Protocol):
    expires: float

    def expired(self) -> None: ...


class Deadlines:
    """The deadlines of one worker. `expired` of an item is called up to `GRAIN_S` after its time, by the loop's clock.

    To add an item, put it into `open`, and call `plan` where the item expires before `earliest`.
    """

    __slots__ = ("_loop", "_timer", "earliest", "open")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self.open: set[Expiring] = set()
        """Items that are not over. Whoever ends one takes it out."""
        self.earliest = math.inf
        """When the timer strikes."""

    def plan(self, at: float) -> None:
        """Have the timer strike at this time, which is before `earliest`."""
        self.close()
        self.earliest = at
        self._timer = self._loop.call_later(max(0.0, at - self._loop.time()), self._strike)

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _strike(self) -> None:
        self._timer = None
        self.earliest = math.inf
        now = self._loop.time()
        for item in [item for item in self.open if item.expires <= now]:
            if item in self.open:  # Not ended by the end of another.
                self.open.discard(item)
                item.expired()
        if self.open:
            soonest = max(min(item.expires for item in self.open), now + GRAIN_S)
            if soonest < self.earliest:
                self.plan(soonest)

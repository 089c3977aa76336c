"""Time that stands still until a test moves it: an in-process instance may measure requests' deadlines by it."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Any

from servekit.errors import InvalidInputError
from servekit.inprocess import InProcessInstance

MOST_ADVANCE_S = 86_400.0
"""The longest step: every deadline on the way is looked at."""


class Timer:
    """A call that `StandingTime.call_later` has planned."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class StandingTime:
    """The `time` and `call_later` of an event loop, in the place of one. For that loop's thread alone."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self._now_s

    def call_later(self, delay: float, call: Callable[..., object], *arguments: Any) -> Timer:
        timer = Timer(lambda: call(*arguments))
        heapq.heappush(self._timers, (self._now_s + delay, next(self._order), timer))
        return timer

    def step(self, ends_s: float) -> bool:
        """Go to the next time at which something is due, and call it. False: nothing is up to ``ends_s``, which it is
        then."""
        if not self._timers or self._timers[0][0] > ends_s:
            self._now_s = ends_s
            return False
        due_s, _, timer = heapq.heappop(self._timers)
        self._now_s = max(self._now_s, due_s)
        if not timer.cancelled:
            timer.call()
        return True


class Clock:
    """``serve_instance.clock``: moves the time of an instance, from any thread but the instance's own."""

    def __init__(self, standing: StandingTime, instance: InProcessInstance) -> None:
        self._standing = standing
        self._instance = instance

    @property
    def time_s(self) -> float:
        """Seconds since the instance was started: 0.0 before the first `advance`."""
        return self._standing.time()

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass; return when all requests whose deadline has passed have been answered (504), and
        roll-outs are as far as they are by then.

        What was sent before, over HTTP or by a handle, is read first, and its deadline counted from the time before.
        Deadlines are kept to within 0.04 s: advance past them. Raises `InvalidInputError` for what is no time to wait.
        """
        if not isinstance(seconds, (int, float)) or not 0 <= seconds <= MOST_ADVANCE_S or math.isnan(seconds):
            raise InvalidInputError(f"the clock is advanced by 0 to {MOST_ADVANCE_S:g} s at a time, not {seconds!r}")

        async def advance() -> None:
            await self._instance.read_all()
            ends_s = self._standing.time() + seconds
            while self._standing.step(ends_s):
                await self._instance.rollouts_idle()

        self._instance.submit(advance())

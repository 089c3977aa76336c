"""How long a batch waits for more calls. Pure: the plan is told what happens and when, and has no clock of its own.

Clients that wait for their answers come back together: as many calls as were here at once lately are expected to be
here again soon. So a batch waits for as many and no more, and a call that came alone does not wait at all. The time
that a batch may wait is counted from when the batch could begin: waiting for a slot costs nobody anything.
"""

from __future__ import annotations


class BatchPlan:
    """The plan of the calls that may share a batch. Times are in seconds, by whatever clock the caller has."""

    __slots__ = ("_wait_ends", "_wait_s", "expected", "max_size")

    def __init__(self, max_size: int, wait_s: float) -> None:
        self.max_size = max_size
        self.expected = 1
        """How many calls a batch waits for."""
        self._wait_s = wait_s
        self._wait_ends: float | None = None

    def came(self, waiting: int, running: int) -> None:
        """A call came; ``waiting`` calls wait now, while ``running`` calls are in batches that run."""
        self.expected = max(self.expected, min(waiting + running, self.max_size))

    def wait_s(self, now: float, waiting: int) -> float:
        """How much longer a batch of ``waiting`` calls, which could begin now, is to wait; 0.0: not at all."""
        if waiting >= self.expected:
            return 0.0
        if self._wait_ends is None:
            self._wait_ends = now + self._wait_s
        return max(0.0, self._wait_ends - now)

    def began(self, size: int) -> None:
        """A batch of ``size`` calls begins."""
        if size < self.expected:  # The wait was in vain: fewer are here than were.
            self.expected = max(size, 1)
        self._wait_ends = None

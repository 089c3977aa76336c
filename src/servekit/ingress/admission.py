"""Whether a request can still be answered in time, where others wait: pure, with no clock of its own.

The expected wait is what is ahead in the queue, times the time that a call holds its place in a replica, over the
places: slots, or calls that may be in batches. That time is measured where it counts, at the queue itself, by its
departures (Little's law: the wait is the length over the rate). So batches that are not full, streams, and the share of
the replicas that other ingress workers have are in it.
"""

from __future__ import annotations

import math

FEWEST = 10
"""So many calls leave the queue before there is an estimate, and before it changes; at least as many as there are
places, for calls that began together may end together."""
MARGIN = 1.1
"""A call is given a little more time than answers take: with exactly that, half of those that are sent last would be
thrown away a moment before their end."""
MOST = 0.9
"""No call is expected to need more than so much of the time that it had: or none would be sent any more once answers
had taken too long, and nobody would learn that they do not."""


class Pace:
    """How fast the queue of one backend moves, in one ingress worker. Times are in seconds."""

    __slots__ = ("_held_s", "_left", "_since", "answer_s", "enough_s")

    def __init__(self) -> None:
        self.answer_s = 0.0
        """How long a call takes from when it is sent until its answer begins."""
        self.enough_s = 0.0
        """Any request that has so much time left when it is sent can be answered in time; which of the others can,
        `ends_in_time` tells."""
        self._held_s = 0.0
        """How long a call holds its place, as if this ingress worker had all of them: where it has a half, twice the
        service time. 0.0: not known."""
        self._since = 0.0
        self._left = 0
        """How many calls have left the queue since then."""

    def begin(self, now: float) -> None:
        """A queue forms. What others had of the replicas when there was one before says nothing now; what is measured
        from here on does."""
        self._since, self._left = now, 0
        self._held_s = min(self._held_s, self.answer_s)

    def moved(self, now: float, calls: int, places: int) -> None:
        """So many calls have left the queue, to replicas with so many places in all."""
        self._left += calls
        if self._left >= max(FEWEST, places):
            held_s = (now - self._since) * places / self._left
            self._held_s = (self._held_s + held_s) / 2 if self._held_s else held_s
            self._since, self._left = now, 0

    def answered(self, took_s: float) -> None:
        """The answer to a call came, or its time ran out, so long after it was sent.

        The mean is a high one, for what is sent in vain costs others their answers; but one call that took very long
        says little of the next.
        """
        mean = self.answer_s
        if mean:
            took_s = min(took_s, 4 * mean)
            mean += (took_s - mean) * (0.5 if took_s > mean else 0.1)
        self.answer_s = mean or took_s
        self.enough_s = MARGIN * self.answer_s

    def ends_in_time(self, left_s: float, timeout_s: float, wait_s: float = 0.0) -> bool:
        """Whether a request that has ``left_s`` of its ``timeout_s`` can be answered if it is sent after ``wait_s``."""
        return wait_s + min(self.enough_s, MOST * timeout_s) <= left_s

    def forget(self) -> None:
        """The replicas are gone; those that come may be as fast as they like."""
        self.answer_s = self.enough_s = self._held_s = 0.0

    def wait_s(self, ahead: int, places: int) -> float:
        """How long a request is expected to wait behind so many; 0.0 where nobody knows."""
        return ahead * self._held_s / places if places else 0.0


def retry_after_s(wait_s: float) -> int:
    """When to try again, in whole seconds, as ``Retry-After`` has them (RFC 9110, 10.2.3)."""
    return max(1, math.ceil(wait_s))

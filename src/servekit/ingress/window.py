"""How many calls one replica is handed ahead of their answers.

Late binding by time: what a replica will not get to within about a millisecond waits in the ingress instead, where
whichever replica is free first can take it. A wide window is what makes fast handlers fast (one write carries many
calls); a wide window on slow handlers ruins balance.
"""

from __future__ import annotations

AHEAD_US = 1000.0
"""Work to be handed over beyond the slots."""
SLOW_US = 20_000.0
"""Above this mean service time nothing is handed over beyond the slots."""
WIDEST = 64


class Window:
    """The window of one replica: starts at one call beyond the slots, falls at once, rises slowly.

    Where calls are answered in batches, a full batch is to it what a call is elsewhere.
    """

    __slots__ = ("_batch", "_mean_us", "_slots", "size")

    def __init__(self, slots: int, batch: int = 1) -> None:
        self._slots = slots
        self._batch = batch
        self._mean_us = AHEAD_US
        self.size = (slots + 1) * batch

    def observe(self, service_us: int) -> None:
        """An answer reported how long its call took in the handler."""
        mean = self._mean_us
        if service_us > mean:
            # Slower than thought: believe it soon, for calls already handed over cannot be taken back.
            self._mean_us = mean + (service_us - mean) * 0.5
        else:
            self._mean_us = mean + (service_us - mean) * 0.05
        mean = self._mean_us
        if mean >= SLOW_US:
            self.size = self._slots * self._batch
            return
        target = min(max(1, WIDEST // self._batch), int(AHEAD_US / mean) if mean > 1 else WIDEST) or 1
        ahead = self.size // self._batch - self._slots
        self.size = (self._slots + (target if target <= ahead else ahead + 1)) * self._batch

"""Pauses between tries that fail."""

from __future__ import annotations

FIRST_RESTART_S = 0.1
"""Before a process of servekit's that has ended is started again; then twice as long each time."""
LONGEST_RESTART_S = 10.0


class Backoff:
    """Each pause is twice the one before it, up to the longest. Times are in seconds."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def next(self, lasted_s: float = 0.0) -> float:
        """The pause before the next try. The last one counts as a success if it lasted for longer than the longest
        pause."""
        if lasted_s > self._longest_s:
            self.reset()
        pause_s = min(self._next_s, self._longest_s)
        self._next_s = 2 * pause_s
        return pause_s

    def reset(self) -> None:
        """A try has succeeded: the next pause is the first again."""
        self._next_s = self._first_s

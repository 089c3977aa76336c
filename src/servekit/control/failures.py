"""How often a backend's replicas failed by themselves, and when the next may start."""

from __future__ import annotations

import time

from servekit.errors import ServekitError

FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 30.0
STABLE_S = 30.0
"""A replica that was ready for so long clears its backend's record of failures."""


class Failures:
    """One backend's record."""

    def __init__(self) -> None:
        self.count = 0
        self.failed_starts = 0
        """Since one was ready last."""
        self.not_before = 0.0
        self.start_error: ServekitError | None = None
        """Why the last replica that was never ready was not."""
        self.last: ServekitError | None = None
        """Why the last one that failed did, ready or not."""

    def add(self, error: ServekitError | None, ready_s: float) -> float:
        """One more; returns the pause in seconds."""
        self.count = 1 if ready_s > STABLE_S else self.count + 1
        pause_s = min(FIRST_RETRY_S * 2.0 ** (self.count - 1), LONGEST_RETRY_S)
        self.not_before = time.monotonic() + pause_s
        self.last = error
        if not ready_s:
            self.start_error = error
            self.failed_starts += 1
        return pause_s

"""Backends that get no copies of requests for a while, as one was not answered in time, and may hold a slot yet."""

from __future__ import annotations

from collections.abc import Callable

FIRST_S = 60.0
LONGEST_S = 600.0
"""Each pause is twice as long as the one before it, up to this, until a copy is answered."""


class CopyPauses:
    """By the names of backends."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._pauses: dict[str, tuple[float, float]] = {}
        """When each ends, or has ended, and how long it is."""

    def begin(self, backend: str) -> None:
        """A copy was given up there."""
        now = self._now()
        self._pauses = {name: each for name, each in self._pauses.items() if now < each[0] + LONGEST_S}
        _, before_s = self._pauses.get(backend, (now, 0.0))
        length_s = min(LONGEST_S, 2 * before_s or FIRST_S)
        self._pauses[backend] = now + length_s, length_s

    def end(self, backend: str) -> None:
        """A copy was answered there: the next pause is a first one."""
        self._pauses.pop(backend, None)

    def is_on(self, backend: str) -> bool:
        pause = self._pauses.get(backend)
        return pause is not None and self._now() < pause[0]

"""What ingress workers that share a slow replica are told of each other's calls."""

from __future__ import annotations

from collections.abc import Callable

TOLD_ABOVE_US = 1000.0
"""Mean service time above which they are told; below it, telling costs too much."""


class Load:
    """Of one replica. Once told of some calls, ingress workers are told until there are none any more."""

    __slots__ = ("_mean_us", "_tell", "_told")

    def __init__(self, tell: Callable[[int], bool]) -> None:
        """``tell(calls)`` tells every ingress worker; False where there is only one, who knows."""
        self._tell = tell
        self._told = 0
        self._mean_us = 0.0

    def changed(self, calls: int) -> None:
        """A call begins or has ended; so many are here now."""
        if calls != self._told and (self._told or self._mean_us > TOLD_ABOVE_US):
            self._told = calls if self._tell(calls) else 0

    def served(self, service_us: int) -> None:
        """A call took so long."""
        self._mean_us += (service_us - self._mean_us) * 0.2

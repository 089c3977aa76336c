"""How a process of servekit's is: its memory, descriptors and CPU time, and how late its event loop is."""

from __future__ import annotations

import asyncio
import os

import msgspec

from servekit.processes import open_descriptors, resident_bytes

LOOK_EVERY_S = 0.5


class Vitals(msgspec.Struct, array_like=True, frozen=True):
    memory_bytes: int = 0
    """Resident."""
    descriptors: int = 0
    """Open."""
    loop_lag_s: float = 0.0
    """How late its event loop was, at the most, since it was looked at last."""


class LoopLag:
    """How late the running event loop calls what is due, looked at twice a second."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worst_s = 0.0
        self._plan()

    def take(self) -> float:
        """The most since the last call."""
        worst_s, self._worst_s = max(0.0, self._worst_s, self._loop.time() - self._due), 0.0
        return worst_s

    def close(self) -> None:
        self._timer.cancel()

    def _plan(self) -> None:
        self._due = self._loop.time() + LOOK_EVERY_S
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._worst_s = max(self._worst_s, self._loop.time() - self._due)
        self._plan()


def own_vitals(lag: LoopLag) -> Vitals:
    """Those of this process."""
    return Vitals(resident_bytes(), open_descriptors(), lag.take())


def cpu_us() -> int:
    """The CPU time that this process has taken, in microseconds."""
    times = os.times()
    return int((times.user + times.system) * 1e6)

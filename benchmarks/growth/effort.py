"""How much is measured, and for how long at most."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """The steps of each curve; ``--quick`` takes fewer."""

    repeats: int = 5
    seconds: float = 3.0
    warmup_s: float = 1.0
    replicas: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
    endpoints: tuple[int, ...] = (1, 10, 100, 1_000, 10_000)
    changes: int = 10
    """How often one endpoint is created, or changed, at each size."""
    connections: tuple[int, ...] = (1, 4, 16, 64, 256, 1_000)
    headers: tuple[int, ...] = (1, 5, 10, 25, 50, 100)
    ingress_workers: tuple[int, ...] = (1, 2)
    budget_s: float = 3_600.0
    """Nothing is begun after this time: what is left then is reported as not measured."""


FULL = Effort()
QUICK = Effort(
    repeats=1,
    seconds=1.0,
    replicas=(1, 2, 4, 8),
    endpoints=(1, 10, 100, 1_000),
    changes=5,
    connections=(1, 16, 64, 256, 1_000),
    headers=(1, 10, 100),
    budget_s=240.0,
)


class BudgetError(Exception):
    """The time is spent; the message says so."""


class Budget:
    """The time that there is, from now on."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self._began = time.monotonic()

    @property
    def spent_s(self) -> float:
        return time.monotonic() - self._began

    def check(self) -> None:
        """Raises `BudgetError` where nothing more is to be begun."""
        if self.spent_s > self._budget_s:
            raise BudgetError(f"{self._budget_s:.0f} s were spent before it")

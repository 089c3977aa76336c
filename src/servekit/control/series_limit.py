"""How many series the replicas of one backend may have together, whoever of them came first and is gone by now."""

from __future__ import annotations

from typing import Any

import msgspec

from servekit.wire.control_frames import MetricFamily

MOST_BACKEND_SERIES = 5_000
"""As Prometheus counts them: a histogram has one for each bucket, and three more."""


class SeriesLimit:
    """The series of one backend. A series that was admitted once stays; gauges go with their replica."""

    def __init__(self, most: int = MOST_BACKEND_SERIES) -> None:
        self._most = most
        self._admitted: dict[str, dict[Any, int]] = {}
        """What each series costs, by replica for gauges, and else by an empty name."""
        self._used = 0

    def admit(self, family: MetricFamily, replica: str) -> tuple[MetricFamily, int]:
        """The family with those of its series for which there is room, and the number of the others."""
        cost = len(family.bounds) + 3 if family.kind == "histogram" else 1
        admitted = self._admitted.setdefault(replica if family.kind == "gauge" else "", {})
        series = {}
        for values, numbers in family.series.items():
            key = family.name, family.labels, values
            if key not in admitted:
                if self._used + cost > self._most:
                    continue
                admitted[key] = cost
                self._used += cost
            series[values] = numbers
        refused = len(family.series) - len(series)
        return (msgspec.structs.replace(family, series=series) if refused else family), refused

    def forget_replica(self, replica: str) -> None:
        self._used -= sum(self._admitted.pop(replica, {}).values())

    def forget_metric(self, name: str) -> None:
        for admitted in self._admitted.values():
            for key in [key for key in admitted if key[0] == name]:
                self._used -= admitted.pop(key)

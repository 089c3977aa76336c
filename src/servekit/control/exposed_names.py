"""The names under which Prometheus sees metrics: no two metrics may share one, or no scrape is taken."""

from __future__ import annotations

_SUFFIXES = {
    "counter": ("", "_total", "_created"),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_sum", "_count", "_created"),
}
"""What each kind adds to its name, or may, in one of the formats."""


class ExposedNames:
    """The metrics of all backends, and which of them has which name."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        """By metric."""
        self._owners: dict[str, str] = {}
        """The metric that has an exposed name."""

    def in_the_way(self, metric: str, kind: str) -> set[str]:
        """The metrics that have a name which this one needs; the metric itself, where it is of another kind."""
        if self.kinds.get(metric) == kind:
            return set()
        return {self._owners[name] for name in _exposed(metric, kind) if name in self._owners}

    def take(self, metric: str, kind: str) -> bool:
        """Whether the metric has its names, from now on if not before."""
        if self.in_the_way(metric, kind):
            return False
        self.kinds[metric] = kind
        self._owners |= dict.fromkeys(_exposed(metric, kind), metric)
        return True

    def release(self, metric: str) -> None:
        for name in _exposed(metric, self.kinds.pop(metric)):
            del self._owners[name]


def _exposed(metric: str, kind: str) -> list[str]:
    return [metric + suffix for suffix in _SUFFIXES[kind]]

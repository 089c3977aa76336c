"""What replicas have told, as families: counters and histograms summed by backend, gauges by replica. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from servekit.control import metric_sums
from servekit.wire.control_frames import MetricFamily

if TYPE_CHECKING:
    from prometheus_client import Metric


class ToldByReplica(msgspec.Struct, array_like=True):
    """What a living replica told last."""

    backend: str
    families: dict[str, MetricFamily] = {}
    dropped: int = 0
    refused: dict[str, int] = {}
    """By metric, series for which there was no room here."""


class BackendBase(msgspec.Struct, array_like=True):
    """What the ended replicas of a backend come to."""

    families: dict[str, list[MetricFamily]] = {}
    dropped: int = 0


@dataclass(frozen=True)
class ToldMetrics:
    """What there was at one moment."""

    bases: Mapping[str, BackendBase]
    """By backend."""
    living: Mapping[str, ToldByReplica]
    """By replica."""
    kinds: Mapping[str, str]
    """By metric."""

    def parts(self, first: Collection[str]) -> Iterator[Metric]:
        """Of each metric a part for each backend, those of the backends ``first`` before all others."""
        from prometheus_client import Metric

        backends = {*self.bases, *(living.backend for living in self.living.values())}
        for backend in sorted(backends, key=lambda name: (name not in first, name)):
            parts: dict[str, Metric] = {}
            for family, labels in self._families(backend):
                name = family.name
                if name not in parts:
                    parts[name] = Metric(name, family.documentation, family.kind)
                _add_samples(parts[name], family, labels)
            yield from parts.values()

    def _families(self, backend: str) -> Iterator[tuple[MetricFamily, dict[str, str]]]:
        """Those of a backend, each with labels beside its own."""
        base = self.bases.get(backend, BackendBase()).families
        living = {replica: each for replica, each in self.living.items() if each.backend == backend}
        for name in dict.fromkeys(chain(base, *(each.families for each in living.values()))):
            told = {replica: each.families[name] for replica, each in living.items() if name in each.families}
            if self.kinds.get(name) == "gauge":
                for replica, family in told.items():
                    yield family, {"backend": backend, "replica": replica}
            else:
                for family in metric_sums.total([*base.get(name, ()), *told.values()]):
                    yield family, {"backend": backend}


def _add_samples(metric: Metric, family: MetricFamily, more: dict[str, str]) -> None:
    name, bounds = family.name, family.bounds
    for values, numbers in family.series.items():
        labels = {**more, **dict(zip(family.labels, values, strict=True))}
        if family.kind != "histogram":
            metric.add_sample(f"{name}_total" if family.kind == "counter" else name, labels, numbers[0])
            continue
        *counts, count, summed = numbers
        for bound, number in zip((*map(_bound_text, bounds), "+Inf"), (*counts, count), strict=True):
            metric.add_sample(f"{name}_bucket", {**labels, "le": bound}, number)
        metric.add_sample(f"{name}_count", labels, count)
        metric.add_sample(f"{name}_sum", labels, summed)


def _bound_text(bound: float) -> str:
    return repr(float(bound))

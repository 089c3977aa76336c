"""What a roll-out's versions did, as its judge sees it: pure functions of what was counted and reported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import add, sub
from typing import Any

from servekit.control.quantiles import quantile
from servekit.control.rollout import Counted
from servekit.control.totals import Sums
from servekit.interfaces import Reported, Sample
from servekit.tallies import FINE_BOUNDS, FINE_BUCKETS
from servekit.wire.control_frames import MetricFamily

_NONE = (0,) * FINE_BUCKETS


def counted(
    sums: Sums, endpoint: str, version: str, reports: Mapping[str, Reported], shadow: tuple[int, int]
) -> Counted:
    """What there is of a version by now.

    Args:
        reports: what the version's handlers have reported.
        shadow: its pairs as a shadow, and those of them that differ.
    """
    fine, errors = (
        tuple(sums.get(("judged", endpoint, version, how), _NONE)[:FINE_BUCKETS]) for how in ("ok", "error")
    )
    return Counted(tuple(map(add, fine, errors)), sum(errors), dict(reports), *shadow)


def reports_of(families: Iterable[MetricFamily]) -> dict[str, Reported]:
    """What handlers have reported, by name, from the families of `REPORTED`."""
    found: dict[str, Reported] = {}
    for family in families:
        for (name,), (*_, count, total) in family.series.items():
            before = found.get(name, Reported())
            found[name] = Reported(before.count + int(count), before.total + total)
    return found


def sample(now: Counted, base: Counted) -> Sample:
    """What has come since ``base``."""
    durations = tuple(map(sub, now.durations, base.durations or _NONE))
    reports = {}
    for name, report in now.reports.items():
        before = base.reports.get(name, Reported())
        reports[name] = Reported(report.count - before.count, report.total - before.total)
    return Sample(
        sum(durations),
        now.errors - base.errors,
        FINE_BOUNDS,
        durations,
        reports,
        *_since((now.shadow_pairs, now.shadow_differing), (base.shadow_pairs, base.shadow_differing)),
    )


def _since(now: tuple[int, int], base: tuple[int, int]) -> tuple[int, int]:
    """Reports of shadows begin again with a controller that is started again, and with a shadow that is."""
    return (now[0] - base[0], max(0, now[1] - base[1])) if now[0] >= base[0] else now


def told(sample: Sample) -> dict[str, Any]:
    """A sample, for people and programs."""
    p50, p99 = (quantile(sample.durations, sample.bounds, share) for share in (0.5, 0.99))
    return {
        "requests": sample.requests,
        "errors": sample.errors,
        "error_rate": sample.errors / sample.requests if sample.requests else None,
        "p50_s": p50,
        "p99_s": p99,
        "reports": {name: {"count": each.count, "mean": each.mean} for name, each in sample.reports.items()},
    }

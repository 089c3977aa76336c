"""What was measured, as a text table, JSON, a page's section and a plot."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases import Figure


@dataclass
class Report:
    """``samples``: the values of each figure by peer, one a repeat. ``missing``: what was not measured, and why."""

    machine: dict[str, str]
    versions: dict[str, str] = field(default_factory=dict)
    samples: dict[Figure, dict[str, list[float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, figure: Figure, peer: str, value: float) -> None:
        self.samples.setdefault(figure, {}).setdefault(peer, []).append(value)

    def all_samples(self) -> dict[Figure, dict[str, list[float]]]:
        """What was measured, and what follows from it."""
        return {**self.samples, **memory_per_replica(self.samples)}


@dataclass(frozen=True)
class Summary:
    median: float
    low: float
    high: float


def summary(values: Sequence[float]) -> Summary:
    return Summary(statistics.median(values), min(values), max(values))


def memory_per_replica(samples: Mapping[Figure, Mapping[str, list[float]]]) -> dict[Figure, dict[str, list[float]]]:
    """The memory that each replica beyond the first adds, of the peers that were seen with more than one."""
    by_count = {
        int(figure.name.split()[-1]): found for figure, found in samples.items() if "memory, rep" in figure.name
    }
    if len(by_count) < 2:
        return {}
    few, many = min(by_count), max(by_count)
    added = {
        peer: [(b - a) / (many - few) for a, b in zip(by_count[few][peer], by_count[many][peer], strict=False)]
        for peer in by_count[few].keys() & by_count[many].keys()
    }
    return {Figure("memory of each replica added", "MB"): added}


def advantage(figure: Figure, ours: float, theirs: float) -> float | None:
    """How many times better ``ours`` is: above 1, ours is ahead. None where the ratio says nothing."""
    better, worse = (ours, theirs) if figure.better == "high" else (theirs, ours)
    if min(better, worse) <= 0 or figure.name.startswith("memory grown"):
        return None
    return better / worse


# -- text ------------------------------------------------------------------------------------------------------------


def text(report: Report, order: Sequence[str]) -> str:
    """The whole report, for people; ``order`` has the peers' names, the first being what the others are compared to."""
    parts = ["\n".join(f"{name}: {value}" for name, value in report.machine.items())]
    parts.append("\n".join(f"{peer}: {version}" for peer, version in report.versions.items()))
    parts += [table(figure, found, order) for figure, found in report.all_samples().items()]
    if report.missing:
        parts.append("\n".join(["not measured:", *(f"  {what}: {why}" for what, why in report.missing.items())]))
    return "\n\n".join(parts) + "\n"


def table(figure: Figure, found: Mapping[str, list[float]], order: Sequence[str]) -> str:
    """One figure of each peer: median, minimum, maximum, and how many times better the first of ``order`` is."""
    ours = summary(found[order[0]]).median if order[0] in found else None
    lines = [f"{figure.name} [{figure.unit}], {figure.better} is good; median (min to max), advantage of {order[0]}"]
    for peer in order:
        if peer in found:
            seen = summary(found[peer])
            times = None if ours is None else advantage(figure, ours, seen.median)
            spread = f"({number(seen.low)} to {number(seen.high)})" if len(found[peer]) > 1 else ""
            lines.append(
                f"  {peer:<17} {number(seen.median):>10} {spread:<24} {'' if times is None else f'{times:7.2f}x'}"
            )
    return "\n".join(line.rstrip() for line in lines)


def number(value: float) -> str:
    """With three digits that count, and none after the point from 100 on."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 if abs(value) < 10 else 1}f}"


# -- files -----------------------------------------------------------------------------------------------------------


def as_json(report: Report) -> str:
    figures: list[dict[str, Any]] = [
        {
            "name": figure.name,
            "unit": figure.unit,
            "better": figure.better,
            "peers": {
                peer: {"median": statistics.median(values), "min": min(values), "max": max(values), "values": values}
                for peer, values in found.items()
            },
        }
        for figure, found in report.all_samples().items()
    ]
    whole = {"machine": report.machine, "versions": report.versions, "figures": figures, "not measured": report.missing}
    return json.dumps(whole, indent=2) + "\n"


def fill_page(page: str, section: str, name: str = "figures") -> str:
    """``page`` with ``section`` between the two marks of that name, in the place of what was there."""
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, begin, rest = page.partition(first)
    _, end, tail = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"the page has no place for figures: it needs the lines {first!r} and {last!r}")
    return f"{head}{first}\n```text\n{section.rstrip()}\n```\n{last}{tail}"


def plot(report: Report, order: Sequence[str], path: Path) -> None:
    """Bars of each peer's median, the range as a line: one panel for each figure that is not a latency."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "servekit"  # the same figures, the same file
    from matplotlib import pyplot

    shown = {f: found for f, found in report.all_samples().items() if not f.name.endswith((", median", "/s", "p99"))}
    columns = 3
    rows = math.ceil(len(shown) / columns)
    picture, axes = pyplot.subplots(rows, columns, figsize=(15, 2.6 * rows), squeeze=False)
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for axis, (figure, found) in zip(axes.flat, shown.items(), strict=False):
        names = [peer for peer in reversed(order) if peer in found]
        seen = [summary(found[peer]) for peer in names]
        errors = [[s.median - s.low for s in seen], [s.high - s.median for s in seen]]
        colours = ["tab:orange" if name.startswith("servekit") else "tab:grey" for name in names]
        axis.barh(names, [s.median for s in seen], xerr=errors, color=colours)
        for row, s in enumerate(seen):
            axis.annotate(
                number(s.median), (max(s.median, 0), row), xytext=(3, 0), textcoords="offset points", va="center"
            )
        axis.set_title(f"{figure.name} [{figure.unit}]", fontsize=10)
        axis.margins(x=0.18)
    machine = "; ".join(f"{name}: {value}" for name, value in report.machine.items())
    picture.suptitle(machine, fontsize=8)
    picture.tight_layout()
    picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)

"""A curve: what was measured at each step of something that grows. As a text table, JSON and a plot."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report import number, summary


@dataclass(frozen=True)
class Curve:
    """What grows is ``x``; what is measured, ``name`` in ``unit``; ``better`` is ``high`` or ``low``."""

    name: str
    x: str
    unit: str
    better: str = "low"


@dataclass
class Curves:
    """``samples``: the values of each curve by x, one a repeat. ``missing``: what was not measured, and why."""

    machine: dict[str, str]
    samples: dict[Curve, dict[int, list[float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, curve: Curve, x: int, value: float) -> None:
        self.samples.setdefault(curve, {}).setdefault(x, []).append(value)


def text(curves: Curves) -> str:
    """All of it, for people."""
    parts = ["\n".join(f"{name}: {value}" for name, value in curves.machine.items())]
    parts += [table(curve, found) for curve, found in curves.samples.items()]
    if curves.missing:
        parts.append("\n".join(["not measured:", *(f"  {what}: {why}" for what, why in curves.missing.items())]))
    return "\n\n".join(parts) + "\n"


def table(curve: Curve, found: Mapping[int, list[float]]) -> str:
    """Median, minimum and maximum at each x, and the median in parts of that at the lowest x."""
    first = summary(found[min(found)]).median
    lines = [f"{curve.name} [{curve.unit}], {curve.better} is good; median (min to max), against the first"]
    for x in sorted(found):
        seen = summary(found[x])
        spread = f"({number(seen.low)} to {number(seen.high)})" if len(found[x]) > 1 else ""
        times = f"{seen.median / first:7.2f}x" if first > 0 else ""
        lines.append(f"  {curve.x} {x:>6,} {number(seen.median):>10} {spread:<24} {times}".rstrip())
    return "\n".join(lines)


def as_json(curves: Curves) -> str:
    shown: list[dict[str, Any]] = [
        {
            "name": curve.name,
            "x": curve.x,
            "unit": curve.unit,
            "better": curve.better,
            "points": [
                {"x": x, "median": statistics.median(found[x]), "min": min(found[x]), "max": max(found[x])}
                for x in sorted(found)
            ],
        }
        for curve, found in curves.samples.items()
    ]
    return json.dumps({"machine": curves.machine, "curves": shown, "not measured": curves.missing}, indent=2) + "\n"


def plot(curves: Curves, path: Path) -> None:
    """One figure of small panels: each curve's median as a line, its range as a band."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "servekit"  # the same figures, the same file
    from matplotlib import pyplot

    columns = 3
    rows = max(1, math.ceil(len(curves.samples) / columns))
    picture, axes = pyplot.subplots(rows, columns, figsize=(15, 2.8 * rows), squeeze=False)
    for axis in axes.flat[len(curves.samples) :]:
        axis.axis("off")
    for axis, (curve, found) in zip(axes.flat, curves.samples.items(), strict=False):
        xs = sorted(found)
        seen = [summary(found[x]) for x in xs]
        axis.plot(xs, [s.median for s in seen], marker="o", color="tab:orange")
        axis.fill_between(xs, [s.low for s in seen], [s.high for s in seen], color="tab:orange", alpha=0.25)
        if xs[-1] > 10 * xs[0]:
            axis.set_xscale("log")
        else:
            axis.set_xticks(xs)
        axis.set_ylim(bottom=0, top=1.1 * max(s.high for s in seen))
        axis.set_title(f"{curve.name} [{curve.unit}]", fontsize=10)
        axis.set_xlabel(curve.x, fontsize=9)
    picture.suptitle("; ".join(f"{name}: {value}" for name, value in curves.machine.items()), fontsize=8)
    picture.tight_layout(rect=(0, 0, 1, 1 - 0.06 / rows))  # below the title
    picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)

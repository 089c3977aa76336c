"""Measure how well requests are spread over replicas of which one is slow: ``python -m benchmarks.routing``."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command_line
from benchmarks.cases import Figure
from benchmarks.command_line import Results, effort_of, prepare_process, say, write
from benchmarks.load import LoadError
from benchmarks.machine import OtherWork, describe, install
from benchmarks.processes import Server, ServerError
from benchmarks.report import Report, as_json, plot, text
from benchmarks.routing.arrivals import largest_share, percentile, poisson
from benchmarks.routing.contenders import CONTENDERS, Contender
from benchmarks.routing.openloop import Observed, open_loop
from benchmarks.servers.uneven import FAST_S, SLOW_S
from benchmarks.venvs import CACHE

REPLICAS = 4
CAPACITY = (REPLICAS - 1) / FAST_S + 1 / SLOW_S
"""Requests a second that the replicas can answer, all together."""
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Effort:
    """``loads``: arrivals, in percent of what the replicas can answer."""

    repeats: int = 5
    seconds: float = 20.0
    warmup_s: float = 3.0
    loads: tuple[int, ...] = (50, 80)
    budget_s: float = 2_400.0
    """No server is started after this time: what is left then is reported as not measured."""


FULL = Effort()
QUICK = Effort(repeats=1, seconds=5.0, warmup_s=1.0, budget_s=240.0)


def main() -> int:
    options = parse_arguments()
    effort = effort_of(options, FULL, QUICK)
    prepare_process()
    report = Report(describe("asyncio, open loop"))
    pythons = install({one.name: one.peer(Path()) for one in options.only}, options.cache, report)
    others, began = OtherWork(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        for repeat, contender in schedule([c for c in options.only if c.name in pythons], effort.repeats):
            spent_s = time.monotonic() - began
            if spent_s > effort.budget_s:
                report.missing[f"{contender.name}, from repeat {repeat}"] = (
                    f"{effort.budget_s:.0f} s were spent before it"
                )
                continue
            say(f"{spent_s:5.0f} s  {repeat}/{effort.repeats}  {contender.name}")
            try:
                measure(contender, pythons[contender.name], repeat, effort, report, Path(scratch))
            except (ServerError, LoadError, OSError) as error:
                report.missing[f"{contender.name}, repeat {repeat}"] = str(error)
                say(f"         {error}")
    say(f"{time.monotonic() - began:5.0f} s  done")
    report.machine["other work meanwhile"] = str(others)
    order = [contender.name for contender in options.only]
    results = Results(text(report, order), lambda: as_json(report), lambda path: plot(report, order, path))
    write(results, options, "routing")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = command_line.parser("routing", __doc__, "about four minutes (once installed), and less exact", FULL, QUICK)
    parser.add_argument("--only", type=named, default=CONTENDERS, metavar="NAMES", help="beginnings: default,ray")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="FOLDER", help=f"for the venvs; default {CACHE}")
    return parser.parse_args()


def named(names: str) -> tuple[Contender, ...]:
    """The contenders whose names begin with one of ``names``, which have commas between them."""
    found = command_line.named(names, [one.name for one in CONTENDERS], "contender", beginnings=True)
    return tuple(contender for contender in CONTENDERS if contender.name in found)


def schedule(contenders: Sequence[Contender], repeats: int) -> Iterator[tuple[int, Contender]]:
    """Every contender once a repeat, every other time in the opposite order."""
    for repeat in range(1, repeats + 1):
        for contender in contenders if repeat % 2 else reversed(contenders):
            yield repeat, contender


def measure(contender: Contender, python: str, repeat: int, effort: Effort, report: Report, scratch: Path) -> None:
    """Start one server, and offer it each load. Every contender gets the same arrivals in the same repeat."""
    peer = contender.peer(Path(tempfile.mkdtemp(dir=scratch)))
    with Server(peer, python, "uneven", REPLICAS, scratch) as server:
        for load in effort.loads:
            arrivals = poisson(CAPACITY * load / 100, effort.warmup_s + effort.seconds, seed=repeat)
            observed = asyncio.run(
                open_loop(server.port, "/uneven", contender.ingress_workers, arrivals, effort.warmup_s)
            )
            for figure, value in figures(observed, load):
                report.add(figure, contender.name, value)


def figures(observed: Observed, load: int) -> Iterator[tuple[Figure, float]]:
    at = f"at {load} % of capacity"
    for percent in PERCENTILES:
        yield Figure(f"p{percent} of latency {at}", "ms"), percentile(observed.latencies_ms, percent)
    yield Figure(f"answers by the slow replica {at}", "%"), 100 * observed.bodies["slow"] / observed.bodies.total()
    yield Figure(f"answers by the busiest ingress worker {at}", "%"), largest_share([*observed.workers.values()])


if __name__ == "__main__":
    sys.exit(main())

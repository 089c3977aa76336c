"""Try the judges of roll-outs on versions of which is known how they differ: ``python -m benchmarks.judges``.

Nothing is served: how many requests of a version fail, and how long they take, is drawn. So the figures are the same on
every machine. Some twenty minutes of CPU time, spread over as many cores as there are; ``--rollouts 500`` takes one.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy

from benchmarks.report import fill_page
from servekit.interfaces import RolloutJudge, Ruling, Sample, Verdict
from servekit.tallies import FINE_BOUNDS
from servekit_judges import Sequential, Threshold

MEDIAN_S, SPREAD = 0.05, 0.6
"""Of the latency, which is log-normal."""
NORMAL = statistics.NormalDist()
P90_S, P99_S = (MEDIAN_S * math.exp(SPREAD * NORMAL.inv_cdf(quantile)) for quantile in (0.9, 0.99))
SLOW_BOUND = next(at for at, bound in enumerate(FINE_BOUNDS) if bound >= P99_S)
ALPHA = 0.05


# -- versions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Version:
    """``tail``: how many times longer its 99th percentile is; what is below the 90th is as it was."""

    error_rate: float
    tail: float = 1.0

    def chances(self) -> Sequence[float]:
        """Of each bucket of the histogram."""
        power = 1 + math.log(self.tail) / math.log(P99_S / P90_S)
        normal_s = [bound if bound <= P90_S else P90_S * (bound / P90_S) ** (1 / power) for bound in FINE_BOUNDS]
        below = [0.0, *(NORMAL.cdf(math.log(bound / MEDIAN_S) / SPREAD) for bound in normal_s), 1.0]
        return [high - low for low, high in pairwise(below)]


@dataclass(frozen=True)
class Step:
    """``requests`` of both versions together; the candidate has ``share`` of them, exactly."""

    share: float
    requests: int
    outage: float = 0.0
    """So much of the step, at its end, both versions fail one request in five more than else."""


@dataclass(frozen=True)
class Rollout:
    """Two versions, the steps, and after how many requests of both together one looks."""

    baseline: Version
    candidate: Version
    steps: tuple[Step, ...] = (Step(0.01, 20_000), Step(0.1, 20_000), Step(0.5, 20_000))
    look_every: int = 1_000


Look = tuple[int, Sample, Sample]
"""How many requests the candidate has had in all, and the samples of the baseline and the candidate."""


def looks(rollout: Rollout, seed: int, *, per_step: bool) -> Iterator[Look]:
    """What is seen at each look.

    Args:
        per_step: samples are of the present step; else of the whole roll-out.
    """
    draws = numpy.random.default_rng(seed)
    before: Any = numpy.zeros((2, COLUMNS), numpy.int64)
    already = 0
    for step in rollout.steps:
        count = step.requests // rollout.look_every
        of_candidate = round(step.share * rollout.look_every)
        baseline = _drawn(draws, rollout.baseline, rollout.look_every - of_candidate, count, step.outage)
        candidate = _drawn(draws, rollout.candidate, of_candidate, count, step.outage)
        totals = numpy.stack([baseline, candidate], axis=1).cumsum(axis=0)
        if not per_step:
            totals += before
            before = totals[-1]
        for number, (one, other) in enumerate(totals.tolist(), 1):
            yield already + number * of_candidate, _sample(one), _sample(other)
        already += count * of_candidate


COLUMNS = 2 + len(FINE_BOUNDS) + 1


def _drawn(draws: Any, version: Version, requests: int, count: int, outage: float) -> Any:
    """A row for each of ``count`` looks: requests, errors, and how many took how long."""
    rows: Any = numpy.full((count, COLUMNS), requests, numpy.int64)
    bad = numpy.arange(count) >= count * (1 - outage)
    rows[:, 1] = draws.binomial(numpy.full(count, requests), version.error_rate + 0.2 * bad)
    rows[:, 2:] = draws.multinomial(requests, _chances(version), size=count)
    return rows


def _sample(row: list[int]) -> Sample:
    return Sample(row[0], row[1], FINE_BOUNDS, tuple(row[2:]))


_chances = cache(Version.chances)


# -- what is measured --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """How many requests of the candidate it took; None: it was not so to the end."""

    rolled_back: int | None
    passed: int | None
    """Until it was no worse for the first time."""


def watch(judge: RolloutJudge, rollout: Rollout, seed: int, *, until_passed: bool = False) -> Seen:
    """Have the judge look as the controller does; to the end, unless the candidate is rolled back."""
    in_row, passed = 0, None
    for requests, baseline, candidate in looks(rollout, seed, per_step=judge.per_step):
        ruling = judge.judge(baseline, candidate, 0.0).ruling
        in_row = in_row + 1 if ruling is Ruling.WORSE else 0
        if in_row >= judge.patience:
            return Seen(requests, passed)
        if ruling is Ruling.NO_WORSE and passed is None:
            passed = requests
            if until_passed:
                break
    return Seen(None, passed)


# -- other judges ------------------------------------------------------------------------------------------------------


class FixedSample(RolloutJudge):
    """What is often done: one-sided z-tests of two proportions, errors and what takes longer than the usual p99, each
    at half of alpha. Right for one look alone."""

    def __init__(self, after: int = 0) -> None:
        """
        Args:
            after: it looks once, when the candidate has had so many requests; 0: at every look.
        """
        self._after = after
        self._most = NORMAL.inv_cdf(1 - ALPHA / 2)

    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        if candidate.requests != (self._after or candidate.requests):
            return Verdict(Ruling.UNSURE, "not now")
        score = max(z_score(hits(baseline), baseline.requests, hits(candidate), candidate.requests) for hits in HITS)
        return Verdict(Ruling.WORSE if score > self._most else Ruling.UNSURE, f"z {score:.2f}")


HITS: tuple[Callable[[Sample], int], ...] = (
    lambda sample: sample.errors,
    lambda sample: sum(sample.durations[SLOW_BOUND + 1 :]),
)


def z_score(hits: int, trials: int, candidate_hits: int, candidate_trials: int) -> float:
    """How far the candidate's rate is above the baseline's, in standard deviations; 0 of rates that are 0."""
    pooled = (hits + candidate_hits) / (trials + candidate_trials)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / trials + 1 / candidate_trials))
    return (candidate_hits / candidate_trials - hits / trials) / deviation if deviation else 0.0


def planned(rollout: Rollout) -> int:
    """After how many of the candidate's requests a z-test finds this very difference four times in five, as one plans
    it who knows the difference; a multiple of the requests between two looks."""
    share = rollout.steps[0].share
    of_look, ratio = round(share * rollout.look_every), (1 - share) / share
    needed = math.inf
    for one, other in zip(_rates(rollout.baseline), _rates(rollout.candidate), strict=True):
        if other > one:
            pooled = (ratio * one + other) / (ratio + 1)
            false = NORMAL.inv_cdf(1 - ALPHA / 2) * math.sqrt(pooled * (1 - pooled) * (1 + 1 / ratio))
            missed = NORMAL.inv_cdf(0.8) * math.sqrt(other * (1 - other) + one * (1 - one) / ratio)
            needed = min(needed, ((false + missed) / (other - one)) ** 2)
    return math.ceil(needed / of_look) * of_look


def _rates(version: Version) -> tuple[float, float]:
    return version.error_rate, sum(_chances(version)[SLOW_BOUND + 1 :])


def judges(error_rate: float, once_after: int) -> dict[str, RolloutJudge]:
    """By name. ``sequential`` is as in a roll-out of three judged steps, or takes all as a whole. The limits of
    ``threshold`` are those that one sets who knows the usual ones: half as much again."""
    return {
        "sequential": Sequential(ALPHA, steps=3),
        "sequential, whole": Sequential(ALPHA, steps=None),
        "threshold": Threshold(1.5 * error_rate, 1.5 * P99_S),
        "z-test, each look": FixedSample(),
        "z-test, one look": FixedSample(once_after),
    }


# -- tables ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """Many roll-outs of one kind, seen by one judge."""

    label: tuple[str, ...]
    rollout: Rollout
    judge: RolloutJudge
    count: int
    until_passed: bool = False


def measure(row: Row) -> list[Seen]:
    return [watch(row.judge, row.rollout, seed, until_passed=row.until_passed) for seed in range(row.count)]


def equal_rows(count: int) -> Iterator[Row]:
    """Equal versions: how many are rolled back."""
    for rate in (0.001, 0.01, 0.05):
        rollout = Rollout(Version(rate), Version(rate))
        last = sum(round(step.share * step.requests) for step in rollout.steps)
        for name, judge in judges(rate, last).items():
            yield Row((f"{rate:.1%}", name), rollout, judge, count)


def outage_rows(count: int) -> Iterator[Row]:
    """Equal versions, which both have a bad time."""
    version = Version(0.01)
    judges = {"sequential": Sequential(ALPHA, steps=2), "sequential, whole": Sequential(ALPHA, steps=None)}
    for label, steps in (
        ("share stays", (Step(0.1, 20_000), Step(0.1, 20_000, outage=0.25))),
        ("share has grown", (Step(0.1, 20_000), Step(0.5, 20_000, outage=0.25))),
    ):
        for name, judge in judges.items():
            yield Row((label, name), Rollout(version, version, steps), judge, count)


def worse_rows(count: int) -> Iterator[Row]:
    """Candidates that are worse, at one step that lasts: when they are caught."""
    for label, baseline, candidate in (
        ("errors 0.1% -> 3%", Version(0.001), Version(0.03)),
        ("errors 1% -> 2%", Version(0.01), Version(0.02)),
        ("errors 5% -> 10%", Version(0.05), Version(0.1)),
        ("p99 twice as long", Version(0.01), Version(0.01, tail=2.0)),
    ):
        for share in (0.1, 0.5):
            every = round(50 / share)
            rollout = Rollout(baseline, candidate, (Step(share, 300 * every),), every)
            for name, judge in judges(baseline.error_rate, planned(rollout)).items():
                yield Row((label, f"{share:.0%}", name), rollout, judge, count)


def equal_until_passed(count: int) -> Iterator[Row]:
    """Equal versions: when it is certain that the candidate is no worse."""
    for rate in (0.0, 0.001, 0.01, 0.05):
        for share in (0.1, 0.5):
            every = round(50 / share)
            rollout = Rollout(Version(rate), Version(rate), (Step(share, 300 * every),), every)
            yield Row((f"{rate:.1%}", f"{share:.0%}"), rollout, Sequential(ALPHA, steps=None), count, until_passed=True)


def rolled_back(seen: Sequence[Seen]) -> list[str]:
    caught = sum(one.rolled_back is not None for one in seen)
    return [f"{caught / len(seen):.2%}"]


def caught_after(seen: Sequence[Seen]) -> list[str]:
    return [*quantiles([one.rolled_back for one in seen]), *rolled_back(seen)]


def passed_after(seen: Sequence[Seen]) -> list[str]:
    wrong = sum(one.rolled_back is not None for one in seen)
    return [*quantiles([one.passed for one in seen]), f"{wrong / len(seen):.2%}"]


def quantiles(values: Sequence[int | None]) -> list[str]:
    """The median and what nine of ten do not exceed; ``-`` where it was not reached."""
    ordered = sorted(math.inf if value is None else value for value in values)
    at = [ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] for share in (0.5, 0.9)]
    return ["-" if math.isinf(value) else f"{value:,}" for value in at]


Kind = tuple[str, Callable[[int], Iterator[Row]], Callable[[Sequence[Seen]], list[str]], int, tuple[str, ...]]
TABLES: dict[str, Kind] = {
    "equal": (
        "equal versions, steps of 1%, 10% and 50%, 20,000 requests each, a look every 1,000",
        equal_rows,
        rolled_back,
        1,
        ("errors", "judge", "rolled back"),
    ),
    "outage": (
        "equal versions, 1% errors; both fail 20% more for the last quarter of the second of two steps",
        outage_rows,
        rolled_back,
        10,
        ("", "judge", "rolled back"),
    ),
    "worse": (
        "worse versions: the candidate's requests until it is rolled back, of at most 15,000, a look every 50",
        worse_rows,
        caught_after,
        10,
        ("", "share", "judge", "median", "90%", "caught"),
    ),
    "passed": (
        "equal versions: the candidate's requests until sequential, whole, says that it is no worse, a look every 50",
        equal_until_passed,
        passed_after,
        10,
        ("errors", "share", "median", "90%", "rolled back"),
    ),
}


def table(name: str, rollouts: int, pool: Any) -> str:
    title, rows, figures, divided_by, columns = TABLES[name]
    planned = list(rows(max(1, rollouts // divided_by)))
    cells = [[*row.label, *figures(seen)] for row, seen in zip(planned, pool.map(measure, planned), strict=True)]
    return text(f"{title} ({planned[0].count:,} roll-outs a row)", columns, cells)


def text(title: str, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    rows = [columns, *cells]
    widths = [max(len(row[at]) for row in rows) for at in range(len(columns))]
    words = sum(not cells[0][at][:1].isdigit() or at < 2 for at in range(len(columns)))
    lines = [
        "  ".join(cell.ljust(width) if at < words else cell.rjust(width) for at, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join([title, "", *(line.rstrip() for line in lines)])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judges", description=__doc__)
    parser.add_argument(
        "--rollouts", type=int, default=10_000, metavar="N", help="a row of the first table; a tenth else"
    )
    parser.add_argument("--only", choices=TABLES, action="append", help="one of the tables; may be repeated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="processes; default %(default)s")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the tables between the marks of a Markdown page")
    options = parser.parse_args(arguments)
    with ProcessPoolExecutor(options.jobs) as pool:
        found = []
        for name in options.only or TABLES:
            found.append(table(name, options.rollouts, pool))
            print(f"{found[-1]}\n\n", flush=True)
    if options.page:
        options.page.write_text(fill_page(options.page.read_text(), "\n\n\n".join(found), "judges"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The judge ``sequential``: its verdicts, and the rate at which they are wrong."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servekit.interfaces import Ruling, Sample
from servekit_judges import Sequential
from servekit_judges.evidence import ABOVE, BELOW, Counts, bets_against, is_certain, log_evidence, reaches
from servekit_judges.histograms import QuantileLimits

BOUNDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
NO_WORSE, UNSURE, WORSE = Ruling.NO_WORSE, Ruling.UNSURE, Ruling.WORSE
ERRORS_ALONE: dict[str, Any] = {"quantiles": ()}


def sample(requests: int, errors: int = 0, shares: tuple[float, ...] = (0, 0.3, 0.5, 0.195, 0.005, 0, 0)) -> Sample:
    """``shares``: of the requests, by bucket; what is left over is in the third."""
    durations = [int(share * requests) for share in shares]
    durations[2] += requests - sum(durations)
    return Sample(requests, errors, BOUNDS, tuple(durations))


def judged(baseline: Sample, candidate: Sample, **options: Any) -> tuple[Ruling, str]:
    verdict = Sequential(**options).judge(baseline, candidate, 10.0)
    return verdict.ruling, verdict.reason


# -- errors ------------------------------------------------------------------------------------------------------------


def test_more_errors_are_worse() -> None:
    assert judged(sample(3_600, 9), sample(400, 12)) == (
        WORSE,
        "errors 12 of 400 (3 %) against 9 of 3,600 (0.25 %): worse, sure to 95 %",
    )


@pytest.mark.parametrize(
    ("baseline", "candidate", "ruling"),
    [
        ((0, 0), (0, 0), UNSURE),
        ((1_000, 0), (0, 0), UNSURE),
        ((0, 0), (1_000, 1_000), UNSURE),
        ((5_000, 0), (200, 0), UNSURE),  # three errors in 200 would be 1.5 %
        ((5_000, 0), (600, 0), NO_WORSE),
        ((600, 0), (600, 0), NO_WORSE),
        ((5_000, 0), (5, 5), WORSE),
        ((5_000, 50), (5_000, 50), NO_WORSE),
        ((5_000, 50), (5_000, 110), WORSE),
        ((5_000, 50), (5_000, 75), UNSURE),
        ((50_000, 5_000), (50_000, 5_500), NO_WORSE),  # a tenth more, of which a quarter may be
        ((10**9, 10**7), (10**8, 1_010_000), NO_WORSE),  # certainly worse, and certainly by less than the margin
        ((10**9, 10**7), (10**8, 2_100_000), WORSE),
        ((10**9, 10**9), (10**9, 10**9), NO_WORSE),
    ],
)
def test_verdicts_on_errors(baseline: tuple[int, int], candidate: tuple[int, int], ruling: Ruling) -> None:
    assert judged(sample(*baseline), sample(*candidate), **ERRORS_ALONE)[0] is ruling


def test_beyond_the_margin_alone() -> None:
    baseline, candidate = sample(50_000, 500), sample(50_000, 750)
    assert judged(baseline, candidate, margin=0.004, **ERRORS_ALONE)[0] is WORSE
    assert judged(baseline, candidate, margin=0.004, beyond_margin=True, **ERRORS_ALONE)[0] is UNSURE
    ruling, reason = judged(baseline, sample(50_000, 1_500), margin=0.004, beyond_margin=True)
    assert ruling is WORSE
    assert reason.endswith("against 500 of 50,000 (1 %): worse by more than 0.4 %, sure to 95 %")


def test_steps_take_more_to_be_certain_of() -> None:
    baseline, candidate = sample(3_600, 9), sample(400, 9)
    assert judged(baseline, candidate, **ERRORS_ALONE)[0] is WORSE
    assert judged(baseline, candidate, steps=10, **ERRORS_ALONE)[0] is UNSURE


# -- latency -----------------------------------------------------------------------------------------------------------

AS_USUAL = sample(20_000)
SLOWER = (0, 0, 0.3, 0.5, 0.195, 0.005, 0)
LONG_TAIL = (0, 0.3, 0.5, 0.15, 0.005, 0.045, 0)


def test_slower_is_worse() -> None:
    ruling, reason = judged(AS_USUAL, sample(2_000, shares=SLOWER))
    assert ruling is WORSE
    assert reason.startswith(
        "p50 more than 40 ms against at most 40 ms: worse, sure to 95 %; p99 more than 80 ms again"
    )


def test_a_longer_tail_is_worse() -> None:
    ruling, reason = judged(AS_USUAL, sample(2_000, shares=LONG_TAIL))
    assert ruling is WORSE
    assert reason == "p99 more than 160 ms against at most 80 ms: worse, sure to 95 %"
    assert judged(AS_USUAL, sample(2_000, shares=LONG_TAIL), quantiles=[0.5])[0] is NO_WORSE


def test_as_fast_is_no_worse() -> None:
    ruling, reason = judged(AS_USUAL, sample(20_000), latency_margin=4.0)
    assert ruling is NO_WORSE
    assert reason == (
        "errors 0 of 20,000 (0 %) against 0 of 20,000 (0 %): not worse by 1 %, sure to 95 %; p50 at most 40 ms against "
        "more than 20 ms: not worse by 4 times, sure to 95 %; p99 at most 80 ms against more than 40 ms: not worse by "
        "4 times, sure to 95 %"
    )


def test_the_histogram_is_as_fine_as_it_is() -> None:
    """Both p99 are between 40 and 80 ms, so one may be nearly twice the other."""
    assert judged(AS_USUAL, AS_USUAL, latency_margin=1.9)[0] is UNSURE
    assert judged(AS_USUAL, AS_USUAL, latency_margin=2.0)[0] is NO_WORSE


def test_what_is_below_the_floor_is_never_worse() -> None:
    slower = sample(20_000, shares=SLOWER)
    ruling, reason = judged(AS_USUAL, slower, latency_floor_s=0.08, quantiles=[0.5])
    assert ruling is NO_WORSE
    assert reason.endswith("p50 at most 80 ms: short enough, sure to 95 %")
    assert judged(AS_USUAL, slower, latency_floor_s=0.04, quantiles=[0.5])[0] is WORSE


def test_slower_by_more_than_the_margin_alone() -> None:
    options: dict[str, Any] = {"beyond_margin": True, "quantiles": [0.99]}
    tail = sample(20_000, shares=LONG_TAIL)
    assert judged(AS_USUAL, tail, latency_margin=2.0, **options)[0] is WORSE
    assert judged(AS_USUAL, tail, latency_margin=3.0, **options)[0] is UNSURE


def test_without_a_histogram_the_latency_is_unknown() -> None:
    bare = Sample(10_000)
    assert judged(bare, bare) == (
        UNSURE,
        "p50 unknown against unknown: not certain yet; p99 unknown against unknown: not certain yet",
    )
    assert judged(bare, bare, **ERRORS_ALONE)[0] is NO_WORSE


# -- properties --------------------------------------------------------------------------------------------------------

counts = st.integers(1, 20_000).flatmap(lambda n: st.builds(Counts, st.integers(0, min(n, 200)), st.just(n)))
GOODNESS = {WORSE: 0, UNSURE: 1, NO_WORSE: 2}


@settings(deadline=None)
@given(counts, counts, st.integers(1, 50), st.booleans())
def test_errors_of_the_candidate_never_help_it_and_those_of_the_baseline_never_harm_it(
    baseline: Counts, candidate: Counts, more: int, beyond: bool
) -> None:
    judge = Sequential(beyond_margin=beyond, quantiles=(), relative_margin=0.0)

    def goodness(theirs: Counts, ours: Counts) -> int:
        verdict = judge.judge(Sample(theirs.trials, theirs.hits), Sample(ours.trials, ours.hits), 1.0)
        return GOODNESS[verdict.ruling]

    before = goodness(baseline, candidate)
    assert goodness(baseline, Counts(min(candidate.trials, candidate.hits + more), candidate.trials)) <= before
    assert goodness(Counts(min(baseline.trials, baseline.hits + more), baseline.trials), candidate) >= before


@settings(deadline=None)
@given(counts, counts)
def test_exchanged_versions_are_not_both_worse(one: Counts, other: Counts) -> None:
    judge = Sequential(quantiles=())
    samples = [Sample(each.trials, each.hits) for each in (one, other)]
    both = {judge.judge(first, second, 1.0).ruling for first, second in (samples, samples[::-1])}
    assert both != {WORSE}


@settings(deadline=None, max_examples=30)
@given(counts, counts, st.sampled_from([ABOVE, BELOW]), st.floats(0.001, 0.2))
def test_what_is_certain_is_so_for_every_rate(one: Counts, other: Counts, side: int, chance: float) -> None:
    """The search proves what a walk over all rates would find."""

    def bound(rate: float) -> float:
        return rate + max(0.01, 0.25 * rate)

    certain = is_certain(one, other, side, chance, bound)
    rates = [1 / (1 + math.exp(-odds / 20)) for odds in range(-700, 700)]
    least = min(
        log_evidence(bets_against(bound(rate), side), one) + log_evidence(bets_against(rate, -side), other)
        for rate in rates
        if side == ABOVE or bound(rate) <= 1.0  # no rate is higher
    )
    if certain:
        assert least >= -math.log(chance) - 1e-6
    elif least > -math.log(chance) + 0.05:  # between two rates of the walk it may be a little less
        pytest.fail(f"it is certain: {least}")


@given(counts, st.floats(0.001, 0.999), st.sampled_from([ABOVE, BELOW]), st.floats(-5, 20))
def test_the_short_way_to_evidence_is_right(seen: Counts, rate: float, side: int, needed: float) -> None:
    bets = bets_against(rate, side)
    evidence = log_evidence(bets, seen)
    if abs(evidence - needed) > 1e-9:
        assert reaches(bets, seen, needed) == (evidence >= needed)


@pytest.mark.parametrize("side", [ABOVE, BELOW])
@pytest.mark.parametrize("rate", [1e-6, 0.01, 0.5, 0.99])
def test_bets_are_fair(rate: float, side: int) -> None:
    """What a stake is worth after one more trial is what it was, on average, if the hypothesis is just true; and no
    more, if the true rate is on the other side."""
    bets = bets_against(rate, side)
    for hits, trials in ((0, 0), (3, 100), (40, 60)):
        now, hit, missed = (
            math.exp(log_evidence(bets, Counts(*seen)))
            for seen in ((hits, trials), (hits + 1, trials + 1), (hits, trials + 1))
        )
        assert rate * hit + (1 - rate) * missed == pytest.approx(now, rel=1e-9)
        further = rate / 2 if side == ABOVE else (1 + rate) / 2
        assert further * hit + (1 - further) * missed <= now * (1 + 1e-9)


@settings(deadline=None)
@given(st.lists(st.integers(0, 500), min_size=7, max_size=7), st.sampled_from([0.1, 0.5, 0.99]))
def test_the_limits_of_a_quantile_hold_its_own_bucket(durations: list[int], quantile: float) -> None:
    limits = QuantileLimits(quantile, 0.05)
    found = Sample(sum(durations), 0, BOUNDS, tuple(durations))
    least, most = limits.least(found), limits.most(found)
    assert least < most
    below = dict(zip(BOUNDS, accumulate(durations), strict=False))
    assert least == 0.0 or below[least] < quantile * found.requests
    assert most == math.inf or below[most] >= quantile * found.requests


# -- how often it is wrong ---------------------------------------------------------------------------------------------


def evidence_over_time(rate: float, side: int, seed: int, trials: int) -> Iterator[float]:
    draws, bets, hits = random.Random(seed), bets_against(rate, side), 0
    for number in range(1, trials + 1):
        hits += draws.random() < rate
        if number % 5 == 0:
            yield log_evidence(bets, Counts(hits, number))


@pytest.mark.parametrize(("rate", "side"), [(0.05, ABOVE), (0.05, BELOW), (0.5, ABOVE)])
def test_evidence_is_seldom_large_though_one_looks_all_the_time(rate: float, side: int) -> None:
    """In 400 runs at 20 %: at most 80 are expected to be ever certain, and 108 are three and a half deviations more."""
    runs, chance = 400, 0.2
    wrong = sum(max(evidence_over_time(rate, side, seed, 400)) >= -math.log(chance) for seed in range(runs))
    assert wrong <= runs * chance + 3.5 * math.sqrt(runs * chance * (1 - chance))

"""The judge ``threshold``."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.interfaces import Reported, Ruling, Sample
from servekit_judges import Threshold
from servekit_judges.histograms import quantile_bucket

BOUNDS = (0.1, 0.2, 0.4)
NOBODY = Sample()


def sample(requests: int = 1_000, errors: int = 0, durations: tuple[int, ...] = (), **rest: Any) -> Sample:
    return Sample(requests, errors, BOUNDS, durations or (requests, 0, 0, 0), **rest)


def judged(candidate: Sample, **options: Any) -> tuple[Ruling, str]:
    verdict = Threshold(**options).judge(NOBODY, candidate, 10.0)
    return verdict.ruling, verdict.reason


def test_the_error_rate() -> None:
    assert judged(sample(errors=10)) == (Ruling.NO_WORSE, "errors 10 of 1,000 (1 %), which may be 1 %")
    assert judged(sample(errors=11)) == (Ruling.WORSE, "errors 11 of 1,000 (1.1 %): more than 1 %")
    assert judged(sample(errors=1), error_rate=0.0)[0] is Ruling.WORSE


def test_too_few_requests_are_no_failure() -> None:
    assert judged(sample(0)) == (Ruling.UNSURE, "0 requests of the 100 that it takes to tell")
    assert judged(sample(99, errors=99))[0] is Ruling.UNSURE
    assert judged(sample(99, errors=99), min_requests=99)[0] is Ruling.WORSE


@pytest.mark.parametrize(
    ("limit_s", "ruling"),
    [(0.1, Ruling.WORSE), (0.15, Ruling.WORSE), (0.2, Ruling.WORSE), (0.21, Ruling.NO_WORSE)],
)
def test_p99_is_known_as_far_as_its_bucket(limit_s: float, ruling: Ruling) -> None:
    candidate = sample(durations=(980, 9, 11, 0))
    found, reason = judged(candidate, error_rate=None, p99_s=limit_s)
    assert found is ruling
    assert reason.startswith("p99 200 ms to 400 ms")


def test_p99_beyond_the_last_bound_and_without_durations() -> None:
    assert judged(sample(durations=(980, 0, 0, 20)), p99_s=0.3)[1] == "p99 above 400 ms: longer than 300 ms"
    unknown = Sample(1_000)
    assert judged(unknown, p99_s=0.3) == (Ruling.UNSURE, "no durations were counted")


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99]))
def test_the_quantile_is_in_its_bucket(values: list[float], quantile: float) -> None:
    durations = [0, 0, 0, 0]
    for value in values:
        durations[sum(bound < value for bound in BOUNDS)] += 1
    low, high = quantile_bucket(Sample(len(values), 0, BOUNDS, tuple(durations)), quantile)
    below = sum(value <= high for value in values)
    assert below >= quantile * len(values) - 1e-9
    assert sum(value <= low for value in values if low) < quantile * len(values) or low == 0.0


LIMITS = {"accuracy": {"min": 0.9}, "tokens": {"min": 1, "max": 5.5}}


@pytest.mark.parametrize(
    ("accuracy", "tokens", "ruling", "said"),
    [
        (Reported(10, 9.5), Reported(2, 8.0), Ruling.NO_WORSE, "accuracy 0.95 in the mean of 10, which is within"),
        (Reported(10, 8.5), Reported(2, 8.0), Ruling.WORSE, "accuracy 0.85 in the mean of 10: less than 0.9"),
        (Reported(10, 9.5), Reported(2, 12.0), Ruling.WORSE, "tokens 6 in the mean of 2: more than 5.5"),
        (Reported(10, float("nan")), Reported(2, 8.0), Ruling.WORSE, "accuracy nan in the mean of 10: less than"),
        (Reported(), Reported(2, 8.0), Ruling.UNSURE, "no accuracy was reported"),
        (Reported(), Reported(2, 12.0), Ruling.WORSE, "tokens 6"),
    ],
)
def test_reported_metrics(accuracy: Reported, tokens: Reported, ruling: Ruling, said: str) -> None:
    candidate = sample(reports={"accuracy": accuracy, "tokens": tokens})
    found, reason = judged(candidate, error_rate=None, report_limits=LIMITS)
    assert found is ruling
    assert reason.startswith(said)


def test_answers_as_a_shadow() -> None:
    options: dict[str, Any] = {"max_differing": 0.02}
    few = sample(shadow_pairs=99, shadow_differing=99)
    assert judged(few, **options)[1] == "99 answers as a shadow compared, of the 100 that it takes to tell"
    assert judged(sample(shadow_pairs=200, shadow_differing=4), **options)[0] is Ruling.NO_WORSE
    worse = judged(sample(shadow_pairs=200, shadow_differing=5), **options)
    assert worse == (Ruling.WORSE, "answers as a shadow that differ 5 of 200 (2.5 %): more than 2 %")


def test_all_that_is_wrong_is_said() -> None:
    ruling, reason = judged(sample(errors=500, durations=(0, 0, 0, 1_000)), p99_s=0.2)
    assert ruling is Ruling.WORSE
    assert reason == "errors 500 of 1,000 (50 %): more than 1 %; p99 above 400 ms: longer than 200 ms"


@given(st.integers(0, 10**6), st.data())
def test_the_version_beside_it_does_not_matter(requests: int, data: st.DataObject) -> None:
    candidate = sample(requests, data.draw(st.integers(0, requests)))
    judge = Threshold()
    beside = [judge.judge(other, candidate, 1.0) for other in (NOBODY, candidate, sample(10, 10))]
    assert beside[0] == beside[1] == beside[2]

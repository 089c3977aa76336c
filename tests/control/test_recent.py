"""The ring of samples, and the quantiles of what is in it."""

from __future__ import annotations

from bisect import bisect_left
from statistics import quantiles as exact

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.control.quantiles import quantile, rebucketed
from servekit.control.recent import IN_HOUR, IN_MINUTE, MOST_NAMES, Recent
from servekit.tallies import BOUNDS, FINE_BOUNDS

NAME = ("endpoint", "e")
NOTHING = {"p50": None, "p90": None, "p99": None}


def values(*durations_s: float) -> list[int]:
    found = [0] * (len(FINE_BOUNDS) + 3)
    for duration_s in durations_s:
        found[bisect_left(FINE_BOUNDS, duration_s)] += 1
        found[-2] += int(duration_s * 1e6)
    return found


def test_a_quantile_lies_between_the_bounds_of_its_bucket() -> None:
    assert quantile([0, 10, 0, 0], [1.0, 2.0, 3.0], 0.5) == 1.5
    assert quantile([4, 0, 0, 4], [1.0, 2.0, 3.0], 0.5) == 1.0
    assert quantile([0, 0, 0, 4], [1.0, 2.0, 3.0], 0.5) == 3.0  # Or more.
    assert quantile([0, 0, 0, 0], [1.0, 2.0, 3.0], 0.5) is None


@given(st.lists(st.floats(0.0005, 50.0), min_size=100, max_size=300))
def test_quantiles_are_right_to_an_eighth_of_a_decade(durations: list[float]) -> None:
    counts = values(*durations)[:-2]
    lower, upper = sorted(durations)[len(durations) // 2 - 1 :][:2]
    found = quantile(counts, FINE_BOUNDS, 0.5)
    assert found is not None
    assert lower * 0.74 <= found <= upper * 1.35
    assert exact(durations, n=2)


@given(st.lists(st.floats(0.0, 100.0), max_size=50))
def test_the_wider_buckets_hold_the_same(durations: list[float]) -> None:
    wide = [0] * (len(BOUNDS) + 1)
    for duration_s in durations:
        wide[bisect_left(BOUNDS, duration_s)] += 1
    assert rebucketed(values(*durations)[:-2], FINE_BOUNDS, BOUNDS) == wide


def test_what_is_older_than_a_minute_or_an_hour_is_out() -> None:
    recent, slow, both = Recent(), values(1.0), values(1.0, 0.01)
    recent.sample(0.0, {})
    recent.sample(10.0, {NAME: slow})
    for number in range(IN_MINUTE - 1):
        recent.sample(20.0 + number, {NAME: slow})
    assert recent.latency_s(NAME, slow)["minute"]["p50"] == pytest.approx(0.9, abs=0.1)
    recent.sample(70.0, {NAME: both})
    told = recent.latency_s(NAME, both)
    assert told["minute"]["p99"] <= 0.01
    assert told["hour"]["p99"] == pytest.approx(0.9, abs=0.1)
    for number in range(IN_HOUR):
        recent.sample(80.0 + number, {NAME: both})
    assert recent.latency_s(NAME, both) == {"minute": NOTHING, "hour": NOTHING}
    assert len(recent.history(NAME)) == IN_HOUR
    assert recent.history(NAME)[-1].at == 80.0 + IN_HOUR - 1


def test_a_name_that_is_gone_begins_anew() -> None:
    recent = Recent()
    recent.sample(0.0, {NAME: values()})
    recent.sample(1.0, {NAME: values(1.0)})
    recent.sample(2.0, {})
    assert recent.history(NAME) == []
    assert recent.latency_s(NAME, values(0.01))["hour"]["p99"] <= 0.01


def test_there_is_a_bound_on_names() -> None:
    recent = Recent()
    recent.sample(0.0, {("endpoint", str(n)): values() for n in range(MOST_NAMES + 5)})
    last = ("endpoint", str(MOST_NAMES + 4))
    assert recent.history(last) == []
    assert recent.latency_s(last, values(1.0)) == {"minute": NOTHING, "hour": NOTHING}


def test_of_the_samples_those_since_a_moment_are_told() -> None:
    recent = Recent()
    for number in range(1, 4):
        recent.sample(10.0 * number, {NAME: values(*[1.0] * number)})
    assert [point.at for point in recent.history(NAME)] == [10.0, 20.0, 30.0]
    assert [point.at for point in recent.history(NAME, 10.0)] == [20.0, 30.0]
    assert recent.history(NAME, 30.0) == recent.history(("backend", "b"), 0.0) == []

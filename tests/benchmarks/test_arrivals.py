from __future__ import annotations

import itertools
import statistics

import pytest
from benchmarks.routing.arrivals import largest_share, percentile, poisson
from hypothesis import given
from hypothesis import strategies as st


def test_the_same_seed_gives_the_same_arrivals_and_another_one_others() -> None:
    assert poisson(100.0, 5.0, seed=1) == poisson(100.0, 5.0, seed=1) != poisson(100.0, 5.0, seed=2)


def test_arrivals_are_in_order_and_within_the_time() -> None:
    arrivals = poisson(200.0, 3.0, seed=7)

    assert arrivals == sorted(arrivals)
    assert arrivals[0] > 0
    assert arrivals[-1] < 3.0


def test_gaps_have_the_mean_and_the_deviation_of_a_poisson_process() -> None:
    arrivals = poisson(50.0, 400.0, seed=3)
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]

    # Of about 20,000 exponential gaps: 5 % is seven standard errors of the mean.
    assert statistics.mean(gaps) == pytest.approx(1 / 50, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.05)


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (95, 95), (99, 99), (100, 100), (0, 1)])
def test_percentiles_of_1_to_100(percent: float, expected: int) -> None:
    assert percentile([*range(100, 0, -1)], percent) == expected


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100))
def test_at_least_so_many_values_do_not_exceed_a_percentile(values: list[float], percent: float) -> None:
    found = percentile(values, percent)

    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-9


def test_the_largest_share_is_in_percent() -> None:
    assert largest_share([1, 3]) == 75.0

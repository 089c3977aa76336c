from __future__ import annotations

import argparse
import json

import pytest
from benchmarks.growth.__main__ import STUDIES, named
from benchmarks.growth.curves import Curve, Curves, as_json, table, text
from benchmarks.growth.effort import Budget, BudgetError
from benchmarks.growth.studies import HELLO, there_and_back, with_headers

RATE = Curve("hello by replicas", "replicas", "requests/s", "high")


def some_curves() -> Curves:
    curves = Curves({"CPUs": "2 of X"})
    for x, values in {8: (50.0, 20.0, 30.0), 1: (10.0,)}.items():
        for value in values:
            curves.add(RATE, x, value)
    return curves


def test_a_table_goes_from_the_lowest_step_on_and_compares_with_it() -> None:
    lines = table(RATE, some_curves().samples[RATE]).splitlines()

    assert [line.split() for line in lines[1:]] == [
        ["replicas", "1", "10.0", "1.00x"],
        ["replicas", "8", "30.0", "(20.0", "to", "50.0)", "3.00x"],
    ]


def test_nothing_is_compared_with_a_first_value_of_nothing() -> None:
    assert "x" not in table(RATE, {1: [0.0], 2: [5.0]}).splitlines()[2].partition("replicas")[2]


def test_what_was_not_measured_is_in_the_text_with_its_reason() -> None:
    curves = some_curves()
    curves.missing["endpoints, all or the rest"] = "the time was spent"

    assert "endpoints, all or the rest: the time was spent" in text(curves)


def test_json_has_the_points_in_order() -> None:
    (curve,) = json.loads(as_json(some_curves()))["curves"]

    assert curve["points"] == [
        {"x": 1, "median": 10.0, "min": 10.0, "max": 10.0},
        {"x": 8, "median": 30.0, "min": 20.0, "max": 50.0},
    ]


def test_every_other_repeat_goes_backwards() -> None:
    assert list(there_and_back([1, 2, 4], 2)) == [1, 2, 4, 4, 2, 1]


@pytest.mark.parametrize("count", [1, 100])
def test_the_host_is_one_of_the_headers(count: int) -> None:
    assert len(with_headers(HELLO, count).headers) == count - 1


def test_nothing_is_begun_when_the_time_is_spent() -> None:
    Budget(60.0).check()
    with pytest.raises(BudgetError, match="-1 s were spent"):
        Budget(-1.0).check()


def test_studies_are_taken_in_their_own_order_and_unknown_ones_refused() -> None:
    assert named("endpoints,replicas") == ("replicas", "endpoints")
    with pytest.raises(argparse.ArgumentTypeError, match=f"no study 'nonesuch'; there are {', '.join(STUDIES)}"):
        named("replicas,nonesuch")

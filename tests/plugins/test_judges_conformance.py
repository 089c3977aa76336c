"""Every bundled judge passes the conformance kit; is there by its name, and checks its options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from servekit.errors import PluginOptionsError
from servekit.factories import Kind, at_path, build, path_of
from servekit.interfaces import RolloutJudge
from servekit.testing.conformance import RolloutJudgeTests
from servekit_judges import Sequential, Threshold, servekit_register_rollout_judges

ALL_LIMITS: dict[str, Any] = {
    "error_rate": 0.02,
    "p99_s": 0.25,
    "report_limits": {"accuracy": {"min": 0.9}, "length": {"min": 0, "max": 5}},
    "max_differing": 0.1,
    "min_requests": 10,
    "failures_in_row": 2,
    "look_every_s": 5,
}
ALL_OPTIONS: dict[str, Any] = {
    "alpha": 0.01,
    "margin": 0.005,
    "relative_margin": 0.0,
    "quantiles": [0.9, 0.5, 0.999],
    "latency_margin": 1.6,
    "latency_floor_s": 0.0,
    "beyond_margin": True,
    "steps": 3,
    "look_every_s": 2.5,
}


# -- the kit -----------------------------------------------------------------------------------------------------------


class TestSequential(RolloutJudgeTests):
    def make_judge(self, **options: Any) -> RolloutJudge:
        return Sequential(**options)


class TestSequentialWithAllOptions(TestSequential):
    options = ALL_OPTIONS


class TestSequentialOfErrorsAlone(TestSequential):
    options: Mapping[str, Any] = {"quantiles": []}


class TestThreshold(RolloutJudgeTests):
    compares = False

    def make_judge(self, **options: Any) -> RolloutJudge:
        return Threshold(**options)


class TestThresholdWithAllOptions(TestThreshold):
    options = ALL_LIMITS


# -- names and options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sequential", "threshold"])
def test_a_judge_is_there_by_its_name_and_made_of_no_options(name: str) -> None:
    factory = servekit_register_rollout_judges()[name]
    judge = build(at_path(Kind.JUDGE, path_of(factory)), {})
    assert isinstance(judge, RolloutJudge)


@pytest.mark.parametrize(
    ("judge", "options", "said"),
    [
        (Sequential, {"alpha": 0.5}, "alpha is 0.5: give a number between 0 and 0.5"),
        (Sequential, {"alpha": 0}, "alpha is 0: give a number between"),
        (Sequential, {"margin": 0.0}, "margin is 0.0: give a number between 0 and 1"),
        (Sequential, {"relative_margin": -0.1}, "relative_margin is -0.1: give a number that is at least 0"),
        (Sequential, {"quantiles": [0.5, 1.0]}, "quantiles is 1.0: give a number between 0 and 1"),
        (Sequential, {"quantiles": [0.5, 0.5]}, "give each quantile once"),
        (Sequential, {"latency_margin": 0.9}, "latency_margin is 0.9: give a number that is at least 1"),
        (Sequential, {"latency_floor_s": float("nan")}, "latency_floor_s is nan: give a number"),
        (Sequential, {"steps": 0}, "steps is 0: give a whole number that is at least 1"),
        (Sequential, {"look_every_s": 0}, "look_every_s is 0: give a number above 0"),
        (Sequential, {"beyond_margin": "yes"}, "beyond_margin"),
        (Threshold, {"error_rate": 1.5}, "error_rate is 1.5: give a number from 0 to 1"),
        (Threshold, {"error_rate": None}, "there is no limit: give error_rate, p99_s, report_limits or max_differing"),
        (Threshold, {"p99_s": 0}, "p99_s is 0: give a number above 0"),
        (Threshold, {"report_limits": {"a": {}}}, 'report_limits[\'a\'] is {}: give "min", "max" or both'),
        (Threshold, {"report_limits": {"a": {"least": 1}}}, "report_limits['a'] is {'least': 1}: give"),
        (Threshold, {"report_limits": {"a": {"min": 2, "max": 1}}}, 'a "min" that is not above the "max"'),
        (Threshold, {"max_differing": -1}, "max_differing is -1: give a number from 0 to 1"),
        (Threshold, {"min_requests": 0}, "min_requests is 0: give a whole number that is at least 1"),
        (Threshold, {"failures_in_row": 0}, "failures_in_row is 0: give a whole number"),
        (Threshold, {"look_every_s": -1}, "look_every_s is -1: give a number above 0"),
        (Threshold, {"errors": 0.1}, "has no option 'errors'"),
    ],
)
def test_options_out_of_range_are_refused(judge: type[RolloutJudge], options: dict[str, Any], said: str) -> None:
    with pytest.raises(PluginOptionsError, match=re.escape(said)):
        build(at_path(Kind.JUDGE, path_of(judge)), options)


def test_what_the_controller_reads_of_a_judge() -> None:
    threshold, sequential = Threshold(**ALL_LIMITS), Sequential()
    assert (threshold.per_step, threshold.patience, threshold.look_every_s) == (True, 2, 5.0)
    assert threshold.reports == ("accuracy", "length")
    assert threshold.claim == ""
    assert (sequential.per_step, sequential.patience, sequential.reports) == (True, 1, ())
    assert not Sequential(steps=None).per_step
    assert sequential.claim == (
        "of candidates that are no worse, at most 5 % are ever called worse, however often one looks; of those with an "
        "error rate that is higher by 1 % or more, or that is slower by 2 times in p50 or p99 and takes more than 5 "
        "ms, at most 5 % are ever called no worse"
    )
    by_steps = Sequential(0.01, steps=3, quantiles=(), beyond_margin=True)
    assert by_steps.per_step
    assert "at most 1 % are ever called worse" in by_steps.claim
    assert "no worse by more than the margin" in by_steps.claim
    assert by_steps.claim.endswith("in 3 judged steps or fewer")

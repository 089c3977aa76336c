"""The kit for judges of roll-outs fails what is broken, and says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.testing.conformance.broken_judges import (
    BlamesTheCandidateForAll,
    ClaimsALot,
    Counts,
    Divides,
    Draws,
    HasNoPatience,
    IsOfNoStep,
    LikesErrors,
    NamesOneReport,
    NeverLooks,
    SaysADecision,
    SaysNothing,
    Sleeps,
    TakesASet,
    TakesNoTrafficForFailure,
    TakesNoTrafficForSuccess,
    TwiceTheErrors,
    WantsMetrics,
    WritesToReports,
    WritesTwoLines,
)

from servekit.testing.conformance import RolloutJudgeTests

ITSELF = "test_what_it_says_of_itself"
OPTIONS = "test_its_options_survive_the_controller"
ANYTHING = "test_any_samples_get_a_verdict"
SAME = "test_the_same_samples_get_the_same_verdict"
NOTHING = "test_no_requests_are_no_failure"
ALIKE = "test_versions_that_are_alike_are_not_worse"
ERRORS = "test_more_errors_are_never_better"
CASES = {ITSELF, OPTIONS, ANYTHING, SAME, NOTHING, ALIKE, ERRORS}


def kit_for(factory: Callable[..., Any], **claims: Any) -> RolloutJudgeTests:
    attributes = {**claims, "make_judge": lambda self, **options: factory(**options)}
    kit: RolloutJudgeTests = type("Kit", (RolloutJudgeTests,), attributes)()
    return kit


def test_the_names_of_the_cases() -> None:
    assert {name for name in dir(RolloutJudgeTests) if name.startswith("test_")} == CASES


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_right_judge_passes(case: str) -> None:
    getattr(kit_for(TwiceTheErrors), case)()


@pytest.mark.parametrize(
    ("factory", "claims", "case", "said"),
    [
        (NamesOneReport, {}, ITSELF, "reports is 'accuracy'. The contract: it is a collection of the names"),
        (HasNoPatience, {}, ITSELF, "patience is 0"),
        (NeverLooks, {}, ITSELF, "look_every_s is 0.0"),
        (ClaimsALot, {}, ITSELF, "claim is 'never wrong\\nat all'"),
        (IsOfNoStep, {}, ITSELF, "per_step is 'yes'"),
        (lambda: "sequential", {}, ITSELF, "make_judge returned 'sequential', which is no servekit.interfaces.Rollout"),
        (TakesASet, {"options": {"names": {"a"}}}, OPTIONS, "its options {'names': {'a'}} cannot be kept (TypeError"),
        (Draws, {}, OPTIONS, "made of options as JSON"),
        (Divides, {}, ANYTHING, "judge raised ZeroDivisionError: division by zero for 0 errors of 0 requests"),
        (WantsMetrics, {}, ANYTHING, "judge raised KeyError: 'accuracy'"),
        (Sleeps, {}, ANYTHING, "judge called time.sleep, which blocks"),
        (WritesToReports, {}, ANYTHING, "judge wrote to a sample"),
        (SaysADecision, {}, ANYTHING, "judge returned <Ruling.UNSURE: 'unsure'> for"),
        (WritesTwoLines, {}, ANYTHING, "the reason is 'one line\\nand another'"),
        (SaysNothing, {}, ANYTHING, "the reason is ''"),
        (Counts, {}, SAME, "asked again, after others"),
        (Draws, {}, SAME, "the same samples got Verdict"),
        (TakesNoTrafficForFailure, {}, NOTHING, "judge said WORSE (no requests) of 0 errors of 0 requests"),
        (TakesNoTrafficForSuccess, {}, NOTHING, "judge said NO_WORSE (no errors) of 0 errors of 0 requests"),
        (BlamesTheCandidateForAll, {}, ALIKE, "the candidate is not WORSE where both did the same"),
        (LikesErrors, {}, ERRORS, "more errors are never better, and with fewer it was WORSE"),
    ],
)
def test_a_broken_judge_fails_with_what_is_wrong(
    factory: Callable[..., Any], claims: dict[str, Any], case: str, said: str
) -> None:
    with pytest.raises(AssertionError) as raised:
        getattr(kit_for(factory, **claims), case)()
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("factory", "claim", "case"),
    [(BlamesTheCandidateForAll, "compares", ALIKE), (LikesErrors, "counts_errors", ERRORS)],
)
def test_what_is_not_claimed_is_not_asked_for(factory: Callable[..., Any], claim: str, case: str) -> None:
    with pytest.raises(pytest.skip.Exception, match=f"does not claim (to )?{claim[:7]}"):
        getattr(kit_for(factory, **{claim: False}), case)()


def test_a_class_without_make_judge_is_told_so() -> None:
    with pytest.raises(NotImplementedError, match="RolloutJudgeTests needs a method make_judge"):
        RolloutJudgeTests().test_what_it_says_of_itself()

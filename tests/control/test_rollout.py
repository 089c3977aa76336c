"""What becomes of a roll-out, by the time, its judge and its candidate."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.control.rollout import (
    ENDED,
    GATE,
    Facts,
    Rollout,
    RolloutOptions,
    check_judge,
    check_options,
    claim_of,
    in_force,
    next_state,
    paused,
    promoted,
    resumed,
    rolled_back,
    why_held,
)
from servekit.errors import InvalidInputError
from servekit.interfaces import DrawnUnit, RolloutJudge, Ruling, Sample, Verdict

NO_WORSE = Verdict(Ruling.NO_WORSE, "as good")
WORSE = Verdict(Ruling.WORSE, "12 of 100 failed")
UNSURE = Verdict(Ruling.UNSURE, "too few")


def begun(**options: Any) -> Rollout:
    options = {"steps": (0.1, 0.5, 1.0), "hold_s": 60.0, "max_duration_s": 600.0, **options}
    return Rollout(number=1, endpoint="e", baseline="v1", options=RolloutOptions(to="v2", **options), began_at=1000.0)


def held(rollout: Rollout, at: float = 1000.0) -> Rollout:
    """The roll-out at its first step."""
    return in_force(next_state(rollout, Facts(at, is_ready=True)), at)


def seen(rollout: Rollout, at: float, verdict: Verdict | None = NO_WORSE, patience: int = 1) -> Rollout:
    return next_state(rollout, Facts(at, True, verdict, patience))


def test_it_waits_for_its_candidate() -> None:
    rollout = begun()
    assert next_state(rollout, Facts(1001.0, is_ready=False)) is rollout
    assert rollout.traffic == {"v1": 1.0}
    assert rollout.entry is None
    assert why_held(rollout, Facts(1001.0, is_ready=False)) == "until backend 'v2' has a replica that is ready"
    first = next_state(rollout, Facts(1001.0, is_ready=True))
    assert (first.state, first.traffic) == ("advancing", {"v1": 0.9, "v2": 0.1})
    assert first.entry is not None
    late = next_state(rollout, Facts(1601.0, is_ready=False))
    assert (late.state, late.reason) == ("inconclusive", "backend 'v2' was not ready within 600 s")


def test_a_step_takes_its_time_and_needs_its_judge() -> None:
    rollout = held(begun())
    assert seen(rollout, 1059.0) is rollout
    assert seen(rollout, 1060.0, UNSURE) is rollout
    second = seen(rollout, 1060.0)
    assert (second.state, second.share, second.reason) == ("advancing", 0.5, "as good")
    assert seen(second, 2000.0) is second, "its share is not in force yet"
    second = in_force(second, 1061.0)
    assert seen(second, 1120.0) is second
    end = seen(second, 1121.0)
    assert (end.state, end.traffic, end.ended_at, end.entry) == ("promoted", {"v2": 1.0}, 1121.0, None)
    assert seen(end, 9000.0, WORSE) is end


def test_a_candidate_that_is_worse_goes_back_at_once() -> None:
    end = seen(held(begun()), 1001.0, WORSE)
    assert (end.state, end.traffic, end.reason) == ("rolled_back", {"v1": 1.0}, "12 of 100 failed")
    stays = seen(held(begun(on_failure="pause")), 1001.0, WORSE)
    assert (stays.state, stays.traffic) == ("paused", {"v1": 0.9, "v2": 0.1})


def test_a_patient_judge_is_believed_when_it_says_so_again() -> None:
    rollout = seen(held(begun()), 1001.0, WORSE, patience=3)
    rollout = seen(rollout, 1002.0, WORSE, patience=3)
    assert "(2 of 3 looks in a row)" in why_held(rollout, Facts(1002.0, True, WORSE, 3))
    assert seen(rollout, 1003.0, WORSE, patience=3).state == "rolled_back"
    rollout = seen(rollout, 1003.0, UNSURE, patience=3)
    assert seen(rollout, 1004.0, WORSE, patience=3).state == "holding"
    assert seen(rollout, 1004.0, None, patience=3) is rollout, "not asked, not counted"


def test_one_that_is_not_certain_in_time_asks() -> None:
    rollout = seen(held(begun()), 1600.0, UNSURE)
    assert (rollout.state, rollout.traffic) == ("inconclusive", {"v1": 0.9, "v2": 0.1})
    assert rollout.reason == "not certain after 600 s at this step: too few"
    assert seen(rollout, 1700.0) is rollout
    again = in_force(resumed(rollout, 2000.0), 2000.0)
    assert (again.state, again.share, again.base) == ("holding", 0.1, None)
    assert seen(again, 2060.0).share == 0.5


def test_a_gate_is_passed_by_hand() -> None:
    rollout = held(begun(steps=(0.1, GATE, 1.0)))
    gate = seen(rollout, 1060.0)
    assert (gate.state, gate.share) == ("paused", 0.1)
    assert gate.reason.startswith("a gate: ")
    assert seen(gate, 5000.0, WORSE) is gate
    assert resumed(gate, 5000.0).state == "promoted"


def test_a_first_gate_comes_before_any_traffic() -> None:
    gate = next_state(begun(steps=(GATE, 0.5, 1.0)), Facts(1000.0, is_ready=True))
    assert (gate.state, gate.traffic, gate.entry) == ("paused", {"v1": 1.0}, None)
    assert resumed(gate, 1001.0).share == 0.5


def test_one_that_was_paused_before_its_candidate_was_ready_waits_on() -> None:
    assert resumed(paused(begun(), "by somebody"), 1500.0).state == "waiting"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"steps": ()}, "steps are 1 to 100"),
        ({"steps": (0.1, 0.1, 1.0)}, "each step is a larger share"),
        ({"steps": (0.1, 0.5)}, "the last step is 1.0"),
        ({"steps": (0.1, 1.0, GATE)}, "the last step is 1.0"),
        ({"steps": (10, 50, 100)}, "10 % is 0.1"),
        ({"steps": (0.0, 1.0)}, "above 0"),
        ({"steps": (0.1, "gates", 1.0)}, "or 'gate'"),
        ({"steps": (float("nan"), 1.0)}, "above 0"),
        ({"steps": (1.0,)}, "nothing to compare with"),
        ({"hold_s": -1.0}, "hold_s is -1"),
        ({"keep_warm_s": float("inf")}, "keep_warm_s is inf"),
        ({"hold_s": 100.0, "warmup_s": 10.0, "max_duration_s": 60.0}, "is over before the first step"),
        ({"notify": "ops@example.org"}, "the URL of a webhook"),
        ({"notify": "http://"}, "the URL of a webhook"),
        ({"notify": "http://x y/"}, "the URL of a webhook"),
        ({"notify": []}, "the URL of a webhook"),
        ({"notify": [""]}, "the URL of a webhook"),
        ({"on_failure": "stop"}, "give 'rollback' or 'pause'"),
    ],
)
def test_what_no_roll_out_can_be_made_of_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        check_options(begun(**options).options)


_verdicts = st.one_of(st.none(), st.sampled_from([NO_WORSE, WORSE, UNSURE]))


@given(
    shares=st.lists(st.floats(0.001, 0.999), min_size=1, max_size=4, unique=True),
    gates=st.sets(st.integers(0, 4)),
    looks=st.lists(st.tuples(st.floats(0, 200), st.booleans(), _verdicts, st.booleans()), max_size=40),
    patience=st.integers(1, 3),
    on_failure=st.sampled_from(["rollback", "pause"]),
)
def test_whatever_happens_the_share_grows_or_goes_back_to_nothing(
    shares: list[float], gates: set[int], looks: list[Any], patience: int, on_failure: str
) -> None:
    steps: list[Any] = [*sorted(shares), 1.0]
    for at in sorted(gates, reverse=True):
        steps.insert(min(at, len(steps) - 1), GATE)
    rollout = begun(steps=tuple(steps), on_failure=on_failure)
    check_options(rollout.options)
    now = 1000.0
    for pause_s, is_ready, verdict, by_hand in looks:
        now += pause_s
        before, was_over = rollout.share, rollout.state in ENDED
        if by_hand and rollout.state in ("paused", "inconclusive"):
            rollout = resumed(rollout, now)
        rollout = next_state(rollout, Facts(now, is_ready, verdict, patience))
        if was_over:
            assert rollout.share == before
        assert rollout.share >= before or (rollout.state == "rolled_back" and rollout.share == 0)
        assert sum(rollout.traffic.values()) == pytest.approx(1.0)
        assert (rollout.entry is None) == (rollout.state in ENDED or rollout.share == 0)
        assert rollout.state != "promoted" or rollout.traffic == {"v2": 1.0}
        rollout = in_force(rollout, now)


def test_the_ends_that_somebody_decides() -> None:
    rollout = held(begun())
    assert promoted(rollout, 1.0, "by x").traffic == {"v2": 1.0}
    assert rolled_back(rollout, 1.0, "by x").traffic == {"v1": 1.0}


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("reports", "accuracy"),
        ("reports", 3),
        ("look_every_s", "soon"),
        ("look_every_s", 0),
        ("patience", 0),
        ("claim", object()),
        ("per_step", 1),
    ],
)
def test_a_judge_says_of_itself_what_can_be_used(attribute: str, value: Any) -> None:
    class Odd(RolloutJudge):
        def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
            return UNSURE

    judge = Odd()
    check_judge("odd", judge)
    setattr(judge, attribute, value)
    with pytest.raises(InvalidInputError, match=f"judge 'odd' has {attribute} = "):
        check_judge("odd", judge)


def test_without_chance_nothing_is_guaranteed() -> None:
    class Sure(RolloutJudge):
        claim = "at most 5 %"

        def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
            return UNSURE

    assert claim_of(Sure(), DrawnUnit.REQUEST) == "at most 5 %"
    assert claim_of(Sure(), DrawnUnit.KEY).startswith("none, for the endpoint's policy keeps each key at one version")
    assert claim_of(Sure(), DrawnUnit.NONE).startswith("none, for the endpoint's policy does not draw")

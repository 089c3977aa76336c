"""The simulation of judges, and by it: how often ``sequential`` is wrong, and what it finds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from benchmarks.judges import (
    ALPHA,
    P99_S,
    TABLES,
    FixedSample,
    Rollout,
    Seen,
    Step,
    Version,
    judges,
    looks,
    main,
    planned,
    quantiles,
    watch,
    z_score,
)

from servekit.interfaces import RolloutJudge
from servekit.tallies import FINE_BOUNDS
from servekit_judges import Sequential

STEPS = (Step(0.1, 4_000), Step(0.5, 4_000))


def rolled_back(judge: RolloutJudge, rollout: Rollout, count: int) -> int:
    return sum(watch(judge, rollout, seed).rolled_back is not None for seed in range(count))


def most_by_chance(count: int, chance: float) -> float:
    """Three and a half deviations more than expected."""
    return count * chance + 3.5 * math.sqrt(count * chance * (1 - chance))


# -- the guarantee -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "steps"), [(0.01, None), (0.05, None), (0.01, 2)])
def test_of_equal_versions_few_are_rolled_back_however_often_one_looks(rate: float, steps: int | None) -> None:
    rollout = Rollout(Version(rate), Version(rate), STEPS, look_every=400)
    assert rolled_back(Sequential(ALPHA, steps=steps), rollout, 100) <= most_by_chance(100, ALPHA)


def test_a_higher_alpha_is_kept_too() -> None:
    rollout = Rollout(Version(0.05), Version(0.05), STEPS, look_every=200)
    assert rolled_back(Sequential(0.4, quantiles=()), rollout, 100) <= most_by_chance(100, 0.4)


def test_a_test_for_one_look_does_not_keep_it() -> None:
    """So the simulation would show a judge that is wrong too often."""
    rollout = Rollout(Version(0.05), Version(0.05), STEPS, look_every=200)
    assert rolled_back(FixedSample(), rollout, 100) > most_by_chance(100, ALPHA)
    assert rolled_back(FixedSample(2_400), rollout, 100) <= most_by_chance(100, 2 * ALPHA)


def test_of_candidates_worse_by_the_margin_few_are_called_no_worse() -> None:
    rollout = Rollout(Version(0.01), Version(0.02), STEPS, look_every=400)
    seen = [watch(Sequential(ALPHA), rollout, seed) for seed in range(100)]
    assert sum(one.passed is not None for one in seen) <= most_by_chance(100, ALPHA)


@pytest.mark.parametrize("candidate", [Version(0.1), Version(0.05, tail=2.0)])
def test_a_version_that_is_twice_as_bad_is_caught(candidate: Version) -> None:
    rollout = Rollout(Version(0.05), candidate, (Step(0.5, 10_000),), look_every=200)
    assert rolled_back(Sequential(ALPHA), rollout, 30) == 30


def test_an_outage_while_the_shares_change() -> None:
    """A judgement of the whole roll-out takes it for the candidate's fault; that of each step does not."""
    rollout = Rollout(Version(0.01), Version(0.01), (Step(0.1, 10_000), Step(0.5, 10_000, outage=0.25)), 1_000)
    assert rolled_back(Sequential(ALPHA, steps=None), rollout, 30) > 15
    assert rolled_back(Sequential(ALPHA, steps=2), rollout, 30) <= 2


# -- the simulation ----------------------------------------------------------------------------------------------------


def test_what_is_drawn() -> None:
    rollout = Rollout(Version(0.1), Version(0.3), (Step(0.1, 2_000), Step(0.5, 1_000)), look_every=500)
    whole = list(looks(rollout, 1, per_step=False))
    parts = list(looks(rollout, 1, per_step=True))
    assert [requests for requests, *_ in whole] == [requests for requests, *_ in parts] == [50, 100, 150, 200, 450, 700]
    assert [candidate.requests for *_, candidate in whole] == [50, 100, 150, 200, 450, 700]
    assert [candidate.requests for *_, candidate in parts] == [50, 100, 150, 200, 250, 500]
    for _, *samples in whole + parts:
        assert all(sum(sample.durations) == sample.requests for sample in samples)
    _, baseline, candidate = whole[-1]
    assert baseline.errors / baseline.requests == pytest.approx(0.1, abs=0.05)
    assert candidate.errors / candidate.requests == pytest.approx(0.3, abs=0.08)


def test_a_longer_tail_is_that_and_no_more() -> None:
    usual, slow = (list(Version(0.0, tail).chances()) for tail in (1.0, 2.0))
    assert sum(usual) == pytest.approx(1.0)
    assert sum(slow) == pytest.approx(1.0)
    fast = sum(bound <= 0.1 for bound in FINE_BOUNDS)
    assert slow[:fast] == usual[:fast]

    def above(chances: list[float], limit_s: float) -> float:
        return sum(chances[sum(bound < limit_s for bound in FINE_BOUNDS) + 1 :])

    bound_s = next(bound for bound in FINE_BOUNDS if bound >= 2 * P99_S)
    assert above(slow, bound_s) == pytest.approx(0.01, abs=0.005)
    assert above(usual, bound_s) < 0.001


def test_planned_samples_are_as_tables_have_them() -> None:
    """For 5 % against 10 % at 2.5 % one-sided and 80 %: 435 in each arm (Fleiss, without a correction)."""
    rollout = Rollout(Version(0.05), Version(0.1), (Step(0.5, 10_000),), look_every=2)
    assert planned(rollout) == pytest.approx(435, abs=2)
    assert z_score(0, 10, 0, 10) == 0.0
    assert z_score(50, 1_000, 100, 1_000) == pytest.approx(4.246, abs=0.01)


def test_quantiles_of_what_was_not_always_reached() -> None:
    assert quantiles([*range(1, 11)]) == ["5", "9"]
    assert quantiles([1, 1_500, None]) == ["1,500", "-"]
    assert Seen(None, 3).passed == 3
    assert list(judges(0.01, 100)) == [
        "sequential",
        "sequential, whole",
        "threshold",
        "z-test, each look",
        "z-test, one look",
    ]


def test_the_tables_go_to_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- judges: begin -->\n<!-- judges: end -->\nafter\n")
    assert main(["--rollouts", "2", "--jobs", "1", "--only", "outage", "--only", "passed", "--page", str(page)]) == 0
    printed = capsys.readouterr().out
    assert all(line in page.read_text() for line in printed.splitlines())
    assert TABLES["outage"][0] in printed
    assert TABLES["equal"][0] not in printed
    assert "share has grown  sequential, whole" in printed

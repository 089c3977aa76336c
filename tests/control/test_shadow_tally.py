"""Noise is subtracted: what two answers of one version differ in is no difference between versions."""

from __future__ import annotations

import random

import pytest

from servekit.control.shadow_tally import (
    FEW_REPEATS,
    MOST_EXAMPLES,
    MOST_PATHS,
    MOST_TOLD,
    ShadowExample,
    ShadowTally,
    is_beyond_noise,
)

EXAMPLE = ShadowExample("1", "2", "id")
NOISE = {f"/noisy{n}": share for n, share in enumerate([1.0, 0.9, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01])}
"""By field, how often two answers to the same request differ in it."""


def found(*paths: str) -> dict[tuple[str, str], ShadowExample]:
    return {(path, "value"): EXAMPLE for path in paths}


def simulated(seed: int, pairs: int, changed: float) -> ShadowTally:
    """A shadow with ten noisy fields; the new version has another value in ``/k`` for ``changed`` of the requests."""
    draw, tally = random.Random(seed), ShadowTally()
    for number in range(pairs):
        noisy = [path for path, share in NOISE.items() if draw.random() < share]
        tally.add(found(*noisy, *(["/k"] if draw.random() < changed else [])), repeat=False)
        if number % 2:
            tally.add(found(*(path for path, share in NOISE.items() if draw.random() < share)), repeat=True)
    return tally


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("changed", [1.0, 0.3, 0.1])
def test_one_changed_field_among_ten_noisy_ones_is_found_and_no_noisy_one(seed: int, changed: float) -> None:
    tally = simulated(seed, 1000, changed)
    assert tally.beyond_noise() == [("/k", "value")]
    told = tally.told()
    assert told["differing"] == told["paths"][0]["count"] == pytest.approx(1000 * changed, rel=0.4)
    assert told["noisy_paths"] == 10
    assert sorted(told["noisy"]) == sorted(NOISE)
    assert told["noisy"][0] == "/noisy0"


def test_noisy_paths_are_told_once_and_bounded() -> None:
    tally = ShadowTally()
    for repeat in (False, True) * FEW_REPEATS:
        tally.add({(f"/{n}", kind): EXAMPLE for n in range(MOST_TOLD + 5) for kind in ("type", "value")}, repeat=repeat)
    told = tally.told()
    assert (told["noisy_paths"], len(told["noisy"]), len(set(told["noisy"]))) == (
        2 * (MOST_TOLD + 5),
        MOST_TOLD,
        MOST_TOLD,
    )


def test_equal_versions_seldom_differ() -> None:
    """Of a hundred shadows, each with ten noisy fields, two at most name anything."""
    assert sum(bool(simulated(seed, 400, 0.0).beyond_noise()) for seed in range(100)) <= 2


def test_before_noise_is_known_all_is_told() -> None:
    tally = ShadowTally()
    for _ in range(3):
        tally.add(found("/k"), repeat=False)
    tally.add(found(), repeat=False)
    assert (tally.pairs, tally.differing()) == (4, 3)
    assert is_beyond_noise(1, 4, FEW_REPEATS - 1, FEW_REPEATS - 1)
    assert not is_beyond_noise(0, 4, 0, 0)


@pytest.mark.parametrize(
    ("count", "pairs", "noise", "repeats", "beyond"),
    [
        (1000, 1000, 0, 500, True),
        (1000, 1000, 500, 500, False),
        (10, 20, 4, 10, False),
        (620, 1000, 450, 1000, False),  # 16 % of the sum: below Diffy's relative threshold, however sure.
        (300_000, 1_000_000, 150_000, 1_000_000, True),
        (240, 1_000_000, 0, 1_000_000, False),  # 0.024 %: below the absolute one.
        (3, 1000, 0, 10, False),
    ],
)
def test_thresholds(count: int, pairs: int, noise: int, repeats: int, beyond: bool) -> None:
    assert is_beyond_noise(count, pairs, noise, repeats) is beyond


def test_pairs_that_differ_in_several_paths_count_once() -> None:
    tally = ShadowTally()
    tally.add(found("/a", "/b"), repeat=False)
    tally.add(found("/b"), repeat=False)
    tally.add(found("/c"), repeat=False)
    tally.add(found(), repeat=False)
    told = tally.told()
    assert (told["pairs"], told["differing"]) == (4, 3)
    assert [(each["path"], each["count"]) for each in told["paths"]] == [("/b", 2), ("/a", 1), ("/c", 1)]


def test_the_report_is_bounded() -> None:
    tally = ShadowTally()
    for number in range(MOST_PATHS + 100):
        tally.add(found(f"/{number}", "/all"), repeat=False)
    told = tally.told()
    assert len(tally.paths) == MOST_PATHS
    assert len(told["paths"]) == MOST_TOLD
    assert told["paths_left_out"] == MOST_PATHS - MOST_TOLD
    assert told["paths"][0]["path"] == "/all"
    assert len(told["paths"][0]["examples"]) == MOST_EXAMPLES
    assert told["differing"] == told["pairs"] == MOST_PATHS + 100

"""Splits whose order is drawn: as exact as ever, by chance all the same, and blind to what is in the requests."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.interfaces import DrawnUnit, RoutingPolicy
from servekit.testing.conformance import FakeRequest, fake_backends
from servekit_weighted import FixedPacking, HeaderRules, LeastLoaded, RandomChoice, RoundRobin, Sticky, WeightedSplit
from servekit_weighted.drawn import DrawnSplit

REQUEST = FakeRequest()
DEVIATIONS = 6.0
"""Of a count that is right, so far from its mean at most: beyond, with probability 2e-9."""


def counted(split: DrawnSplit, shares: Sequence[int], requests: int, tolerance: float) -> Counter[int]:
    """Each prefix is checked: no version is so many requests away from its share."""
    counts: Counter[int] = Counter()
    total = sum(shares)
    for n in range(1, requests + 1):
        counts[split.next()] += 1
        for index, share in enumerate(shares):
            assert abs(counts[index] * total - n * share) < tolerance * total
    return counts


@given(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), st.integers(), st.integers(1, 500))
def test_two_versions_are_never_one_request_away(shares: tuple[int, int], seed: int, requests: int) -> None:
    counted(DrawnSplit(shares, random.Random(seed)), shares, requests, 1.0)


@given(st.lists(st.integers(1, 100), min_size=3, max_size=8), st.integers())
def test_of_more_versions_each_is_as_near_as_it_has_halvings(shares: list[int], seed: int) -> None:
    counted(DrawnSplit(shares, random.Random(seed)), shares, 300, 2.0 if len(shares) <= 4 else 3.0)


@given(st.integers(1, 40), st.integers())
def test_each_block_has_one_request_of_the_lighter_version(length: int, seed: int) -> None:
    split = DrawnSplit([length, 1], random.Random(seed))
    for _ in range(5):
        assert sum(split.next() for _ in range(length + 1)) == 1


@pytest.mark.parametrize(
    "shares", [[1, 1], [99, 1], [9, 1], [7, 3], [2, 5], [1, 3], [3, 2, 1], [5, 1, 1, 4, 2]], ids=str
)
def test_each_request_goes_to_a_version_with_a_chance_of_its_share(shares: list[int]) -> None:
    runs, requests = 4000, 30
    found = [Counter[int]() for _ in range(requests)]
    for seed in range(runs):
        split = DrawnSplit(shares, random.Random(seed))
        for number in range(requests):
            found[number][split.next()] += 1
    for index, share in enumerate(shares):
        chance = share / sum(shares)
        allowed = DEVIATIONS * (runs * chance * (1 - chance)) ** 0.5
        assert all(abs(counts[index] - runs * chance) < allowed for counts in found)


# -- of policies -----------------------------------------------------------------------------------------------------


def heavy_ones(policy: RoutingPolicy, requests: int = 1000) -> Counter[str]:
    """The heavy ones that each of two equal versions gets, where light and heavy requests come in turns."""
    backends = fake_backends({"v1": 0.5, "v2": 0.5})
    policy.traffic_changed({"v1": 0.5, "v2": 0.5})
    names = [policy.choose_backend(REQUEST, backends).name for _ in range(requests)]
    assert Counter(names) == {"v1": requests // 2, "v2": requests // 2}
    return Counter(names[1::2])


SPLITS: list[Callable[[], RoutingPolicy]] = [WeightedSplit, RoundRobin, LeastLoaded]


@pytest.mark.parametrize("make", SPLITS)
def test_the_exact_order_gives_one_version_all_heavy_requests_and_a_drawn_one_each_its_half(
    make: Callable[[], RoutingPolicy],
) -> None:
    policy = make()
    assert heavy_ones(policy) == {"v2": 500}
    for seed in range(50):
        assert policy.draw_order(seed) is DrawnUnit.REQUEST
        heavy = heavy_ones(policy)
        assert abs(heavy["v1"] - 250) < DEVIATIONS * (500 / 4) ** 0.5
    policy.draw_order(None)
    assert heavy_ones(policy) == {"v2": 500}


def names_of(policy: RoutingPolicy, requests: int = 100) -> list[str]:
    backends = fake_backends({"a": 0.5, "b": 0.5})
    return [policy.choose_backend(REQUEST, backends).name for _ in range(requests)]


@pytest.mark.parametrize(
    "make",
    [
        *SPLITS,
        RandomChoice,
        FixedPacking,
        lambda: Sticky(header="x-user"),
        lambda: HeaderRules([{"header": "x", "backend": "a"}]),
    ],
)
def test_an_order_is_that_of_its_seed(make: Callable[[], RoutingPolicy]) -> None:
    orders = []
    for seed in (1, 1, 2):
        policy = make()
        policy.draw_order(seed)
        policy.traffic_changed({"a": 0.5, "b": 0.5})
        orders.append(names_of(policy))
    assert orders[0] == orders[1] != orders[2]


def test_what_each_policy_draws() -> None:
    rules = [{"header": "x", "backend": "a"}]
    policies = [RandomChoice(), FixedPacking(3), FixedPacking(1), HeaderRules(rules), Sticky(header="x-user")]
    units = [policy.draw_order(1) for policy in policies]
    assert units == [DrawnUnit.REQUEST, DrawnUnit.KEY, DrawnUnit.REQUEST, DrawnUnit.NONE, DrawnUnit.KEY]


def test_runs_stay_whole() -> None:
    policy = FixedPacking(k=4)
    policy.draw_order(5)
    names = names_of(policy, 400)
    assert all(len(set(names[at : at + 4])) == 1 for at in range(0, 400, 4))
    assert names != names[:8] * 50


@given(
    st.lists(st.floats(0.0, 1.0), min_size=2, max_size=12),
    st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=20, unique=True),
)
def test_a_key_moves_to_the_candidate_as_its_share_grows_and_back_only_as_it_shrinks(
    candidate_shares: list[float], keys: list[str]
) -> None:
    policy = Sticky(header="x-user")
    policy.draw_order(1)
    sides: dict[str, str] = {}
    before = 0.0
    for share in candidate_shares:
        weights = {name: weight for name, weight in (("old", 1 - share), ("new", share)) if weight > 0}
        policy.traffic_changed(weights)
        for key in keys:
            chosen = policy.choose_backend(FakeRequest({"x-user": key}), fake_backends(weights)).name
            was = sides.get(key, "old")
            if chosen != was:
                assert share > before if chosen == "new" else share < before
            sides[key] = chosen
        before = share

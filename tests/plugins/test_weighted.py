from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.interfaces import ReplicaView
from servekit_weighted import MAX_REMEMBERED, WeightedSplit


@dataclass(frozen=True, eq=False)
class Backend:
    name: str
    weight: float
    replicas: Sequence[ReplicaView] = ()


@dataclass(frozen=True)
class Info:
    method: str = "GET"
    path: str = "/"
    endpoint: str = "e"
    id: str = "1"

    @property
    def headers(self) -> Mapping[str, str]:
        return {}


REQUEST = Info()


def backends_of(weights: Sequence[float]) -> list[Backend]:
    return [Backend(f"b{index}", weight) for index, weight in enumerate(weights)]


def check_prefixes(policy: WeightedSplit, backends: list[Backend], shares: Sequence[int], requests: int) -> Counter:
    """In whole numbers: shares[i] of every sum(shares) requests are for backends[i], and no prefix is 1 away."""
    total = sum(shares)
    counts: Counter[str] = Counter()
    for n in range(1, requests + 1):
        counts[policy.choose_backend(REQUEST, backends).name] += 1
        for backend, share in zip(backends, shares, strict=True):
            assert abs(counts[backend.name] * total - n * share) < total, (n, backend, counts)
    return counts


def test_nine_to_one_is_900_to_100() -> None:
    backends = backends_of([0.9, 0.1])
    counts = check_prefixes(WeightedSplit(), backends, [9, 1], 1000)
    assert counts == {"b0": 900, "b1": 100}


def test_the_shares_do_not_drift() -> None:
    policy, backends = WeightedSplit(), backends_of([0.7, 0.2, 0.1])
    counts = Counter(policy.choose_backend(REQUEST, backends).name for _ in range(100_000))
    assert counts == {"b0": 70_000, "b1": 20_000, "b2": 10_000}


def test_weights_on_which_smooth_weighted_round_robin_fails() -> None:
    shares = [73, 4, 23, 4, 73]
    check_prefixes(WeightedSplit(), backends_of([share / 177 for share in shares]), shares, 2 * 177)


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=8), st.integers(1, 400))
def test_every_prefix_is_within_one(shares: list[int], requests: int) -> None:
    weights = [share / sum(shares) for share in shares]
    check_prefixes(WeightedSplit(), backends_of(weights), shares, requests)


@given(st.lists(st.floats(1e-9, 1), min_size=2, max_size=6), st.integers(1, 400))
def test_every_prefix_is_within_one_for_weights_of_any_kind(raw: list[float], requests: int) -> None:
    weights = [value / sum(raw) for value in raw]
    backends, policy = backends_of(weights), WeightedSplit()
    exact = [Fraction(weight) / sum(map(Fraction, weights)) for weight in weights]
    counts: Counter[str] = Counter()
    for n in range(1, requests + 1):
        counts[policy.choose_backend(REQUEST, backends).name] += 1
        for backend, weight in zip(backends, exact, strict=True):
            assert abs(counts[backend.name] - n * weight) < 1 + 1e-9


def test_weights_that_sum_to_nearly_one_are_taken_relative_to_their_sum() -> None:
    check_prefixes(WeightedSplit(), backends_of([0.333333] * 3), [1, 1, 1], 3000)


def test_a_single_backend_gets_everything() -> None:
    [backend] = backends_of([1.0])
    policy = WeightedSplit()
    assert all(policy.choose_backend(REQUEST, [backend]) is backend for _ in range(5))


# -- presence --------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 50), min_size=2, max_size=4),
    st.lists(st.tuples(st.integers(1, 15), st.integers(1, 60)), max_size=8),
)
def test_every_set_of_present_backends_is_split_within_one(shares: list[int], phases: list[tuple[int, int]]) -> None:
    """Whoever comes and goes, each set's requests, taken together, are split by the weights of its members."""
    policy, backends = WeightedSplit(), backends_of([share / sum(shares) for share in shares])
    counts: dict[tuple[int, ...], Counter[int]] = {}
    for mask, requests in phases:
        present = tuple(index for index in range(len(shares)) if mask >> index & 1)
        if not present:
            continue
        count = counts.setdefault(present, Counter())
        total = sum(shares[index] for index in present)
        for _ in range(requests):
            chosen = policy.choose_backend(REQUEST, [backends[index] for index in present])
            count[backends.index(chosen)] += 1
            for index in present:
                assert abs(count[index] * total - count.total() * shares[index]) < total


def test_one_that_returns_is_not_flooded() -> None:
    policy = WeightedSplit()
    a, b, c = backends_of([0.5, 0.3, 0.2])
    for _ in range(7):
        policy.choose_backend(REQUEST, [a, b, c])
    away = Counter(policy.choose_backend(REQUEST, [b, c]).name for _ in range(1000))
    assert away == {"b1": 600, "b2": 400}
    back = Counter(policy.choose_backend(REQUEST, [a, b, c]).name for _ in range(10))
    assert 4 <= back["b0"] <= 6


def test_one_that_flaps_does_not_starve_the_others() -> None:
    """Every change of who is present restarting the count would leave the smallest share without a request."""
    policy = WeightedSplit()
    a, b, c = backends_of([0.45, 0.1, 0.45])
    counts: Counter[str] = Counter()
    for _ in range(100):
        counts[policy.choose_backend(REQUEST, [a, b, c]).name] += 1
        counts[policy.choose_backend(REQUEST, [a, b]).name] += 1
    assert counts["b1"] >= 100 * 0.1 - 1 + 100 * 0.1 / 0.55 - 1


def test_the_choice_is_one_of_the_views_that_were_given() -> None:
    """The core may make new views at every snapshot, and list them in any order: the counting goes on."""
    policy = WeightedSplit()
    counts: Counter[str] = Counter()
    for n in range(100):
        backends = backends_of([0.9, 0.1])[:: 1 if n % 2 else -1]
        chosen = policy.choose_backend(REQUEST, backends)
        assert any(chosen is backend for backend in backends)
        counts[chosen.name] += 1
    assert counts == {"b0": 90, "b1": 10}


def test_the_list_of_views_may_change_in_place() -> None:
    policy = WeightedSplit()
    a, b, c = backends_of([0.5, 0.3, 0.2])
    backends = [a, b, c]
    policy.choose_backend(REQUEST, backends)
    backends.remove(b)
    assert Counter(policy.choose_backend(REQUEST, backends).name for _ in range(70)) == {"b0": 50, "b2": 20}


def test_what_is_remembered_is_bounded() -> None:
    """A set that many others have followed is forgotten: its counting starts anew, where it would have alternated."""
    policy = WeightedSplit()
    pair = backends_of([0.5, 0.5])
    first = policy.choose_backend(REQUEST, pair)
    for index in range(MAX_REMEMBERED):
        other = [Backend(f"{index}-{share}", share) for share in (0.75, 0.25)]
        counts = Counter(policy.choose_backend(REQUEST, other).weight for _ in range(8))
        assert counts == {0.75: 6, 0.25: 2}
    assert policy.choose_backend(REQUEST, pair) is first


# -- traffic ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", range(12))
def test_new_traffic_starts_anew(before: int) -> None:
    policy = WeightedSplit()
    old = backends_of([0.9, 0.1])
    for _ in range(before):
        policy.choose_backend(REQUEST, old)
    new = backends_of([0.25, 0.75])
    policy.traffic_changed({backend.name: backend.weight for backend in new})
    check_prefixes(policy, new, [1, 3], 40)
    policy.traffic_changed({backend.name: backend.weight for backend in old})
    check_prefixes(policy, old, [9, 1], 40)

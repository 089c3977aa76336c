"""What each bundled policy chooses; that none breaks the rules is for the conformance kit to see (test_policies.py)."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.interfaces import RoutingPolicy
from servekit.testing.conformance import FakeBackend, FakeReplica, FakeRequest, fake_backends
from servekit_weighted import (
    FixedPacking,
    HeaderRules,
    LeastLoaded,
    RandomChoice,
    RoundRobin,
    Sticky,
    servekit_register_routing_policies,
)
from servekit_weighted.turns import FRESH_ROUNDS, MAX_REMEMBERED

REQUEST = FakeRequest()
RULES = [{"header": "X-Version", "value": "beta", "backend": "b"}, {"cookie": "user", "backend": "c"}]
OPTIONS: dict[str, dict[str, Any]] = {"header": {"rules": RULES}, "sticky": {"cookie": "session"}}


def names_of(policy: RoutingPolicy, backends: Sequence[FakeBackend], requests: int) -> list[str]:
    return [policy.choose_backend(REQUEST, backends).name for _ in range(requests)]


def ids_of(policy: RoutingPolicy, replicas: Sequence[FakeReplica], requests: int) -> list[str]:
    return [policy.choose_replica(REQUEST, replicas).id for _ in range(requests)]


def replicas_of(*loads: int | tuple[int, int]) -> list[FakeReplica]:
    """Outstanding requests, or those and the queue length; the ids are ``0``, ``1`` …"""
    return [
        FakeReplica(str(number), *(load if isinstance(load, tuple) else (load,))) for number, load in enumerate(loads)
    ]


@given(st.integers(1, 6), st.integers(1, 5))
def test_round_robin_takes_replicas_in_turn(count: int, rounds: int) -> None:
    loaded = [FakeReplica(str(number), outstanding=number * 7) for number in range(count)]
    assert ids_of(RoundRobin(), loaded, count * rounds) == [str(number) for number in range(count)] * rounds


def test_the_turns_of_two_backends_are_apart() -> None:
    policy = RoundRobin()
    one, other = fake_backends({"a": 0.5, "b": 0.5}, replicas=3)
    chosen = [policy.choose_replica(REQUEST, backend.replicas).id for _ in range(3) for backend in (one, other)]
    assert chosen == ["a-1", "b-1", "a-2", "b-2", "a-3", "b-3"]


def test_a_replica_without_room_loses_only_its_own_turns() -> None:
    policy = RoundRobin()
    a, b, c = replicas_of(0, 0, 0)
    assert ids_of(policy, [a, b, c], 2) == ["0", "1"]
    assert ids_of(policy, [a, b], 2) == ["0", "1"]
    assert ids_of(policy, [a, b, c], 3) == ["2", "0", "1"]


def test_what_is_remembered_of_turns_is_bounded() -> None:
    policy = RoundRobin()
    for number in range(3 * MAX_REMEMBERED):
        policy.choose_replica(REQUEST, [FakeReplica(f"gone-{number}")])
    assert len(policy._turns._last) == MAX_REMEMBERED
    assert ids_of(policy, replicas_of(0, 0), 4) == ["0", "1", "0", "1"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=6))
def test_least_loaded_takes_the_least_load(loads: list[tuple[int, int]]) -> None:
    [chosen] = ids_of(LeastLoaded(), replicas_of(*loads), 1)
    assert sum(loads[int(chosen)]) == min(map(sum, loads))


def test_least_loaded_takes_equals_in_turn() -> None:
    assert ids_of(LeastLoaded(), replicas_of(2, 1, (0, 1), 2), 5) == ["1", "2", "1", "2", "1"]


def test_one_that_was_busy_once_is_asked_again() -> None:
    """Its last answer said that it held 9, from another ingress worker say; it says nothing new until it is asked."""
    policy = LeastLoaded()
    idle, busy = replicas_of(0, 0)
    ids_of(policy, [idle, busy], 2)
    busy = FakeReplica("1", queue_length=9)
    assert ids_of(policy, [idle, busy], 2 * FRESH_ROUNDS) == ["0"] * 2 * FRESH_ROUNDS
    assert "1" in ids_of(policy, [idle, busy], 2)
    assert "1" not in ids_of(policy, [idle, busy], 2 * FRESH_ROUNDS - 2), "it was asked, so that its word is news again"
    working = FakeReplica("1", outstanding=1, queue_length=9)
    assert ids_of(policy, [idle, working], 8 * FRESH_ROUNDS) == ["0"] * 8 * FRESH_ROUNDS


def test_what_other_backends_get_makes_no_word_old() -> None:
    policy, other = LeastLoaded(), fake_backends({"b": 0.99}, replicas=2)[0].replicas
    idle, busy = replicas_of(0, (0, 9))
    for _ in range(FRESH_ROUNDS):
        assert ids_of(policy, [idle, busy], 2) == ["0", "0"]
        ids_of(policy, other, 99)


def test_what_is_remembered_of_busy_replicas_is_bounded() -> None:
    policy = LeastLoaded()
    for number in range(2 * MAX_REMEMBERED):
        policy.choose_replica(REQUEST, [FakeReplica("idle"), FakeReplica(f"gone-{number}", queue_length=1)])
    assert len(policy._passed_over) <= MAX_REMEMBERED + 2


def test_random_spreads_over_replicas_and_repeats_with_its_seed() -> None:
    replicas, backends = replicas_of(9, 0, 0, 0), fake_backends({"a": 0.9, "b": 0.1})
    counts = Counter(ids_of(RandomChoice(seed=1), replicas, 4000))
    assert all(abs(counts[replica.id] - 1000) < 6 * math.sqrt(750) for replica in replicas)
    for choices in (
        lambda seed: ids_of(RandomChoice(seed), replicas, 40),
        lambda seed: names_of(RandomChoice(seed), backends, 40),
    ):
        assert choices(1) == choices(1) != choices(2)


@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 60))
def test_fixed_packing_of_equal_weights_is_round_robin_by_k(k: int, count: int, requests: int) -> None:
    backends = fake_backends({f"b{number}": 1 / count for number in range(count)})
    assert names_of(FixedPacking(k=k), backends, requests) == [f"b{n // k % count}" for n in range(requests)]


def test_fixed_packing_goes_by_weight_in_whole_runs() -> None:
    chosen = names_of(FixedPacking(k=4), fake_backends({"a": 0.75, "b": 0.25}), 4 * 40)
    runs = [chosen[start : start + 4] for start in range(0, len(chosen), 4)]
    assert all(len(set(run)) == 1 for run in runs)
    assert Counter(run[0] for run in runs) == {"a": 30, "b": 10}


def test_a_run_ends_with_its_backend_and_goes_on_beside_a_new_one() -> None:
    policy = FixedPacking(k=3)
    a, b, c = fake_backends({"a": 0.4, "b": 0.3, "c": 0.3})
    assert names_of(policy, [a, b], 1) == ["a"]
    assert names_of(policy, [b, c], 1) != ["a"]
    policy.traffic_changed({"a": 0.4, "b": 0.3, "c": 0.3})
    first = names_of(policy, [a, b], 1)
    assert names_of(policy, [c, b, a], 2) == first * 2


def cookie(text: str) -> Mapping[str, str]:
    return {"cookie": text}


@pytest.mark.parametrize(
    ("headers", "backend"),
    [
        ({"x-version": "beta"}, "b"),
        (cookie("user=7"), "c"),
        (cookie('a=1;user="7" ; b'), "c"),
        ({"x-version": "beta", "cookie": "user=7"}, "b"),
        ({"x-version": "other"}, "a"),
        (cookie("xuser=7"), "a"),
        (cookie("user="), "a"),
        (cookie("user"), "a"),
        (cookie("USER=7"), "a"),
        ({}, "a"),
    ],
)
def test_the_first_rule_that_fits_decides(headers: Mapping[str, str], backend: str) -> None:
    backends = fake_backends({"a": 0.998, "b": 0.001, "c": 0.001})
    assert HeaderRules(RULES).choose_backend(FakeRequest(headers), backends).name == backend


def test_a_rule_whose_backend_is_not_there_falls_back_to_the_split() -> None:
    policy = HeaderRules([{"header": "x", "backend": "gone"}, {"header": "x", "backend": "b"}])
    backends = fake_backends({"a": 0.9, "b": 0.1})
    chosen = Counter(policy.choose_backend(FakeRequest({"x": "1"}), backends).name for _ in range(100))
    assert chosen == {"a": 90, "b": 10}


def test_what_rules_send_does_not_count_in_the_split() -> None:
    policy, backends = HeaderRules(RULES), fake_backends({"a": 0.5, "b": 0.5})
    for _ in range(50):
        policy.choose_backend(FakeRequest({"x-version": "beta"}), backends)
    assert Counter(names_of(policy, backends, 10)) == {"a": 5, "b": 5}


# -- sticky ----------------------------------------------------------------------------------------------------------


CLIENTS = [FakeRequest({"x-user": f"user-{number}"}) for number in range(400)]


def homes(policy: RoutingPolicy, backends: Sequence[FakeBackend]) -> list[tuple[str, str]]:
    """Backend and replica of each of `CLIENTS`."""
    chosen = [policy.choose_backend(client, backends) for client in CLIENTS]
    return [
        (backend.name, policy.choose_replica(client, backend.replicas).id)
        for client, backend in zip(CLIENTS, chosen, strict=True)
    ]


def test_clients_stay_in_every_object_and_any_order() -> None:
    backends = fake_backends({"a": 0.6, "b": 0.4}, replicas=4)
    first = homes(Sticky(header="X-User"), backends)
    turned = [FakeBackend(b.name, b.weight, list(reversed(b.replicas))) for b in reversed(backends)]
    assert homes(Sticky(header="x-user"), turned) == first
    assert len(set(first)) == 8


def test_only_the_clients_of_what_went_away_move_and_they_come_back() -> None:
    policy, backends = Sticky(header="x-user"), fake_backends({"a": 0.5, "b": 0.3, "c": 0.2}, replicas=3)
    before = homes(policy, backends)
    without_b = homes(policy, [backend for backend in backends if backend.name != "b"])
    assert all(now == then for then, now in zip(before, without_b, strict=True) if then[0] != "b")
    fewer = [FakeBackend(b.name, b.weight, b.replicas[1:]) for b in backends]
    without_first = homes(policy, fewer)
    stayed = [(then, now) for then, now in zip(before, without_first, strict=True) if not then[1].endswith("-1")]
    assert stayed
    assert all(then == now for then, now in stayed)
    assert homes(policy, backends) == before


def test_a_client_moves_to_a_backend_only_if_that_one_has_gained_weight() -> None:
    policy = Sticky(header="x-user")
    before = homes(policy, fake_backends({"a": 0.5, "b": 0.5}))
    after = homes(policy, fake_backends({"a": 0.9, "b": 0.1}))
    moved = {(then[0], now[0]) for then, now in zip(before, after, strict=True) if then != now}
    assert moved == {("b", "a")}


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=8), st.sampled_from([1.01, 1.25, 2.0, 10.0]), st.integers(0, 99)
)
def test_no_replica_is_chosen_above_its_bound(loads: list[int], balance: float, client: int) -> None:
    """Mirrokni et al.: with m requests on n replicas, this one included, none has more than ⌈c·m/n⌉."""
    policy, replicas = Sticky(header="x-user", balance=balance), replicas_of(*loads)
    chosen = policy.choose_replica(CLIENTS[client], replicas)
    assert chosen.outstanding + 1 <= math.ceil(balance * (sum(loads) + 1) / len(loads))


def test_a_client_goes_back_when_its_replica_has_room_again() -> None:
    policy, client = Sticky(header="x-user"), CLIENTS[0]
    home = policy.choose_replica(client, replicas_of(0, 0, 0)).id
    busy = [FakeReplica(id, outstanding=9 if id == home else 0) for id in "012"]
    elsewhere = {policy.choose_replica(client, busy).id for _ in range(5)}
    assert len(elsewhere) == 1
    assert elsewhere != {home}
    assert policy.choose_replica(client, replicas_of(0, 0, 0)).id == home


def test_requests_without_a_key_take_the_better_of_two() -> None:
    policy, again = Sticky(header="x-user", seed=4), Sticky(header="x-user", seed=4)
    replicas = replicas_of(0, 5, 5)
    assert ids_of(policy, replicas, 50) == ids_of(again, replicas, 50)
    counts = Counter(ids_of(policy, replicas, 3000))
    assert abs(counts["0"] - 2000) < 6 * math.sqrt(3000 * 2 / 9)
    assert ids_of(Sticky(header="x-user", seed=4), replicas, 50) == ids_of(
        Sticky(header="x-user", seed=4), replicas, 50
    )
    assert Counter(names_of(policy, fake_backends({"a": 0.9, "b": 0.1}), 100)) == {"a": 90, "b": 10}


def test_no_policy_touches_the_random_numbers_of_others() -> None:
    """But for ``weighted``, whose two choices are the default ones."""
    backends = fake_backends({"a": 0.5, "b": 0.5}, replicas=4)
    random.seed(1)
    expected = random.random()
    for name, factory in servekit_register_routing_policies().items():
        if name == "weighted":
            continue
        random.seed(1)
        policy = factory(**OPTIONS.get(name, {}))
        for _ in range(20):
            policy.choose_replica(REQUEST, policy.choose_backend(REQUEST, backends).replicas)
        assert random.random() == expected, name

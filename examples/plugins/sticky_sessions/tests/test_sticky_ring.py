"""Made of what servekit gives to plugin authors, and nothing else."""

from __future__ import annotations

import math
import uuid
from collections import Counter

import pytest
from servekit_sticky_sessions import MOST_REPLICAS, StickyRing

import servekit as serve
from servekit.interfaces import RoutingPolicy
from servekit.testing.conformance import FakeReplica, FakeRequest, RoutingPolicyTests, fake_backends


class TestRequestsWithoutAKey(RoutingPolicyTests):
    tolerance = None
    deterministic_backends = deterministic_replicas = True

    def make_policy(self) -> RoutingPolicy:
        return StickyRing(cookie="session", seed=1)


class TestClients(RoutingPolicyTests):
    tolerance = math.inf  # clients are split, not requests
    deterministic_backends = deterministic_replicas = True

    def make_policy(self) -> RoutingPolicy:
        return StickyRing(header="X-User", virtual_nodes=5, seed=1)

    def make_request(self, number: int) -> FakeRequest:
        return FakeRequest({"x-user": f"user-{number % 7}"})


def client(number: int) -> FakeRequest:
    return FakeRequest({"x-user": f"user-{number}"})


def test_clients_are_split_by_weight() -> None:
    policy, weights = StickyRing(header="x-user"), {"a": 0.8, "b": 0.2}
    policy.traffic_changed(weights)
    counts = Counter(policy.choose_backend(client(n), fake_backends(weights)).name for n in range(5000))
    assert 0.15 < counts["b"] / 5000 < 0.25


def test_only_the_clients_of_a_replica_that_is_gone_move() -> None:
    policy, [backend] = StickyRing(header="x-user"), fake_backends({"a": 1.0}, replicas=5)
    before = [policy.choose_replica(client(n), backend.replicas).id for n in range(500)]
    after = [policy.choose_replica(client(n), backend.replicas[1:]).id for n in range(500)]
    assert set(before) == {replica.id for replica in backend.replicas}
    assert all(now == then for then, now in zip(before, after, strict=True) if then != "a-1")


@pytest.mark.parametrize("balance", [1.01, 1.25, 3.0])
def test_no_replica_is_chosen_above_its_bound(balance: float) -> None:
    policy, loads = StickyRing(header="x-user", balance=balance), [0] * 6
    for n in range(300):  # four clients send everything
        replicas = [FakeReplica(str(index), load) for index, load in enumerate(loads)]
        loads[int(policy.choose_replica(client(n % 4), replicas).id)] += 1
        assert max(loads) <= math.ceil(balance * sum(loads) / 6)


def test_the_ring_does_not_grow_for_ever() -> None:
    policy = StickyRing(header="x-user", virtual_nodes=1)
    for n in range(2 * MOST_REPLICAS):
        policy.choose_replica(client(1), [FakeReplica(f"replica-{n}")])
    assert len(policy._replicas) <= MOST_REPLICAS


class Session:
    def __init__(self, version: str) -> None:
        self.name = f"{version}-{uuid.uuid4()}"

    def __call__(self, flask_request) -> str:
        return self.name


def test_a_session_stays_with_its_replica(serve_instance) -> None:
    serve.create_endpoint("chat", "/chat", policy="sticky_ring", policy_options={"cookie": "session"})
    for name in ("a", "b"):
        serve.create_backend(name, Session, name, config={"num_replicas": 3})
    serve.set_traffic("chat", {"a": 0.5, "b": 0.5})

    def answers(session: int) -> set[str]:
        headers = {"cookie": f"theme=dark; session={session}"}
        return {serve_instance.client.get("/chat", headers=headers).text for _ in range(4)}

    seen = [answers(session) for session in range(30)]
    assert all(len(names) == 1 for names in seen)
    replicas = set().union(*seen)
    assert {name[0] for name in replicas} == {"a", "b"}
    assert 3 <= len(replicas) <= 6  # which of the six get no session is up to their ids


@pytest.mark.parametrize("options", [{}, {"header": "a", "cookie": "b"}, {"header": "a", "balance": 1}])
def test_bad_options_are_refused_when_the_endpoint_is_created(serve_instance, options) -> None:
    with pytest.raises(ValueError, match="sticky_ring"):
        serve.create_endpoint("chat", "/chat", policy="sticky_ring", policy_options=options)

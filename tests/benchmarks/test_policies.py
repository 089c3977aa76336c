from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from benchmarks.servers.policies import Expected, RandomReplica, Reported, RoundRobin

from servekit.interfaces import Outcome


@dataclass
class Request:
    id: str


REQUEST: Any = Request("1")


@dataclass
class Replica:
    id: str
    outstanding: int = 0
    queue_length: int = 0
    node: str = ""


def test_random_takes_each_of_them_sooner_or_later() -> None:
    replicas = [Replica("a"), Replica("b")]

    assert {RandomReplica().choose_replica(REQUEST, replicas).id for _ in range(100)} == {"a", "b"}


def test_round_robin_goes_on_behind_the_last_even_where_one_has_no_room() -> None:
    policy, (a, b, c) = RoundRobin(), (Replica("a"), Replica("b"), Replica("c"))
    offered = [[b, c, a], [a, b, c], [a, c], [a, b, c], [a, b, c]]

    assert [policy.choose_replica(REQUEST, replicas).id for replicas in offered] == ["a", "b", "c", "a", "b"]


def test_reported_heeds_what_other_ingress_workers_have_there() -> None:
    busy_with_others, idle = Replica("a", outstanding=0, queue_length=3), Replica("b", outstanding=1)

    assert {Reported().choose_replica(REQUEST, [busy_with_others, idle]).id for _ in range(20)} == {"b"}


def test_expected_tries_each_and_then_takes_the_one_that_answers_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, slow, fast = Expected(), Replica("slow"), Replica("fast")
    now = 0.0
    monkeypatch.setattr("benchmarks.servers.policies.time.monotonic", lambda: now)
    for replica, took_s in ((slow, 0.1), (fast, 0.01)):
        policy.choose_replica(REQUEST, [replica, replica])
        now += took_s
        policy.request_finished(REQUEST, replica, Outcome.ANSWERED)

    fast.outstanding = 8
    assert {policy.choose_replica(REQUEST, [slow, fast]).id for _ in range(20)} == {"fast"}
    fast.outstanding = 11
    assert {policy.choose_replica(REQUEST, [slow, fast]).id for _ in range(20)} == {"slow"}

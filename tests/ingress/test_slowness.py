"""When a request is slow, and that nothing which is remembered grows without end."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.ingress.recent import RecentRequests
from servekit.ingress.slowness import FEWEST, MOST_AT_A_TIME, RAISED, WINDOW, Slowness, slow_above_s
from servekit.interfaces import RequestRecord


def record(latency_s: float, endpoint: str = "e", status: int = 200) -> RequestRecord:
    return RequestRecord("id", endpoint, "b", "r", "GET", "/", status, latency_s)


def test_slow_is_what_99_of_100_do_not_exceed() -> None:
    assert slow_above_s([float(number) for number in range(100)]) == 98.0
    assert slow_above_s([float(number) for number in range(1000)]) == 989.0
    assert slow_above_s([1.0] * FEWEST) == 1.0
    assert slow_above_s([1.0] * (FEWEST - 1)) == math.inf


@given(st.lists(st.floats(0, 100), min_size=FEWEST, max_size=300))
def test_at_most_one_of_100_is_slow(latencies: list[float]) -> None:
    above = slow_above_s(latencies)
    assert above in latencies
    assert sum(latency > above for latency in latencies) <= len(latencies) / 100


@pytest.fixture
def learning() -> Any:
    recent = RecentRequests(10_000)
    endpoints = {name: SimpleNamespace(slow_s=math.inf) for name in "ef"}
    return SimpleNamespace(recent=recent, endpoints=endpoints, slowness=Slowness(recent))


def test_each_endpoint_has_its_own_threshold(learning: Any) -> None:
    learning.recent.extend([*[record(1.0)] * 50, *[record(5.0, "f")] * 50])
    learning.slowness.learn(learning.endpoints)
    assert (learning.endpoints["e"].slow_s, learning.endpoints["f"].slow_s) == (1.0, 5.0)


def test_a_record_counts_once_and_a_new_endpoint_of_that_name_goes_on(learning: Any) -> None:
    learning.recent.extend(record(1.0) for _ in range(FEWEST - 1))
    for _ in range(3):
        learning.slowness.learn(learning.endpoints)
    assert learning.endpoints["e"].slow_s == math.inf
    learning.recent.append(record(1.0))
    learning.slowness.learn(learning.endpoints)
    assert learning.endpoints["e"].slow_s == 1.0
    learning.endpoints["e"] = SimpleNamespace(slow_s=math.inf)
    learning.slowness.learn(learning.endpoints)
    assert learning.endpoints["e"].slow_s == 1.0


def test_errors_of_the_server_and_unrouted_requests_say_nothing(learning: Any) -> None:
    learning.recent.extend([*[record(1.0, status=503)] * 50, *[record(1.0, "", 404)] * 50])
    learning.slowness.learn(learning.endpoints)
    assert learning.endpoints["e"].slow_s == math.inf


def test_of_many_at_a_time_some_of_all_are_looked_at(learning: Any) -> None:
    learning.recent.extend(record(float(number)) for number in range(5 * MOST_AT_A_TIME))
    learning.slowness.learn(learning.endpoints)
    assert learning.endpoints["e"].slow_s == pytest.approx(5 * MOST_AT_A_TIME * 0.99, rel=0.01)


@pytest.mark.parametrize("requests", [FEWEST, 10_000])
def test_a_threshold_goes_up_where_more_than_one_of_100_is_above_it(learning: Any, requests: int) -> None:
    learning.recent.extend([record(1.0)] * requests)
    learning.slowness.learn(learning.endpoints)
    endpoint = learning.endpoints["e"]
    for _ in range(max(FEWEST, requests // 100)):
        learning.slowness.found(endpoint)
    assert endpoint.slow_s == 1.0
    learning.slowness.found(endpoint)
    learning.slowness.found(endpoint)
    assert (endpoint.slow_s, learning.endpoints["f"].slow_s) == (RAISED**2, math.inf)
    learning.recent.append(record(1.0))
    learning.slowness.learn(learning.endpoints)
    learning.slowness.found(endpoint)
    assert endpoint.slow_s == 1.0


def test_what_an_endpoint_took_is_forgotten_with_the_endpoint(learning: Any) -> None:
    learning.recent.extend(record(1.0) for _ in range(50))
    learning.slowness.learn({})
    learning.slowness.learn(learning.endpoints)
    assert learning.endpoints["e"].slow_s == math.inf


@given(st.lists(st.tuples(st.sampled_from("ef"), st.integers(0, 3000)), max_size=8))
def test_it_keeps_no_more_than_its_windows(bursts: list[tuple[str, int]]) -> None:
    recent = RecentRequests(10_000)
    slowness = Slowness(recent)
    for endpoint, number in bursts:
        recent.extend(record(float(each), endpoint) for each in range(number))
        before = {name: len(kept) for name, kept in slowness._latencies.items()}
        slowness.learn({"e": SimpleNamespace(slow_s=math.inf), "f": SimpleNamespace(slow_s=math.inf)})
        kept = {name: len(latencies) for name, latencies in slowness._latencies.items()}
        assert all(size <= WINDOW for size in kept.values())
        assert sum(kept.values()) - sum(before.values()) <= MOST_AT_A_TIME

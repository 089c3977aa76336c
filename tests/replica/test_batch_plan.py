"""How long batches wait, in virtual time."""

from __future__ import annotations

import heapq
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.replica.batch_plan import BatchPlan

WAIT_S = 0.005


def simulate(
    clients: list[float],
    *,
    max_size: int = 16,
    wait_s: float = WAIT_S,
    handler_s: float = 0.01,
    slots: int = 1,
    think_s: float = 0.0003,
    ends_s: float = 1.0,
) -> tuple[list[int], list[float]]:
    """Clients (by when each begins) that send one request after another.

    Returns the sizes of the batches, and how long each waited with a slot free.
    """
    plan = BatchPlan(max_size, wait_s)
    events: list[tuple[float, int, str, int]] = [(began, number, "came", 1) for number, began in enumerate(clients)]
    heapq.heapify(events)
    waiting: deque[float] = deque()
    running: list[int] = []
    sizes: list[int] = []
    waits: list[float] = []
    number = len(events)
    free_since, now = 0.0, 0.0

    def plan_event(at: float, what: str, size: int) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (at, number, what, size))

    while events:
        now, _, what, size = heapq.heappop(events)
        if now > ends_s:
            break
        if what == "came":
            waiting.append(now)
            plan.came(len(waiting), sum(running))
        elif what == "ended":
            running.remove(size)
            free_since = now
            for each in range(size):
                plan_event(now + think_s * (1 + each / size), "came", 1)
        while waiting and len(running) < slots:
            left = plan.wait_s(now, len(waiting))
            if left > 0:
                plan_event(now + left, "look", 0)
                break
            size = min(len(waiting), max_size)
            waits.append(now - max(waiting[0], free_since))
            for _ in range(size):
                waiting.popleft()
            plan.began(size)
            sizes.append(size)
            running.append(size)
            plan_event(now + handler_s, "ended", size)
    return sizes, waits


def test_one_client_in_a_loop_never_waits() -> None:
    sizes, waits = simulate([0.0])
    assert set(sizes) == {1}
    assert max(waits) == 0


def test_many_clients_fill_every_batch() -> None:
    sizes, _ = simulate([number * 1e-5 for number in range(64)])
    assert set(sizes[3:]) == {16}


def test_more_than_a_batch_and_less_than_two() -> None:
    """The few that are left over wait for those that come back, not for a batch of their own."""
    sizes, waits = simulate([number * 1e-5 for number in range(20)])
    assert set(sizes[3:]) == {16}
    assert max(waits) < WAIT_S


def test_fewer_than_a_batch_go_together() -> None:
    sizes, waits = simulate([number * 1e-5 for number in range(8)])
    assert set(sizes[4:]) == {8}
    assert max(waits[4:]) < WAIT_S / 2


def test_a_client_that_is_left_alone_waits_once() -> None:
    plan = BatchPlan(16, WAIT_S)
    plan.came(8, 0)
    assert plan.wait_s(0.0, 8) == 0
    plan.began(8)
    plan.came(1, 0)
    assert plan.wait_s(1.0, 1) == pytest.approx(WAIT_S)
    assert plan.wait_s(1.004, 1) < WAIT_S / 2
    assert plan.wait_s(1.0 + WAIT_S, 1) == 0
    plan.began(1)
    plan.came(1, 0)
    assert plan.wait_s(2.0, 1) == 0


def test_without_a_timeout_nothing_waits() -> None:
    sizes, waits = simulate([number * 1e-5 for number in range(20)], wait_s=0.0)
    assert max(waits) == 0
    assert max(sizes) == 16


@given(
    st.lists(st.floats(0, 0.2), min_size=1, max_size=40),
    st.integers(1, 20),
    st.floats(0, 0.02),
    st.integers(1, 3),
)
def test_no_batch_is_too_large_or_waits_too_long(
    clients: list[float], max_size: int, wait_s: float, slots: int
) -> None:
    sizes, waits = simulate(clients, max_size=max_size, wait_s=wait_s, slots=slots, ends_s=0.4)
    assert all(1 <= size <= min(max_size, len(clients)) for size in sizes)
    assert all(wait <= wait_s + 1e-9 for wait in waits)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), max_size=50), st.integers(1, 20))
def test_it_expects_no_more_than_fit_and_no_less_than_one(steps: list[tuple[int, int]], max_size: int) -> None:
    plan = BatchPlan(max_size, WAIT_S)
    for waiting, running in steps:
        plan.came(waiting, running)
        assert 1 <= plan.expected <= max_size
        plan.began(min(waiting, max_size))
        assert 1 <= plan.expected <= max_size

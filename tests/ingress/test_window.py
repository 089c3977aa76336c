from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from servekit.ingress.backend import SLOW_US, WIDEST, Window


def after(slots: int, *services_us: int) -> int:
    window = Window(slots)
    for service_us in services_us:
        window.observe(service_us)
    return window.size


def test_it_starts_at_one_beyond_the_slots() -> None:
    assert after(1) == 2
    assert after(8) == 9


def test_fast_handlers_are_handed_much_ahead_but_only_step_by_step() -> None:
    sizes = [after(1, *[10] * n) for n in range(400)]
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(sizes))
    assert sizes[-1] == 1 + WIDEST


def test_it_falls_at_once() -> None:
    fast = [10] * 400
    assert after(1, *fast, 10_000) <= 2
    assert after(1, *fast, 100_000) == 1


def test_slow_handlers_are_handed_nothing_ahead() -> None:
    assert after(3, *[int(SLOW_US) + 1] * 20) == 3
    assert after(3, *[5_000] * 20) == 4


def test_it_rises_again() -> None:
    assert after(2, *[100_000] * 5, *[10] * 600) == 2 + WIDEST


@given(slots=st.integers(1, 100), services=st.lists(st.integers(0, 10**9), max_size=200))
def test_it_stays_within_its_bounds(slots: int, services: list[int]) -> None:
    window = Window(slots)
    for service_us in services:
        window.observe(service_us)
        assert slots <= window.size <= slots + WIDEST

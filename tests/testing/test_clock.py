"""`StandingTime` is to its user what an event loop's time is."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from servekit.testing.clock import StandingTime

times = st.floats(0, 100)


def advance(standing: StandingTime, seconds: float) -> None:
    ends_s = standing.time() + seconds
    while standing.step(ends_s):
        pass


@given(delays=st.lists(times, max_size=30), steps=st.lists(times, max_size=10))
def test_each_timer_is_called_once_at_its_time_and_in_order(delays: list[float], steps: list[float]) -> None:
    standing = StandingTime()
    called: list[tuple[int, float]] = []
    for number, delay in enumerate(delays):
        standing.call_later(delay, lambda number: called.append((number, standing.time())), number)
    for step in [*steps, 101.0]:
        before = standing.time()
        advance(standing, step)
        assert standing.time() == before + step
    assert called == sorted(enumerate(delays), key=lambda entry: entry[1])


def test_a_timer_may_set_another_and_cancel_one() -> None:
    standing = StandingTime()
    called: list[Any] = []

    def first() -> None:
        called.append(("first", standing.time()))
        standing.call_later(1.0, lambda: called.append(("second", standing.time())))
        cancelled.cancel()

    standing.call_later(1.0, first)
    cancelled = standing.call_later(1.5, called.append, "cancelled")
    advance(standing, 1.9)
    assert called == [("first", 1.0)]
    advance(standing, 5.0)
    assert called == [("first", 1.0), ("second", 2.0)]

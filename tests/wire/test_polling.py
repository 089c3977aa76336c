"""Busy polling: when a loop is kept awake, and when that is given up. Time is the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from servekit.wire import polling
from servekit.wire.polling import BusyPoll

SPAN_S = 100e-6
TURN_S = 10e-6


class Loop:
    """Turns of a loop on which nothing happens but what is planned by `call_soon`."""

    def __init__(self) -> None:
        self.now = 1.0
        self.planned: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self.planned.append(call)

    def turn(self, took_s: float = TURN_S) -> bool:
        """One turn; False when the loop would have slept."""
        planned, self.planned = self.planned, []
        self.now += took_s
        for call in planned:
            call()
        return bool(planned)

    def turns(self) -> int:
        """How many turns there are until it would sleep."""
        count = 0
        while self.turn():
            count += 1
            assert count < 1000, "it never sleeps"
        return count


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr(polling, "perf_counter", lambda: loop.now)
    return loop


def poll_on(loop: Any, span_s: float = SPAN_S) -> BusyPoll:
    return BusyPoll(loop, span_s)


def test_the_loop_stays_awake_for_the_span_and_then_sleeps(loop: Loop) -> None:
    poll_on(loop).touch()
    assert SPAN_S / TURN_S <= loop.turns() <= SPAN_S / TURN_S + 3


def test_a_touch_prolongs_it(loop: Loop) -> None:
    poll = poll_on(loop)
    poll.touch()
    for _ in range(50):
        for _ in range(5):
            assert loop.turn()
        poll.touch()
    assert loop.turns() >= SPAN_S / TURN_S


def test_a_span_of_zero_never_keeps_it_awake(loop: Loop) -> None:
    asked: Any = loop
    assert BusyPoll.on(asked, 0.0) is None
    assert BusyPoll.on(asked, SPAN_S) is not None


def test_it_is_given_up_where_nothing_comes_in_time_and_tried_again_now_and_then(loop: Loop) -> None:
    poll = poll_on(loop)
    polled = []
    for _ in range(200):
        poll.touch()
        polled.append(loop.turns() > 0)
    assert all(polled[:16])
    assert 0 < sum(polled[100:]) <= 4


def test_it_is_given_up_at_once_where_the_cpu_is_wanted_elsewhere_and_comes_back_when_it_pays(loop: Loop) -> None:
    poll = poll_on(loop)
    poll.touch()
    loop.turn()
    assert loop.turn(took_s=0.003)
    assert not loop.planned
    poll.touch()
    assert loop.turns() == 0
    for _ in range(2000):  # Something comes in time whenever it is tried.
        poll.touch()
        for _ in range(20):
            loop.turn()
            poll.touch()
        loop.turns()
    poll.touch()
    assert loop.turns() > 0

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from servekit.ingress.deadlines import GRAIN_S, Deadlines


class Item:
    def __init__(self, kept: Kept, expires: float) -> None:
        self._kept = kept
        self.expires = expires

    def expired(self) -> None:
        self._kept.expired.append((self, self._kept.loop.time()))
        self._kept.when_expired(self)


class Kept:
    """`Deadlines` on a loop that stands still until it is told."""

    def __init__(self, loop: Any, when_expired: Callable[[Item], object] = lambda item: None) -> None:
        self.loop = loop
        self.when_expired = when_expired
        self.expired: list[tuple[Item, float]] = []
        self.deadlines = Deadlines(loop)

    def add(self, in_s: float) -> Item:
        item = Item(self, self.loop.time() + in_s)
        self.deadlines.open.add(item)
        if item.expires < self.deadlines.earliest:
            self.deadlines.plan(item.expires)
        return item


def test_an_item_expires_after_its_time_and_within_two_grains(fake_loop: Any) -> None:
    kept = Kept(fake_loop)
    item = kept.add(1.0)
    due = fake_loop.time() + 1.0
    fake_loop.advance(0.99)
    assert kept.expired == []
    fake_loop.advance(0.1)
    ((got, at),) = kept.expired
    assert got is item
    assert due <= at <= due + 2 * GRAIN_S + 1e-9
    assert item not in kept.deadlines.open


def test_one_that_was_discarded_does_not_expire(fake_loop: Any) -> None:
    kept = Kept(fake_loop)
    item, other = kept.add(1.0), kept.add(1.0)
    kept.deadlines.open.discard(item)
    fake_loop.advance(2.0)
    assert [got for got, _ in kept.expired] == [other]


def test_one_that_is_discarded_by_another_of_the_same_moment_does_not_expire(fake_loop: Any) -> None:
    kept = Kept(fake_loop, lambda _: kept.deadlines.open.clear())
    kept.add(0.5)
    kept.add(0.5)
    fake_loop.advance(1.0)
    assert len(kept.expired) == 1


def test_one_that_is_added_while_others_expire_is_kept(fake_loop: Any) -> None:
    kept = Kept(fake_loop, lambda item: kept.add(0.5) if item is first else None)
    first = kept.add(0.5)
    fake_loop.advance(0.6)
    assert [item for item, _ in kept.expired] == [first]
    fake_loop.advance(0.6)
    assert len(kept.expired) == 2


def test_many_deadlines_in_a_row_are_seen_together(fake_loop: Any) -> None:
    kept = Kept(fake_loop)
    for number in range(100):
        kept.add(1.0 + number * GRAIN_S / 50)
    fake_loop.advance(2.0)
    assert len(kept.expired) == 100
    assert len({at for _, at in kept.expired}) <= 4


def test_the_timer_rests_when_there_is_nothing_and_starts_again(fake_loop: Any) -> None:
    kept = Kept(fake_loop)
    assert fake_loop.timers == []
    kept.add(0.1)
    fake_loop.advance(1.0)
    assert fake_loop.timers == []
    fake_loop.advance(100.0)
    kept.add(0.1)
    fake_loop.advance(1.0)
    assert len(kept.expired) == 2


def test_close_stops_the_timer(fake_loop: Any) -> None:
    kept = Kept(fake_loop)
    kept.add(0.1)
    kept.deadlines.close()
    fake_loop.advance(1.0)
    assert kept.expired == []


@given(delays=st.lists(st.floats(0, 20), min_size=1, max_size=30), steps=st.lists(st.floats(0.001, 3), max_size=30))
def test_each_expires_once_and_never_early(delays: list[float], steps: list[float]) -> None:
    # Not the fixture: hypothesis runs many examples on one of those.
    loop = _Loop()
    kept = Kept(loop)
    items = [kept.add(delay) for delay in delays]
    due = {id(item): loop.time() + delay for item, delay in zip(items, delays, strict=True)}
    for step in [*steps, 25.0]:
        loop.advance(step)
    assert sorted(map(id, items)) == sorted(id(item) for item, _ in kept.expired)
    assert all(at >= due[id(item)] for item, at in kept.expired)


class _Loop:
    """As the fixture's, with one timer."""

    def __init__(self) -> None:
        self.now = 50.0
        self.timer: tuple[float, Any] | None = None

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Any) -> Any:
        self.timer = (self.now + delay, call)
        return self

    def cancel(self) -> None:
        self.timer = None

    def advance(self, seconds: float) -> None:
        ends = self.now + seconds
        while self.timer is not None and self.timer[0] <= ends:
            (self.now, call), self.timer = self.timer, None
            call()
        self.now = ends

from __future__ import annotations

from servekit.backoff import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(0.1, 0.5)
    assert [backoff.next() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_they_begin_anew_after_a_success() -> None:
    backoff = Backoff(0.1, 0.5)
    for _ in range(3):
        backoff.next()
    backoff.reset()
    assert backoff.next() == 0.1
    assert backoff.next(lasted_s=0.5) == 0.2
    assert backoff.next(lasted_s=0.6) == 0.1


def test_the_first_is_no_longer_than_the_longest() -> None:
    assert Backoff(0.1, 0.01).next() == 0.01

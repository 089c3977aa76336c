"""What follows when a connection has waited for too long: decided without one."""

from __future__ import annotations

import pytest

from servekit.config import HttpLimits
from servekit.http1.reader import Phase
from servekit.http1.timeouts import FRESH_S, LINGER_S, PROBE_S, Overdue, ReadingTime, Wait, overdue, too_slow

LIMITS = HttpLimits(
    header_timeout_s=10,
    body_timeout_s=20,
    idle_timeout_s=30,
    write_timeout_s=40,
    body_rate_bytes_s=100,
    body_rate_grace_s=5,
)


@pytest.mark.parametrize(
    ("wait", "limit_s", "then"),
    [
        (Phase.BETWEEN, 30, Overdue.CLOSE),
        (Wait.CLIENT_READS, 40, Overdue.ABORT),
        (Wait.CLIENT_CLOSES, LINGER_S, Overdue.CLOSE),
        (Wait.HALF_CLOSED, PROBE_S, Overdue.PROBE),
    ],
)
def test_a_silent_end(wait: Wait | Phase, limit_s: float, then: Overdue) -> None:
    assert overdue(wait, limit_s, LIMITS, draining=False) is None
    assert overdue(wait, limit_s + 0.1, LIMITS, draining=False) is then


@pytest.mark.parametrize(
    ("phase", "limit_s", "text"),
    [(Phase.HEAD, 10, "the headers took more than 10 s"), (Phase.BODY, 20, "no more of the body came for 20 s")],
)
def test_what_a_late_request_is_answered(phase: Phase, limit_s: float, text: str) -> None:
    assert overdue(phase, limit_s, LIMITS, draining=False) is None
    assert overdue(phase, limit_s + 0.1, LIMITS, draining=False) == (408, text)


def test_only_what_is_idle_ends_sooner_in_a_drain() -> None:
    assert overdue(Phase.BETWEEN, FRESH_S, LIMITS, draining=True) is None
    assert overdue(Phase.BETWEEN, FRESH_S + 0.1, LIMITS, draining=True) is Overdue.CLOSE
    for other in (Phase.HEAD, Phase.BODY, Wait.CLIENT_READS):
        assert overdue(other, FRESH_S + 0.1, LIMITS, draining=True) is None


def test_the_app_may_take_its_time() -> None:
    assert overdue(Wait.APP, 1e9, LIMITS, draining=True) is None


@pytest.mark.parametrize(
    ("body_bytes", "seconds", "slow"),
    [
        (0, 5.0, False),
        (0, 5.1, True),
        (509, 5.1, True),
        (510, 5.1, False),
        (99_999, 1000, True),
        (100_000, 1000, False),
    ],
)
def test_a_body_is_slow_by_its_mean_rate_once_the_grace_is_over(body_bytes: int, seconds: float, slow: bool) -> None:
    text = "the body came at less than 100 bytes a second"
    assert too_slow(body_bytes, seconds, LIMITS) == ((408, text) if slow else None)


def test_no_rate_is_too_slow_where_none_is_asked_for() -> None:
    assert too_slow(0, 1e9, HttpLimits(body_rate_bytes_s=0)) is None


def test_the_time_of_a_body_is_that_in_which_it_is_read() -> None:
    time = ReadingTime()
    for now in (10.0, 10.5, 11.0):
        time.add(0, now)
    assert time.seconds == 1.0
    time.stop()
    time.add(0, 50.0)  # It was not read until now.
    assert time.seconds == 1.0
    time.add(0, 50.5)
    assert time.seconds == 1.5
    time.add(0, 90.0)  # The process stood: more than a second there is not between two sweeps.
    assert time.seconds == 2.5


def test_the_next_body_has_a_time_of_its_own() -> None:
    time = ReadingTime()
    time.add(0, 1.0)
    time.add(0, 2.0)
    time.add(1, 3.0)
    assert time.seconds == 0.0
    time.stop()
    time.stop()
    time.add(2, 9.0)
    time.add(2, 9.5)
    assert time.seconds == 0.5

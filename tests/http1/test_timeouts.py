"""What follows when a connection has waited for too long: decided without one."""

from __future__ import annotations

import pytest

from servekit.config import HttpLimits
from servekit.http1.reader import Phase
from servekit.http1.timeouts import FRESH_S, LINGER_S, PROBE_S, Overdue, Wait, overdue

LIMITS = HttpLimits(header_timeout_s=10, body_timeout_s=20, idle_timeout_s=30, write_timeout_s=40)


@pytest.mark.parametrize(
    ("wait", "limit_s", "then"),
    [
        (Phase.BETWEEN, 30, Overdue.END),
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
    assert overdue(Phase.BETWEEN, FRESH_S + 0.1, LIMITS, draining=True) is Overdue.END
    for other in (Phase.HEAD, Phase.BODY, Wait.CLIENT_READS):
        assert overdue(other, FRESH_S + 0.1, LIMITS, draining=True) is None


def test_the_app_may_take_its_time() -> None:
    assert overdue(Wait.APP, 1e9, LIMITS, draining=True) is None

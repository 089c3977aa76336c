"""When the next replica of a backend may start, after some have failed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.waiting import until_async

from servekit.control import controller
from servekit.control.controller import (
    FIRST_RETRY_S,
    LONGEST_RETRY_S,
    QUIET_S,
    RESTART_REASONS,
    SERVED_AFTER_S,
    Failures,
)
from servekit.errors import BackendStartError
from servekit.wire.control_frames import Report, Unhealthy


class Failed:
    """A replica that has failed; ``ready_s`` after it was ready, None: it never was."""

    def __init__(self, number: int, now: float, ready_s: float | None = None, *, has_served: bool = False) -> None:
        self.number = number
        self.ready_at = 0.0 if ready_s is None else now - ready_s
        self.has_served = has_served
        self.failure = BackendStartError(f"replica {number}")


def pauses(failures: Failures, *events: tuple[float, Any]) -> list[float]:
    """What each is followed by; at each time the newest replica is the newest that has failed."""
    found, newest = [], 0
    for now, replica in events:
        newest = max(newest, replica.number)
        found.append(failures.add(replica, newest, now))
    return found


def test_one_that_had_served_is_replaced_at_once() -> None:
    failures = Failures()
    assert pauses(failures, (100.0, Failed(1, 100.0, 0.5, has_served=True))) == [0.0]
    assert pauses(failures, (200.0, Failed(2, 200.0, SERVED_AFTER_S + 0.1))) == [0.0]
    assert failures.failed_starts == 0
    assert failures.start_error is None
    assert str(failures.last) == "replica 2"


def test_starts_that_fail_one_after_another_are_tried_later_and_later() -> None:
    failures, now, found = Failures(), 100.0, []
    for number in range(1, 13):
        found.append(failures.add(Failed(number, now), number, now))  # type: ignore[arg-type]
        now = failures.not_before + 0.3
    assert found[:4] == pytest.approx([FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S, 8 * FIRST_RETRY_S])
    assert found[-1] == pytest.approx(LONGEST_RETRY_S)
    assert failures.failed_starts == 12


def test_one_that_dies_as_soon_as_it_is_ready_counts_as_a_start_that_failed_but_not_for_who_waits() -> None:
    failures = Failures()
    assert pauses(failures, (1.0, Failed(1, 1.0, 0.1)), (2.0, Failed(2, 2.0, 0.1))) == pytest.approx([0.1, 0.2])
    assert failures.failed_starts == 0
    assert failures.start_error is None


def test_eight_that_die_together_are_one_event() -> None:
    failures = Failures()
    found = [failures.add(Failed(n, 100 + n / 100), 8, 100 + n / 100) for n in range(1, 9)]  # type: ignore[arg-type]
    assert found == pytest.approx([FIRST_RETRY_S - (n - 1) / 100 for n in range(1, 9)])
    assert failures.add(Failed(9, 101.0), 16, 101.0) == pytest.approx(2 * FIRST_RETRY_S)  # type: ignore[arg-type]


def test_after_a_quiet_time_it_begins_anew() -> None:
    failures = Failures()
    pauses(failures, *((100.0 + n, Failed(n, 100.0 + n)) for n in range(1, 6)))
    later = failures.not_before + QUIET_S + 1
    assert failures.add(Failed(6, later), 6, later) == pytest.approx(FIRST_RETRY_S)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.floats(0, 60), st.integers(0, 2), st.booleans()), max_size=60))
def test_no_pause_is_longer_than_the_longest(steps: list[tuple[float, int, bool]]) -> None:
    failures, now, newest = Failures(), 1000.0, 1
    for waited_s, started, has_served in steps:
        now += waited_s
        replica: Any = Failed(newest, now, 0.1, has_served=has_served)
        newest += started
        pause_s = failures.add(replica, newest, now)
        assert 0.0 <= pause_s <= LONGEST_RETRY_S
        if has_served:
            assert pause_s == 0.0


@pytest.mark.parametrize("told_first", [True, False])
def test_an_ingress_worker_tells_that_it_had_served(new_control: Any, make: Any, told_first: bool) -> None:
    """Before its end is known, or after."""

    async def test() -> None:
        control = new_control(make.desired(make.endpoint(traffic={"b": 1.0}), make.backend()))
        await control.controller.begin()
        await until_async(lambda: len(control.ready("b")) == 1)
        failures = control.controller.failures["b"]
        (first,) = control.ready("b")
        try:
            if told_first:
                control.controller.replicas_had_served({first.id: "b"})
            control.workers.end(first, BackendStartError("it fell over"))
            await until_async(lambda: failures.last is not None)
            assert (failures.not_before == 0.0) == told_first
            control.controller.replicas_had_served({first.id: "b", "gone": "of a backend that was deleted"})
            assert failures.not_before == 0.0
            assert list(control.controller.failures) == ["b"]
            await until_async(lambda: [replica.id != first.id for replica in control.ready("b")] == [True])
        finally:
            await control.end()

    asyncio.run(test())


@pytest.mark.parametrize("reason", RESTART_REASONS)
def test_replicas_that_had_to_be_followed_by_another_are_counted_by_reason(
    new_control: Any, make: Any, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setattr(controller, "WATCH_S", 0.005)

    def befall(control: Any, replica: Any) -> None:
        if reason in ("exited", "start_failed"):
            control.workers.end(replica, BackendStartError("it fell over"))
        elif reason == "lost":
            replica.lose("its machine is gone")
        elif reason == "unhealthy":
            replica.frame_received(replica.link, Unhealthy("it says so"))
        elif reason == "replaced":
            replica.worn = "replaced: its node is to go"
            control.controller.changed()
        else:
            report = {"overdue_s": 99.0} if reason == "hung" else {"requests": 99}
            replica.frame_received(replica.link, Report(**report))

    async def test() -> None:
        config = {"hang_grace_s": 1.0, "max_requests": 10}
        control = new_control(make.desired(make.endpoint(traffic={"b": 1.0}), make.backend(config=config)))
        control.workers.silent = int(reason == "start_failed")
        await control.controller.begin()
        try:
            first = await until_async(lambda: next(iter(control.replicas.of("b")), None))
            await until_async(lambda: reason == "start_failed" or control.ready("b"))
            befall(control, first)
            await until_async(lambda: [replica.id != first.id for replica in control.ready("b")] == [True])
            assert control.restarts() == {reason: 1}
        finally:
            await control.end()

    asyncio.run(test())

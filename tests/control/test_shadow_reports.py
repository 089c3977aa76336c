"""Pairs come, are compared in a thread, and are added up; bounded, and of the present shadow alone."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec import structs
from tests.support.waiting import until_async

from servekit.config import EndpointOptions
from servekit.control import shadow_reports
from servekit.control.shadow_reports import MOST_WAITING, ShadowReports
from servekit.control.state import Desired
from servekit.tallies import SLOTS
from servekit.wire.control_frames import EndpointRecord, PluginRef, ShadowAnswer, ShadowEntry, ShadowPair

ENTRY = ShadowEntry("v3", 0.1, number=1)


def odd(live: object, shadow: object) -> object:
    raise ValueError("cannot say")


def leaves(live: object, shadow: object) -> object:
    sys.exit("enough")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit


def unspeakable(live: object, shadow: object) -> object:
    raise Unspeakable


OPENED = threading.Event()


def hangs(live: object, shadow: object) -> object:
    OPENED.wait(60)
    return True


def desired(*entries: ShadowEntry | None) -> Desired:
    """Endpoints ``e0``, ``e1``, … with these shadows."""
    records = [
        EndpointRecord(f"e{n}", EndpointOptions(f"/e{n}"), (), "weighted", PluginRef("m:p"), shadow=entry)
        for n, entry in enumerate(entries)
    ]
    return Desired({record.name: record for record in records})


def pair(live: Any, shadow: Any, *, number: int = 1, endpoint: str = "e0", repeat: bool = False) -> ShadowPair:
    answers = [ShadowAnswer(200, "", json.dumps(value).encode()) for value in (live, shadow)]
    return ShadowPair(endpoint, number, repeat, "id", live == shadow, *answers)


def run(test: Callable[[ShadowReports, dict[Any, Any]], Awaitable[None]]) -> None:
    async def whole() -> None:
        sums: dict[Any, Any] = {}
        reports = ShadowReports(lambda: sums)
        running = asyncio.ensure_future(reports.run())
        try:
            await test(reports, sums)
        finally:
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(whole())


def told(reports: ShadowReports, endpoint: str = "e0") -> dict[str, Any]:
    found = reports.told(endpoint)
    assert found is not None
    return found


def test_pairs_are_added_up_and_a_judge_gets_their_numbers() -> None:
    async def test(reports: ShadowReports, sums: dict[Any, Any]) -> None:
        reports.follow(desired(ENTRY, None, structs.replace(ENTRY, number=2)))
        for k in (1, 2, 2):
            reports.take(pair({"k": 1}, {"k": k}))
        reports.take(pair({"k": 1}, {"k": 1}, repeat=True))
        reports.take(pair({"k": 1}, {"k": 2}, endpoint="e2", number=2))
        await until_async(lambda: reports.sample("e2", "v3") == (1, 1))
        assert reports.sample("e0", "v3") == (3, 2)
        assert reports.sample("e0", "v1") == reports.sample("e1", "v3") == reports.sample("none", "v3") == (0, 0)
        assert told(reports)["repeats"] == 1
        assert reports.told("e1") is None

    run(test)


def test_another_shadow_begins_anew() -> None:
    async def test(reports: ShadowReports, sums: dict[Any, Any]) -> None:
        reports.follow(desired(ENTRY))
        reports.take(pair(1, 2))
        await until_async(lambda: reports.sample("e0", "v3") == (1, 1))
        sums["shadow", "e0", "v3", "sent"] = [5] + [0] * (SLOTS - 1)
        assert told(reports)["sent"] == 5
        reports.take(pair(1, 2))
        reports.follow(desired(structs.replace(ENTRY, number=2)))
        reports.take(pair(1, 2))
        reports.take(pair(1, 2, number=2))
        await until_async(lambda: reports.sample("e0", "v3") == (1, 1))
        sums["shadow", "e0", "v3", "sent"] = [7] + [0] * (SLOTS - 1)
        sums["shadow", "e0", "v1", "sent"] = [2] + [0] * (SLOTS - 1)
        sums["shadow", "e0", "v1", "dropped_no_room"] = [3] + [0] * (SLOTS - 1)
        report = told(reports)
        assert (report["sent"], report["repeats_sent"], report["dropped"]) == (2, 2, {"no_room": 3})
        reports.follow(desired())
        assert reports.told("e0") is None

    run(test)


def test_what_is_too_much_is_dropped_and_counted() -> None:
    async def test(reports: ShadowReports, sums: dict[Any, Any]) -> None:
        reports.follow(desired(ENTRY))
        for _ in range(MOST_WAITING + 7):
            reports.take(pair(1, 2))
        assert told(reports)["dropped"] == {"compare_queue_full": 7}
        await until_async(lambda: reports.sample("e0", "v3") == (MOST_WAITING, MOST_WAITING))

    run(test)


def test_a_function_that_raises_stops_nothing() -> None:
    async def test(reports: ShadowReports, sums: dict[Any, Any]) -> None:
        reports.follow(desired(structs.replace(ENTRY, compare=f"{__name__}:odd"), ENTRY))
        reports.take(pair(1, 2))
        reports.take(pair(1, 2, endpoint="e1"))
        await until_async(lambda: reports.sample("e1", "v3") == (1, 1))
        report = told(reports)
        assert (report["pairs"], report["not_compared"], report["compare_error"]) == (0, 1, "ValueError: cannot say")

    run(test)


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"compare": f"{__name__}:leaves"}, "SystemExit: enough"),
        ({"compare": f"{__name__}:unspeakable"}, "Unspeakable"),
    ],
)
def test_a_function_that_exits_stops_nothing(how: dict[str, Any], problem: str) -> None:
    async def test(reports: ShadowReports, sums: dict[Any, Any]) -> None:
        reports.follow(desired(structs.replace(ENTRY, **how), ENTRY))
        for _ in range(3):
            reports.take(pair(1, 2))
        await until_async(lambda: told(reports)["not_compared"] == 3)
        assert told(reports)["compare_error"] == problem
        reports.take(pair(1, 2, endpoint="e1"))
        await until_async(lambda: reports.sample("e1", "v3") == (1, 1))

    run(test)


def test_what_redacts_and_exits_shows_nothing() -> None:
    async def test(reports: ShadowReports, sums: dict[Any, Any]) -> None:
        reports.follow(desired(structs.replace(ENTRY, redact=f"{__name__}:leaves")))
        reports.take(pair(1, 2))
        await until_async(lambda: reports.sample("e0", "v3") == (1, 1))
        assert told(reports)["paths"][0]["examples"][0]["live"] == f"({__name__}:leaves raised SystemExit)"

    run(test)


def test_a_function_that_hangs_is_not_asked_again_until_it_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_reports, "STEP_S", 0.05)
    OPENED.clear()

    async def test(reports: ShadowReports, sums: dict[Any, Any]) -> None:
        reports.follow(desired(structs.replace(ENTRY, compare=f"{__name__}:hangs"), ENTRY))
        try:
            for _ in range(5):
                reports.take(pair(1, 2))
            await until_async(lambda: told(reports)["dropped"] == {"compare_hangs": 5})
            reports.take(pair(1, 2))
            assert told(reports)["dropped"] == {"compare_hangs": 6}
            assert "has not returned within" in told(reports)["compare_error"]
            reports.take(pair(1, 2, endpoint="e1"))
            await until_async(lambda: reports.sample("e1", "v3") == (1, 1))
        finally:
            OPENED.set()

        def compared_again() -> bool:
            reports.take(pair(1, 2))
            return reports.sample("e0", "v3")[0] > 0

        await until_async(compared_again)

    run(test)


def test_nothing_waits_for_one_that_hangs() -> None:
    OPENED.clear()

    async def test(reports: ShadowReports, sums: dict[Any, Any]) -> None:
        reports.follow(desired(structs.replace(ENTRY, compare=f"{__name__}:hangs")))
        reports.take(pair(1, 2))
        await asyncio.sleep(0)

    run(test)
    OPENED.set()


def test_one_shadow_leaves_room_for_the_pairs_of_another() -> None:
    async def test(reports: ShadowReports, sums: dict[Any, Any]) -> None:
        reports.follow(desired(ENTRY, ENTRY))
        for _ in range(MOST_WAITING):
            reports.take(pair(1, 2))
        for _ in range(3):
            reports.take(pair(1, 2, endpoint="e1"))
        assert told(reports)["dropped"] == {"compare_queue_full": 3}
        await until_async(lambda: reports.sample("e1", "v3") == (3, 3))

    run(test)

"""Events are logged, kept and saved by one call, and nobody waits for that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any

import pytest
from tests.support.waiting import until_async

from servekit.control.event_ring import LONGEST_DETAIL, LONGEST_TEXT, MOST_EVENTS, Event
from servekit.control.events import EventLog
from servekit.errors import InvalidInputError, StoreError


class Disk:
    """What is saved."""

    def __init__(self) -> None:
        self.events: dict[int, Event] = {}
        self.is_full = False
        self.tries = 0

    async def save(self, events: Collection[Event], gone: Collection[int] | None) -> None:
        await asyncio.sleep(0)
        self.tries += 1
        if self.is_full:
            raise StoreError("no room")
        for number in [*self.events] if gone is None else gone:
            self.events.pop(number, None)
        self.events.update({event.number: event for event in events})

    @property
    def texts(self) -> list[str]:
        return [self.events[number].text for number in sorted(self.events)]


def test_the_log_and_the_events_tell_the_same(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "servekit.control")
    log = EventLog()
    log.add("traffic_set", "endpoint e has traffic: b 1", who="ada", endpoint="e", detail="it was: none")
    log.add("replica_failed", "replica b r1 ended", backend="b", detail="Traceback", level=30, log_detail=True)
    log.add("replica_ejected", "replica b r1 gets no requests", backend="b", level=None)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "endpoint e has traffic: b 1, by ada"),
        ("WARNING", "replica b r1 ended\nTraceback"),
    ]
    assert [event["text"] for event in log.told()] == [
        "endpoint e has traffic: b 1",
        "replica b r1 ended",
        "replica b r1 gets no requests",
    ]
    first = log.told(endpoint="e")[0]
    assert (first["number"], first["who"], first["count"], first["detail"]) == (1, "ada", 1, "it was: none")
    assert [event["kind"] for event in log.told(since=1, backend="b")] == ["replica_failed", "replica_ejected"]
    with pytest.raises(InvalidInputError, match="is no kind of events.*replica_ready"):
        log.told(kind="replica_redy")


def test_what_is_long_is_cut() -> None:
    log = EventLog()
    log.add("replica_failed", "x" * 10_000, detail="y" * 100_000 + "the cause")
    (event,) = log.told()
    assert (len(event["text"]), len(event["detail"])) == (LONGEST_TEXT, LONGEST_DETAIL)
    assert event["detail"].endswith("the cause")


def test_what_no_utf8_has_is_escaped() -> None:
    log = EventLog()
    log.add("replica_failed", "no \udcff", detail="\udcff")
    assert [(event["text"], event["detail"]) for event in log.told()] == [("no \\udcff", "\\udcff")]


def test_all_are_saved_and_another_goes_on() -> None:
    async def test() -> None:
        disk = Disk()
        log = EventLog((), disk.save)
        for number in range(MOST_EVENTS + 1):
            log.add("traffic_set", str(number))
        await log.close()
        assert disk.texts == [str(number) for number in range(1, MOST_EVENTS + 1)]
        later = EventLog(disk.events.values(), disk.save)
        later.add("controller_restarted", "again")
        await later.close()
        assert disk.texts[-2:] == [str(MOST_EVENTS), "again"]
        assert [event["number"] for event in later.told()][-1] == MOST_EVENTS + 2

    asyncio.run(test())


def test_one_that_is_counted_again_takes_the_place_of_the_one_that_was_saved() -> None:
    async def test() -> None:
        disk = Disk()
        log = EventLog((), disk.save)
        for _ in range(5):
            log.add("ingress_ended", "ingress ingress1 ended")
            await until_async(lambda: disk.events)
        await log.close()
        assert [(event.number, event.count) for event in disk.events.values()] == [(5, 5)]

    asyncio.run(test())


def test_a_full_disk_is_a_warning_and_once_there_is_room_all_is_saved(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        disk = Disk()
        log = EventLog((), disk.save)
        log.add("traffic_set", "before")
        await until_async(lambda: disk.texts == ["before"])
        disk.is_full = True
        for number in range(3):
            log.add("ingress_ended", "ingress ingress1 ended")  # Was not saved, is not kept, and is never to be saved.
            await until_async(lambda number=number: disk.tries == number + 2)  # type: ignore[misc]
        disk.is_full = False
        log.add("traffic_set", "after")
        await until_async(lambda: disk.texts == ["before", "ingress ingress1 ended", "after"])
        await log.close()

    asyncio.run(test())
    assert [record.getMessage() for record in caplog.records if "memory alone" in record.getMessage()] == [
        "events are kept in memory alone until there is room: no room"
    ]


def test_what_cannot_be_read_is_replaced() -> None:
    async def test() -> None:
        disk = Disk()
        disk.events[77] = Event(at=0.0, kind="traffic_set", text="unreadable")
        log = EventLog(None, disk.save)
        log.add("instance_started", "anew")
        await log.close()
        assert disk.texts == ["anew"]

    asyncio.run(test())


def test_nothing_is_saved_once_it_is_closed() -> None:
    async def test() -> None:
        disk: Any = Disk()
        log = EventLog((), disk.save)
        await log.close()
        log.add("traffic_set", "late")
        assert disk.tries == 0
        assert len(log.told()) == 1

    asyncio.run(test())

"""Which events are kept, and which are counted in another one."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from servekit.control.event_ring import APART, KINDS, MOST_EVENTS, NEAR, NEAR_S, Event, EventRing, alike

ROOT = Path(__file__).parents[2]


def failed(number: int, at: float = 0.0, backend: str = "b") -> Event:
    """A replica of its own has failed."""
    text = f"replica {backend} r{number} ended: killed"
    return Event(
        at=at, kind="replica_failed", text=text, backend=backend, replica=f"r{number}", alike=f"replica {backend} ended"
    )


def counts(ring: EventRing) -> list[tuple[str, int]]:
    return [(event.replica, event.count) for event in ring]


def test_events_have_numbers_and_are_asked_for_by_them() -> None:
    ring = EventRing()
    for text in "abc":
        assert ring.add(Event(at=1.0, kind="traffic_set", text=text, alike=text))[1] == []
    assert [(event.number, event.text, event.first_at) for event in ring] == [
        (1, "a", 1.0),
        (2, "b", 1.0),
        (3, "c", 1.0),
    ]
    assert [event.text for event in ring.since(1)] == ["b", "c"]
    assert ring.since(3) == []


def test_the_oldest_go() -> None:
    ring, gone = EventRing(), []
    for number in range(MOST_EVENTS + 1):
        gone += ring.add(Event(at=number, kind="traffic_set", text=str(number)))[1]
    kept = [*ring]
    assert (len(kept), kept[0].text, kept[-1].text, gone) == (MOST_EVENTS, "1", str(MOST_EVENTS), [1])


def test_a_replica_that_fails_for_an_hour_is_one_event_with_a_count() -> None:
    ring = EventRing()
    for number in range(240):
        started = msgspec.structs.replace(failed(number, number * 15.0), kind="replica_started", alike="is started")
        ring.add(started)
        event, gone = ring.add(failed(number, number * 15.0 + 1))
    assert len([*ring]) == 2 * APART
    assert (event.count, event.replica, event.first_at, event.at) == (240 - APART + 1, "r239", 31.0, 3586.0)
    assert [each.number for each in ring][-1] == event.number == 480
    assert gone == [478]


def test_the_same_replica_is_counted_at_once_and_others_only_when_they_are_many() -> None:
    ring = EventRing()
    for _ in range(3):
        ring.add(failed(1))
    assert counts(ring) == [("r1", 3)]
    ring = EventRing()
    for number in range(APART):
        ring.add(failed(number))
    assert counts(ring) == [(f"r{number}", 1) for number in range(APART)]
    ring.add(failed(7))
    assert counts(ring)[-1] == ("r7", 2)


def test_what_is_long_ago_or_far_between_or_another_matter_is_an_event_of_its_own() -> None:
    ring = EventRing()
    ring.add(failed(1))
    ring.add(failed(1, NEAR_S + 1))
    assert counts(ring) == [("r1", 1), ("r1", 1)]
    for number in range(NEAR):
        ring.add(Event(at=NEAR_S + 1, kind="traffic_set", text=str(number)))
    ring.add(failed(1, NEAR_S + 2))
    ring.add(failed(1, NEAR_S + 2, "other"))
    assert counts(ring)[-2:] == [("r1", 1), ("r1", 1)]


def test_changes_of_people_are_never_counted() -> None:
    ring = EventRing()
    for _ in range(10):
        ring.add(Event(at=1.0, kind="traffic_set", text="endpoint e has traffic: a 1", endpoint="e"))
    assert [event.count for event in ring] == [1] * 10


def test_what_texts_have_in_common() -> None:
    text = "replica b r7-92fbe6 ended, pid 4711, after 0.84 s, at 0x7fed: MemoryError"
    assert alike(text, "r7-92fbe6") == "replica b  ended, pid #, after # s, at #: MemoryError"
    assert alike("ingress ingress1 ended", "") == "ingress ingress1 ended"


def test_a_later_controller_goes_on_with_the_numbers() -> None:
    ring = EventRing()
    ring.add(failed(1))
    ring.add(failed(1))
    later = EventRing([*ring])
    assert later.add(failed(1))[0].number == 3
    assert counts(later) == [("r1", 3)]


def test_each_kind_that_is_told_is_in_the_table_and_in_the_docs() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "src/servekit/control").glob("*.py"))
    told = {*re.findall(r'(?:add|add_event|Change)\(\s*"(\w+)"', sources)}
    told |= {f"{what}_{end}" for what in ("deploy", "rollback") for end in ("began", "done", "failed")}
    told |= {f"rollout_{what}" for what in ("began", "advanced", "resumed", "paused", "inconclusive")}
    told |= {"rollout_promoted", "rollout_rolled_back", "replica_failed", "replica_unhealthy", "replica_replaced"}
    assert told == KINDS.keys()
    page = (ROOT / "docs/events.md").read_text()
    assert {*re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)} >= KINDS.keys()


@pytest.mark.parametrize("wanted", [("e", None, None), (None, "b", None), (None, None, "replica_failed"), (None,) * 3])
def test_what_an_event_is_about(wanted: tuple[str | None, str | None, str | None]) -> None:
    event = Event(at=1.0, kind="replica_failed", text="", endpoint="e", backend="b")
    assert event.concerns(*wanted)
    assert not event.concerns("other", None, None)
    assert not event.concerns("e", "other", None)
    assert not event.concerns(None, None, "replica_ready")

from __future__ import annotations

from typing import Any

from servekit.dashboard import looks
from servekit.dashboard.looks import LOOKS


def event(number: int) -> dict[str, Any]:
    return {"number": number, "text": f"event {number}"}


def test_the_last_events_are_told_by_their_numbers() -> None:
    look = LOOKS["events"]
    assert look.arguments(None) == {"since": 0}
    told = look.told(None, [event(number) for number in range(1, 1001)])
    assert [*told] == [str(number) for number in range(1001 - looks.MOST_EVENTS, 1001)]
    assert told["1000"] == event(1000)
    assert look.arguments(told) == {"since": 1000 - looks.MOST_EVENTS}


def test_errors_of_one_place_are_told_as_one() -> None:
    group = {"backend": "b", "what": "call", "type": "ValueError", "file": "f", "line": 1, "function": "g"}
    told = LOOKS["failures"].told(None, [{**group, "count": 2}, {**group, "line": 2, "count": 1}])
    assert [each["count"] for each in told.values()] == [2, 1]
    assert told.keys() == LOOKS["failures"].told(None, [{**group, "count": 3}, {**group, "line": 2, "count": 1}]).keys()


def test_of_samples_the_newest_are_told_and_stay_until_there_are_others() -> None:
    look = LOOKS["recent"]
    assert look.arguments(None) == {"since": 0.0}
    nothing = look.told(None, {"endpoints": {"e": []}, "backends": {}})
    assert nothing == {"at": 0.0, "endpoints": {}, "backends": {}}
    first = look.told(nothing, {"endpoints": {"e": [{"at": 10.0}, {"at": 20.0}]}, "backends": {"b": [{"at": 20.0}]}})
    assert first == {"at": 20.0, "endpoints": {"e": [{"at": 20.0}]}, "backends": {"b": [{"at": 20.0}]}}
    assert look.arguments(first) == {"since": 20.0}
    assert look.told(first, {"endpoints": {"e": []}, "backends": {"b": []}}) == first

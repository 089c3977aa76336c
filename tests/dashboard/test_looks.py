from __future__ import annotations

from typing import Any

from servekit.dashboard import looks
from servekit.dashboard.looks import LOOKS


def event(number: int) -> dict[str, Any]:
    return {"number": number, "text": f"event {number}"}


def test_the_last_events_are_told_by_their_numbers() -> None:
    look = LOOKS["events"]
    assert look.arguments(None) == {"since": 0}
    told = look.told([event(number) for number in range(1, 1001)])
    assert [*told] == [str(number) for number in range(1001 - looks.MOST_EVENTS, 1001)]
    assert told["1000"] == event(1000)
    assert look.arguments(told) == {"since": 1000 - looks.MOST_EVENTS}


def test_errors_of_one_place_are_told_as_one() -> None:
    group = {"backend": "b", "what": "call", "type": "ValueError", "file": "f", "line": 1, "function": "g"}
    told = LOOKS["failures"].told([{**group, "count": 2}, {**group, "line": 2, "count": 1}])
    assert [each["count"] for each in told.values()] == [2, 1]
    assert told.keys() == LOOKS["failures"].told([{**group, "count": 3}, {**group, "line": 2, "count": 1}]).keys()

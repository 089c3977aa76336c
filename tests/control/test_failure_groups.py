"""What handlers have raised, added up by where it was raised."""

from __future__ import annotations

from typing import Any

from servekit.control.failure_groups import MOST_GROUPS, FailureGroups
from servekit.wire.control_frames import FailureGroup


def group(line: int = 1, at: float = 1.0, **more: Any) -> FailureGroup:
    fields = {"count": 2, "first_at": at - 0.5, "last_at": at, "request_id": f"id-{at:g}", "traceback": f"of {at:g}"}
    return FailureGroup("call", "ValueError", "/app.py", line, "handler", **{**fields, **more})


def test_one_place_is_one_group_with_the_last_request_and_traceback() -> None:
    groups = FailureGroups()
    groups.add("b", "r1", [group(at=1.0)])
    groups.add("b", "r2", [group(at=9.0, count=3)])
    (told,) = groups.told()
    assert (told["count"], told["first_at"], told["last_at"]) == (5, 0.5, 9.0)
    assert (told["replica"], told["request_id"], told["traceback"]) == ("r2", "id-9", "of 9")
    assert told["first_time"] == "1970-01-01T00:00:00Z"
    assert told["last_time"] == "1970-01-01T00:00:09Z"


def test_places_backends_and_what_was_done_are_apart() -> None:
    groups = FailureGroups()
    groups.add("b", "r1", [group(1), group(2)])
    groups.add("c", "r2", [group(1)])
    groups.add("b", "r1", [FailureGroup("build", "ValueError", "/app.py", 1, "handler", count=1)])
    assert len(groups.told()) == 4
    assert [told["what"] for told in groups.told("b")] == ["call", "call", "build"]
    assert groups.told("other") == []


def test_the_one_goes_that_was_not_seen_for_longest() -> None:
    groups = FailureGroups()
    for line in range(MOST_GROUPS):
        groups.add("b", "r1", [group(line)])
    groups.add("b", "r1", [group(0)])
    groups.add("b", "r1", [group(MOST_GROUPS)])
    lines = [told["line"] for told in groups.told()]
    assert len(lines) == MOST_GROUPS
    assert lines[-2:] == [0, MOST_GROUPS]
    assert 1 not in lines

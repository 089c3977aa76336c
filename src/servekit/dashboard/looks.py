"""What the tabs are told: the operations that are asked, with what, and how the answers are told. Pure functions.

What comes in lists is told by keys, so that only what is new of it travels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

MOST_EVENTS = 200
MOST_FAILURES = 50


class Look(NamedTuple):
    """One operation."""

    arguments: Callable[[Any], dict[str, Any]]
    """Of what was told of it last; None: nothing was."""
    told: Callable[[Any], Any]
    """What is told of its result."""


def _last_events(before: Any) -> dict[str, Any]:
    return {"since": max(0, max(map(int, before or ()), default=0) - MOST_EVENTS)}


def _events(result: list[dict[str, Any]]) -> dict[str, Any]:
    return {str(event["number"]): event for event in result[-MOST_EVENTS:]}


def _failures(result: list[dict[str, Any]]) -> dict[str, Any]:
    parts = ("backend", "what", "type", "file", "line", "function")
    return {"|".join(str(group[part]) for part in parts): group for group in result[-MOST_FAILURES:]}


def _nothing(before: Any) -> dict[str, Any]:
    return {}


def _same(result: Any) -> Any:
    return result


LOOKS: Mapping[str, Look] = {
    "status": Look(_nothing, _same),
    "stat": Look(_nothing, _same),
    "events": Look(_last_events, _events),
    "failures": Look(_nothing, _failures),
}

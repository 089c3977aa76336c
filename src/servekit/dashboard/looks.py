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
    told: Callable[[Any, Any], Any]
    """What is told of it, by what was told last and its result."""


def _nothing(before: Any) -> dict[str, Any]:
    return {}


def _same(before: Any, result: Any) -> Any:
    return result


def _last_events(before: Any) -> dict[str, Any]:
    return {"since": max(0, max(map(int, before or ()), default=0) - MOST_EVENTS)}


def _events(before: Any, result: list[dict[str, Any]]) -> dict[str, Any]:
    return {str(event["number"]): event for event in result[-MOST_EVENTS:]}


def _failures(before: Any, result: list[dict[str, Any]]) -> dict[str, Any]:
    parts = ("backend", "what", "type", "file", "line", "function")
    return {"|".join(str(group[part]) for part in parts): group for group in result[-MOST_FAILURES:]}


def _since_the_newest(before: Any) -> dict[str, Any]:
    return {"since": 0.0 if before is None else before["at"]}


def _newest(before: Any, result: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The newest sample of each name, as a list of one: pages ask for those before by themselves."""
    newest = {kind: _ends(names) for kind, names in result.items()}
    at = max((found[0]["at"] for kind in ("endpoints", "backends") for found in newest[kind].values()), default=None)
    if at is None:  # None was taken since.
        return before or {"at": 0.0, **newest}
    return {"at": at, **newest}


def _ends(names: dict[str, Any]) -> dict[str, Any]:
    """The last of each list, in dicts of any depth, without what is empty then."""
    ends = {name: found[-1:] if isinstance(found, list) else _ends(found) for name, found in names.items()}
    return {name: found for name, found in ends.items() if found}


LOOKS: Mapping[str, Look] = {
    "status": Look(_nothing, _same),
    "stat": Look(_nothing, _same),
    "recent": Look(_since_the_newest, _newest),
    "events": Look(_last_events, _events),
    "failures": Look(_nothing, _failures),
}

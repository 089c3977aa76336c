"""Compares the two answers of a pair, by what the shadow says: JSON, the status, or a function of the user's.

It runs in a thread, as what it calls of the user's may take its time. What comes out is short text that can be sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from servekit.config import sendable, short
from servekit.control.json_diff import JsonDifference, differences
from servekit.control.shadow_tally import ShadowExample
from servekit.errors import InvalidInputError, ServekitError
from servekit.factories import describe, load_path
from servekit.wire.control_frames import ShadowAnswer, ShadowEntry, ShadowPair

LONGEST_EXAMPLE = 200
LONGEST_PATH = 300
LONGEST_PROBLEM = 500
STATUS = "status"
"""In the place of a path: no JSON pointer begins so."""
MOST_PATHS_OF_ONE = 200


class Comparison:
    """The way in which one shadow's answers are compared."""

    def __init__(self, entry: ShadowEntry) -> None:
        """Raises `InvalidInputError` where a function that it names cannot be loaded."""
        self._entry = entry
        self._function: Callable[..., Any] | None = None
        self._redact = _loaded("redact", entry.redact) if entry.redact else None
        if ":" in entry.compare:
            self._function = _loaded("compare", entry.compare)

    def of(self, pair: ShadowPair) -> dict[tuple[str, str], ShadowExample]:
        """What the answers of a pair differ in, by path and kind. Raises what the user's function does."""
        if pair.same:
            return {}
        found = {}
        for each in self._differences(pair.live, pair.shadow):
            found[sendable(each.path, LONGEST_PATH), each.kind] = ShadowExample(
                self._shown(each.path, each.first), self._shown(each.path, each.second), pair.request_id
            )
        return found

    def _differences(self, live: ShadowAnswer, shadow: ShadowAnswer) -> Iterable[JsonDifference]:
        if self._function is not None:
            return [JsonDifference(path, "value", None, None) for path in _paths(self._function(live, shadow))]
        if live.status != shadow.status:
            return [JsonDifference(STATUS, "value", live.status, shadow.status)]
        if self._entry.compare == "status":
            return []
        first, second = _parsed(live.body), _parsed(shadow.body)
        if first is None or second is None:
            kind = "value" if first is second else "type"
            return [JsonDifference("", kind, _text(live.body), _text(shadow.body))]
        return differences(first[0], second[0], tolerance=self._entry.tolerance, ignore=self._entry.ignore)

    def _shown(self, path: str, value: Any) -> str:
        if self._redact is not None:
            try:
                value = self._redact(path, value)
            except BaseException as error:  # Rather nothing than what was to be hidden.
                return f"({self._entry.redact} raised {type(error).__name__})"
        try:
            text = json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):
            text = short(value)
        return sendable(text, LONGEST_EXAMPLE)


def _loaded(what: str, path: str) -> Callable[..., Any]:
    try:
        function = load_path(path)
    except BaseException as error:  # A module may exit, too.
        why = sendable(str(error), LONGEST_PROBLEM) if isinstance(error, ServekitError) else problem_of(error)
        raise InvalidInputError(f"{what}: the controller cannot load it: {why}") from error
    if not callable(function):
        raise InvalidInputError(f"{what}: {path!r} is {short(function)}, which cannot be called")
    found: Callable[..., Any] = function
    return found


def _paths(answer: Any) -> list[str]:
    """What a user's function says: the paths that differ, or whether the answers are alike."""
    if isinstance(answer, bool):
        return [] if answer else [""]
    if isinstance(answer, (list, tuple, set, frozenset)) and all(isinstance(path, str) for path in answer):
        return list(dict.fromkeys(answer))[:MOST_PATHS_OF_ONE]
    raise TypeError(f"it is to return True where the answers are alike, or a list of paths; not {short(answer)}")


def _parsed(body: bytes) -> tuple[Any] | None:
    """None: it is no JSON."""
    try:
        return (json.loads(body),)
    except (ValueError, RecursionError):
        return None


def _text(body: bytes) -> str:
    return body[: 2 * LONGEST_EXAMPLE].decode(errors="replace")


def problem_of(error: BaseException) -> str:
    """What went wrong in a comparison, for people."""
    try:
        return sendable(describe(error), LONGEST_PROBLEM)
    except BaseException:  # It is of the user's code, and so is its text.
        return type(error).__name__

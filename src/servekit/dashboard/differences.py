"""What is different between two values as JSON has them: pure functions. ``live.js`` puts the changes in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Path = tuple[str, ...]
"""The keys of objects, from the outermost to the innermost."""


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[Any]]:
    """``set``: pairs of a path and its new value; ``gone``: paths. Lists are set as a whole."""
    told: dict[str, list[Any]] = {"set": [], "gone": []}
    for path, value in _changed(before, after, ()):
        if value is GONE:
            told["gone"].append(path)
        else:
            told["set"].append((path, value))
    return told


GONE: Any = object()


def _changed(before: dict[str, Any], after: dict[str, Any], at: Path) -> Iterator[tuple[Path, Any]]:
    for key in before.keys() - after.keys():
        yield (*at, key), GONE
    for key, new in after.items():
        old = before.get(key, GONE)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _changed(old, new, (*at, key))
        elif type(old) is not type(new) or old != new:
            yield (*at, key), new

"""The differences between two JSON values, by JSON pointer (RFC 6901): pure functions.

What is in a list stands below ``*`` in the place of its number, so that what differs in each of a thousand items is one
path: ``/items/*/price``.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

MOST_LEVELS = 100
"""What is nested deeper is compared as a whole."""
MOST_DIFFERENCES = 200
"""Of one pair of values; what is beyond is not told."""


class JsonDifference(NamedTuple):
    """One place at which two values differ."""

    path: str
    kind: str
    """``missing``, the second has no such key or item; ``extra``, the first has none; ``type``; ``value``; ``order``,
    a list with the same items otherwise."""
    first: Any
    second: Any


def differences(
    first: Any, second: Any, *, tolerance: float = 0.0, ignore: Collection[str] = ()
) -> list[JsonDifference]:
    """Where two JSON values differ, each path and kind once.

    Args:
        tolerance: numbers that are so near to each other are alike: relative, and absolute near 0.
        ignore: pointers of what is not compared, with all below it.
    """
    found: dict[tuple[str, str], JsonDifference] = {}
    for each in _walk(first, second, "", 0, tolerance, frozenset(ignore)):
        found.setdefault((each.path, each.kind), each)
        if len(found) >= MOST_DIFFERENCES:
            break
    return list(found.values())


def _walk(
    first: Any, second: Any, path: str, level: int, tolerance: float, ignore: Collection[str]
) -> Iterator[JsonDifference]:
    if path in ignore:
        return
    kind = type_of(first)
    if kind != type_of(second):
        yield JsonDifference(path, "type", first, second)
    elif kind not in ("object", "array"):
        if not _alike(kind, first, second, tolerance):
            yield JsonDifference(path, "value", first, second)
    elif level >= MOST_LEVELS:
        if canonical(first) != canonical(second):
            yield JsonDifference(path, "value", first, second)
    elif kind == "object":
        yield from _objects(first, second, path, level, tolerance, ignore)
    else:
        yield from _lists(first, second, path, level, tolerance, ignore)


def _objects(
    first: dict[str, Any], second: dict[str, Any], path: str, level: int, tolerance: float, ignore: Collection[str]
) -> Iterator[JsonDifference]:
    for key, value in first.items():
        below = f"{path}/{escaped(key)}"
        if key in second:
            yield from _walk(value, second[key], below, level + 1, tolerance, ignore)
        elif below not in ignore:
            yield JsonDifference(below, "missing", value, None)
    for key, value in second.items():
        if key not in first and (below := f"{path}/{escaped(key)}") not in ignore:
            yield JsonDifference(below, "extra", None, value)


def _lists(
    first: list[Any], second: list[Any], path: str, level: int, tolerance: float, ignore: Collection[str]
) -> Iterator[JsonDifference]:
    below = f"{path}/*"
    if below in ignore:
        return
    found = []
    for one, other in zip(first, second, strict=False):
        found += list(_walk(one, other, below, level + 1, tolerance, ignore))
        if len(found) >= MOST_DIFFERENCES:
            break
    if found and len(first) == len(second) and _items(first) == _items(second):
        yield JsonDifference(path, "order", first, second)
        return
    yield from found
    for item in first[len(second) :]:
        yield JsonDifference(below, "missing", item, None)
    for item in second[len(first) :]:
        yield JsonDifference(below, "extra", None, item)


def _items(values: list[Any]) -> Counter[str]:
    return Counter(canonical(value) for value in values)


def canonical(value: Any) -> str:
    """A text that two JSON values have in common where they are the same, however deep they are nested."""
    try:
        return json.dumps(value, sort_keys=True)
    except RecursionError:
        return "".join(_parts(value))


def _parts(value: Any) -> Iterator[str]:
    """Each value after the other, an object or list before what is in it: with the number of items no two are alike.
    No JSON text begins so."""
    todo = [value]
    while todo:
        value = todo.pop()
        kind = type_of(value)
        if kind == "object":
            yield f"o{len(value)} "
            for key in sorted(value):
                todo += (value[key], key)
        elif kind == "array":
            yield f"a{len(value)} "
            todo += value
        else:
            yield f"{json.dumps(value)} "


def type_of(value: Any) -> str:
    """JSON's word for what a value is."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, dict) else "array"


def _alike(kind: str, first: Any, second: Any, tolerance: float) -> bool:
    if first == second or kind != "number":
        return bool(first == second)
    try:
        if math.isnan(first) or math.isnan(second):
            return math.isnan(first) and math.isnan(second)
        return tolerance > 0 and math.isclose(first, second, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # A whole number that no float can be.
        return False


def escaped(key: str) -> str:
    """A key as a part of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")

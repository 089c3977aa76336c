"""Where two JSON values differ, by path."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.control.json_diff import MOST_DIFFERENCES, MOST_LEVELS, canonical, differences, escaped

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)


def told(first: Any, second: Any, **how: Any) -> list[tuple[str, str]]:
    return [(each.path, each.kind) for each in differences(first, second, **how)]


@given(VALUES)
def test_a_value_does_not_differ_from_itself(value: Any) -> None:
    assert differences(value, copy.deepcopy(value)) == []


def leaves(value: Any, path: str = "") -> list[tuple[list[Any], str]]:
    """The way to each leaf, and its pointer."""
    found: list[tuple[list[Any], str]] = []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += [([key, *way], pointer) for way, pointer in leaves(inner, f"{path}/{escaped(key)}")]
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            found += [([at, *way], pointer) for way, pointer in leaves(inner, f"{path}/*")]
    else:
        found.append(([], path))
    return found


@given(VALUES, st.data())
def test_one_changed_leaf_is_exactly_its_pointer(value: Any, data: st.DataObject) -> None:
    ways = leaves(value)
    if not ways:
        return
    way, pointer = data.draw(st.sampled_from(ways))
    changed = [copy.deepcopy(value)]
    holder: Any = changed
    for step in [0, *way][:-1]:
        holder = holder[step]
    last = [0, *way][-1]
    new = data.draw(LEAVES.filter(lambda new: type(new) is not type(holder[last]) or new != holder[last]))
    if told(holder[last], new) == []:
        return  # 1 and 1.0, or two that are no numbers.
    holder[last] = new
    ((path, kind),) = told(value, changed[0])
    assert path == pointer
    assert kind in ("type", "value")


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ({"a": 1}, {"a": 2}, [("/a", "value")]),
        ({"a": 1}, {"a": "1"}, [("/a", "type")]),
        ({"a": 1}, {"a": True}, [("/a", "type")]),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1}, {}, [("/a", "missing")]),
        ({}, {"a": None}, [("/a", "extra")]),
        ({"a": None}, {}, [("/a", "missing")]),
        ([1, 2, 3], [3, 1, 2], [("", "order")]),
        ({"a": [{"x": 1}, {"x": 2}]}, {"a": [{"x": 2}, {"x": 1}]}, [("/a", "order")]),
        ({"a": [{"x": 1}, {"x": 2}]}, {"a": [{"x": 3}, {"x": 4}]}, [("/a/*/x", "value")]),
        ([1, 2], [1], [("/*", "missing")]),
        ([1], [1, 2, 3], [("/*", "extra")]),
        ({"a/b": {"~": 1}}, {"a/b": {"~": 2}}, [("/a~1b/~0", "value")]),
        (1, 2, [("", "value")]),
        ([], {}, [("", "type")]),
        (math.nan, math.nan, []),
        (10**400, 1.5, [("", "value")]),
    ],
)
def test_kinds(first: Any, second: Any, found: list[tuple[str, str]]) -> None:
    assert told(first, second) == found


def test_numbers_within_the_tolerance_are_alike() -> None:
    assert told({"a": 1.0, "b": 0.0}, {"a": 1.0009, "b": 0.0009}, tolerance=0.001) == []
    assert told({"a": 1.0}, {"a": 1.01}, tolerance=0.001) == [("/a", "value")]
    assert told(10**400, 10**400 + 1, tolerance=0.1) == [("", "value")]


def test_what_is_ignored_is_not_compared() -> None:
    first, second = {"a": {"b": 1, "c": 1}, "d": [{"e": 1}]}, {"a": {"b": 2}, "d": [{"e": 2}, {"e": 3}], "f": 1}
    assert told(first, second, ignore=["/a", "/d/*", "/f"]) == []
    assert told(first, second, ignore=["/a/b", "/d"]) == [("/a/c", "missing"), ("/f", "extra")]


def test_what_is_deep_or_long_is_bounded() -> None:
    deep, other = json.loads("[" * 300 + "1" + "]" * 300), json.loads("[" * 300 + "2" + "]" * 300)
    ((path, kind),) = told(deep, other)
    assert kind == "value"
    assert path.count("*") < 300
    assert len(differences({}, {str(n): n for n in range(1000)})) == MOST_DIFFERENCES


def nested(levels: int, value: Any, opening: str = '{"k":', closing: str = "}") -> Any:
    return json.loads(opening * levels + json.dumps(value) + closing * levels)


@pytest.mark.parametrize("levels", [MOST_LEVELS, MOST_LEVELS + 1, 900])
@pytest.mark.parametrize(("opening", "closing"), [('{"k":', "}"), ("[", "]"), ('{"a": [', "]}")])
def test_what_is_nested_deeper_is_compared_as_a_whole(levels: int, opening: str, closing: str) -> None:
    levels //= opening.count("[") + opening.count("{")
    first, same, other = (nested(levels, value, opening, closing) for value in (1, 1, 2))
    assert differences(first, same) == []
    ((path, kind),) = told(first, other)
    assert kind == "value"
    assert path.count("/") <= MOST_LEVELS


def deep(value: Any) -> Any:
    """Deeper than `json` writes, by what the stack has room for here."""
    for _ in range(3000):
        value = [value]
    return value


@given(VALUES, VALUES)
def test_deep_values_are_alike_where_their_texts_are(first: Any, second: Any) -> None:
    alike = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (canonical(deep(first)) == canonical(deep(second))) == alike

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.dashboard.differences import changes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=2), JSON, max_size=4)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, {}, {"set": [], "gone": []}),
        ({"a": 1}, {"a": 1}, {"set": [], "gone": []}),
        ({"a": 1}, {"a": None}, {"set": [(("a",), None)], "gone": []}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"set": [(("a", "b"), 3)], "gone": [("a", "c")]}),
        ({"a": [1]}, {"a": [1, 2]}, {"set": [(("a",), [1, 2])], "gone": []}),
        ({"a": True}, {"a": 1}, {"set": [(("a",), 1)], "gone": []}),
        ({"a": {}}, {"a": 1, "__proto__": {}}, {"set": [(("a",), 1), (("__proto__",), {})], "gone": []}),
    ],
)
def test_what_has_changed(before: Any, after: Any, told: Any) -> None:
    assert changes(before, after) == told


def put_in(state: dict[str, Any], told: dict[str, Any]) -> None:
    """As ``live.js`` does."""
    for *path, key in told["gone"]:
        inner = state
        for each in path:
            inner = inner[each]
        del inner[key]
    for (*path, key), value in told["set"]:
        inner = state
        for each in path:
            inner = inner[each]
        inner[key] = value


@given(OBJECTS, OBJECTS)
def test_the_changes_put_into_what_there_was_are_what_there_is(before: Any, after: Any) -> None:
    state = copy.deepcopy(before)
    put_in(state, changes(before, after))
    assert repr(_sorted(state)) == repr(_sorted(after))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return sorted((key, _sorted(inner)) for key, inner in value.items())
    return value

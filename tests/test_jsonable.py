"""What becomes JSON, and what is said of what does not. The tests of both adapters have more."""

from __future__ import annotations

import enum
import json
import math
from http import HTTPStatus
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit import jsonable
from servekit.errors import ResultError

KEYS = st.one_of(st.text(max_size=3), st.integers(-3, 3), st.booleans(), st.none())
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(), st.text(max_size=5))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner),
        st.dictionaries(KEYS, inner, max_size=3),
        st.sets(st.integers(0, 3)),
    ),
    max_leaves=10,
)


def is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return all(map(is_finite, inner))


def has_equal_keys(value: Any) -> bool:
    if isinstance(value, dict) and len({json.dumps(key).strip('"') for key in value}) < len(value):
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(map(has_equal_keys, inner))


@given(VALUES)
def test_what_comes_out_is_json_and_nothing_that_is_not_finite_does(value: Any) -> None:
    if not is_finite(value) or has_equal_keys(value):
        with pytest.raises(ResultError, match="JSON does not have|two keys"):
            jsonable.plain(value)
        return
    plain = jsonable.plain(value)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    json.loads(jsonable.encode(value), parse_constant=pytest.fail)


class Whole(enum.IntEnum):
    ONE = 1


class Words(str, enum.Enum):
    A = "a"


@pytest.mark.parametrize("encode", [jsonable.encode, lambda value: json.dumps(jsonable.plain(value)).encode()])
def test_enums_that_are_numbers_or_text_too(encode: Any) -> None:
    assert json.loads(encode({Words.A: Whole.ONE, Whole.ONE: Words.A})) == {"a": 1, "1": "a"}


class Tensor:
    def tolist(self) -> list[int]:
        return [1]


class Frame:
    def to_dict(self) -> dict[str, int]:
        return {}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([Tensor()], r"result\[0\] has the type tests.test_jsonable.Tensor, .*: return what its tolist\(\) gives"),
        ({"f": Frame()}, r"result\['f'\] .*: return what its to_dict\(\) gives"),
        ({"o": object()}, r"result\['o'\] has the type object, .*: make text, a number, a list or a dict of it"),
    ],
)
def test_the_advice_fits_the_type(value: Any, said: str) -> None:
    with pytest.raises(ResultError, match=said):
        jsonable.encode(value)


def test_what_is_nested_without_end_is_refused_in_a_short_sentence() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ResultError, match="nested deeper than 200 levels") as raised:
        jsonable.encode(deep)
    assert len(str(raised.value)) < 300
    while deep:  # Else its end, all at once, goes as deep.
        deep = deep[0]


def nested(value: Any) -> Any:
    for _ in range(250):  # Deeper than `plain` goes.
        value = [value]
    return value


def test_none_is_looked_at_by_the_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonable, "plain", None)  # It takes many times as long.
    rows = [{"a": 1.5, "b": None, 3: {"c": None}}, nested(None), Whole.ONE]
    assert json.loads(jsonable.encode(rows)) == [{"a": 1.5, "b": None, "3": {"c": None}}, nested(None), 1]


def test_attrs_may_hold_none_as_well() -> None:
    attrs = pytest.importorskip("attrs")
    made = attrs.make_class("Made", ["x"])
    assert jsonable.encode([made(None)]) == b'[{"x":null}]'
    with pytest.raises(ResultError):
        jsonable.encode([made(math.nan)])


@pytest.mark.parametrize("encode", [jsonable.encode, jsonable.plain])
def test_a_number_too_long_for_json_is_named(encode: Any) -> None:
    with pytest.raises(ResultError, match=r"result\['i'\] is a whole number too long"):
        encode({"i": 10**5000})


def test_half_of_a_surrogate_pair_is_no_result() -> None:
    with pytest.raises(ResultError, match="half of a surrogate pair"):
        jsonable.encode({"a": "\ud800"})


@pytest.mark.parametrize("status", [HTTPStatus.CREATED, 201, np.int64(201), "201", "201 Made"], ids=repr)
def test_what_is_a_status(status: Any) -> None:
    assert jsonable.parts_of(("x", status)) == ("x", 201, None)
    assert jsonable.parts_of(("x", status, [("a", "b")])) == ("x", 201, [("a", "b")])


@pytest.mark.parametrize("headers", [{"a": "b", "c": ["d", "e"]}, [("a", "b"), ("c", "d"), ("c", "e")]])
def test_what_are_headers(headers: Any) -> None:
    assert jsonable.parts_of(("x", headers)) == ("x", None, [("a", "b"), ("c", "d"), ("c", "e")])
    assert jsonable.parts_of(("x", None, headers))[1:] == jsonable.parts_of(("x", headers))[1:]


@pytest.mark.parametrize("result", [("x", "made"), ("x", 2.5), ("x", ""), ("x", object(), {})])
def test_what_is_no_status(result: Any) -> None:
    with pytest.raises(ResultError, match="is no status"):
        jsonable.parts_of(result)


@pytest.mark.parametrize("headers", [5, ["a"], [("a", "b", "c")]])
def test_what_are_no_headers(headers: Any) -> None:
    with pytest.raises(ResultError, match="pairs of text"):
        jsonable.parts_of(("x", 200, headers))

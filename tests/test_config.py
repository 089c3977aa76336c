from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec
import pytest

from servekit.config import (
    REPLICA_FIELDS,
    Autoscaling,
    BackendConfig,
    HttpLimits,
    backend_config,
    config_digest,
    fits,
    http_limits,
    in_words,
    nearest,
)
from servekit.errors import ArgumentError, InvalidInputError


def test_the_defaults() -> None:
    assert backend_config(None) == backend_config({}) == BackendConfig()
    assert BackendConfig().num_replicas == 1
    assert BackendConfig().max_concurrent_queries is None


def test_changes_upon_a_base() -> None:
    base = backend_config({"num_replicas": 3, "callable_methods": ["train"]})
    assert base.callable_methods == ("train",)
    assert backend_config({"max_queued_requests": 0}, base) == BackendConfig(
        num_replicas=3, max_queued_requests=0, callable_methods=("train",)
    )
    assert backend_config(None, base) is base
    assert backend_config(base) is base
    assert base.num_replicas == 3


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(InvalidInputError, match="'num_replica' .* did you mean 'num_replicas'"):
        backend_config({"num_replica": 1})


@pytest.mark.parametrize("key", [1, None, "", "x" * 100])
def test_keys_that_are_nothing_like_one(key: Any) -> None:
    with pytest.raises(InvalidInputError, match="is not a key of a backend's config"):
        backend_config({key: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_replicas", -1),
        ("num_replicas", 1.5),
        ("num_replicas", "2"),
        ("num_replicas", None),
        ("num_replicas", True),
        ("max_concurrent_queries", 0),
        ("max_queued_requests", -1),
        ("startup_timeout_s", -0.1),
        ("startup_timeout_s", math.inf),
        ("startup_timeout_s", math.nan),
        ("callable_methods", "train"),
        ("callable_methods", [1]),
    ],
)
def test_a_bad_value_is_refused_and_its_key_named(key: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=key):
        backend_config({key: value})


@pytest.mark.parametrize("config", [[], "num_replicas", 3, [("num_replicas", 1)]])
def test_what_is_no_dict(config: Any) -> None:
    with pytest.raises(InvalidInputError, match="dict"):
        backend_config(config)


def test_every_limit_is_finite() -> None:
    for name in set(HttpLimits.__struct_fields__) - {"spool_directory"}:
        assert 0 < getattr(HttpLimits(), name) < math.inf


@pytest.mark.parametrize("name", sorted(set(HttpLimits.__struct_fields__) - {"spool_directory"}))
def test_a_limit_that_is_none_is_refused_by_its_name(name: str) -> None:
    for value in (-1, math.inf, math.nan):
        with pytest.raises(
            ValueError, match=f"{name} (must be (finite and )?at least 0|must be a whole number, not float)"
        ):
            HttpLimits(**{name: value})


def test_the_fields_that_replace_replicas_are_fields() -> None:
    assert set(BackendConfig.__struct_fields__) >= REPLICA_FIELDS


def test_a_config_crosses_the_wire() -> None:
    config = backend_config({"callable_methods": ["a", "b"], "startup_timeout_s": 1})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=BackendConfig) == config


def test_nearest() -> None:
    assert nearest("wieghted", ["weighted", "other"]) == "; did you mean 'weighted'? Known: other, weighted"
    assert nearest("x", ["weighted"]) == ". Known: weighted"
    assert nearest("x", []) == ". Known: none"
    assert nearest("max", ["max_replicas", "min_replicas"]).startswith("; did you mean 'max_replicas'?")
    assert nearest("run", ["ran"], {"run": "init()"}).startswith("; in the place of what Ray Serve calls so: init() (")
    assert nearest("old", ["new"], {"old": "new"}) == "; did you mean 'new'? Known: new"
    many = [f"b{number}" for number in range(100, 400)]
    assert nearest("b398x", many, most=3) == "; did you mean 'b398'? Known: b397, b398, b399 and 297 more"
    assert nearest("other", many, most=2) == ". Known: b100, b101 and 298 more"
    assert nearest("other", many[:2], most=2) == ". Known: b100, b101"


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("user_config", "message"),
    [
        ({"a": [1, {2}]}, r"user_config\['a'\]\[1\] must be plain data .* not set"),
        (Text("x"), r"not Text: 'x'"),
        ({(1,): 1}, r"has the key \(1,\)"),
        ({"a": 2**70}, r"user_config\['a'\] cannot be sent to replicas"),
        ("\ud800", "cannot be sent to replicas"),
    ],
)
def test_a_user_config_that_would_not_arrive_as_it_is(user_config: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        backend_config({"user_config": user_config})


def test_a_user_config_outlives_other_changes() -> None:
    base = backend_config({"user_config": {"key": b"\xff", 1: [None, True, 1.5, ("a",)]}})
    assert backend_config({"num_replicas": 2}, base).user_config == base.user_config
    assert config_digest(base.user_config) != config_digest(None)
    assert config_digest(msgspec.msgpack.decode(msgspec.msgpack.encode(base.user_config))) == config_digest(
        base.user_config
    )


def test_autoscaling_is_a_dict_with_keys_of_its_own() -> None:
    scaling = backend_config({"autoscaling": {"max_replicas": 3}}).autoscaling
    assert scaling == Autoscaling(max_replicas=3)
    assert (
        backend_config({"num_replicas": 2}, backend_config({"autoscaling": {"max_replicas": 3}})).autoscaling == scaling
    )
    with pytest.raises(
        InvalidInputError, match="'max_replica' is not a key of autoscaling; did you mean 'max_replicas'"
    ):
        backend_config({"autoscaling": {"max_replica": 3}})
    with pytest.raises(InvalidInputError, match="max_replicas is 1, but min_replicas is 3"):
        backend_config({"autoscaling": {"min_replicas": 3}})


@pytest.mark.parametrize(
    ("kind", "good", "bad", "words"),
    [
        (str, ["x", ""], [1, None, b"x"], "text"),
        (int, [1, -1], [True, 1.0, "1"], "a whole number"),
        (float, [1, 1.5, math.inf], [True, "1"], "a number"),
        (bool, [True], [1, "no", None], "True or False"),
        (str | None, ["x", None], [1], "text or None"),
        (Mapping[str, str], [{}, {"a": "b"}], [{"a": 1}, {1: "a"}, [], "ab"], "a dict of text by name"),
        (Mapping[str, Any], [{"a": object()}], [{1: 2}, 3], "a dict"),
        (Iterable[str], [["a"], {"a"}, ("a",), iter("a")], ["a", b"a", [1], 3], "a list of text"),
        (Sequence[str], [["a"]], ["a", {"a"}, [1]], "a list of text"),
        (tuple[str, ...], [("a",), ["a"], {"a"}], ["a", [1], {1}, {"a": 1}], "a list of text"),
        (tuple[int, str], [(1, "a")], [3], "a list"),
        (Literal["a", "b"], ["a"], [], "Literal"),
        (BackendConfig, [BackendConfig()], [{}], "BackendConfig"),
        (Callable[[int], str], [len], [3], "Callable"),
        (TypeVar("T"), [1, None], [], "T"),
    ],
)
def test_what_an_annotation_asks_for(kind: Any, good: list[Any], bad: list[Any], words: str) -> None:
    assert in_words(kind) == words
    assert all(fits(value, kind) for value in good)
    assert not any(fits(value, kind) for value in bad)


def test_methods_may_be_a_set() -> None:
    assert backend_config({"callable_methods": {"predict"}}).callable_methods == ("predict",)


def test_records_say_which_field_is_wrong() -> None:
    with pytest.raises(ArgumentError, match="num_replicas must be a whole number, not str: '2'"):
        BackendConfig(num_replicas="2")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="a backend's config: callable_methods .* write callable_methods="):
        backend_config({"callable_methods": "train"})


def test_limits_from_a_dict() -> None:
    assert http_limits(None) == http_limits({}) == HttpLimits()
    assert http_limits({"body_bytes": 5}) == HttpLimits(body_bytes=5)
    with pytest.raises(InvalidInputError, match="'body' is not a key of http_limits"):
        http_limits({"body": 5})


@pytest.mark.parametrize(
    ("key", "here"), [("max_ongoing_requests", "max_concurrent_queries"), ("autoscaling_config", "autoscaling")]
)
def test_keys_of_ray_serve_lead_to_those_that_are_meant(key: str, here: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{key!r} .* did you mean {here!r}"):
        backend_config({key: 1})

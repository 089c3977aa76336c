from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from servekit.config import (
    REPLICA_FIELDS,
    Autoscaling,
    BackendConfig,
    HttpLimits,
    backend_config,
    config_digest,
    nearest,
)
from servekit.errors import InvalidInputError


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
    with pytest.raises(InvalidInputError, match="is not a backend config key"):
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
        with pytest.raises(ValueError, match=f"{name} must be finite and at least 0"):
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


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("user_config", "message"),
    [
        ({"a": [1, {2}]}, r"user_config\['a'\]\[1\] is plain data .* not builtins.set"),
        (Text("x"), r"not \S*Text"),
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
    with pytest.raises(InvalidInputError, match="max_replicas must be finite and at least 3"):
        backend_config({"autoscaling": {"min_replicas": 3}})

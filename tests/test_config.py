from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from servekit.config import REPLICA_FIELDS, BackendConfig, HttpLimits, backend_config, nearest
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
    for name in HttpLimits.__struct_fields__:
        assert 0 < getattr(HttpLimits(), name) < math.inf


def test_the_fields_that_replace_replicas_are_fields() -> None:
    assert set(BackendConfig.__struct_fields__) >= REPLICA_FIELDS


def test_a_config_crosses_the_wire() -> None:
    config = backend_config({"callable_methods": ["a", "b"], "startup_timeout_s": 1})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=BackendConfig) == config


def test_nearest() -> None:
    assert nearest("wieghted", ["weighted", "other"]) == "; did you mean 'weighted'? Known: other, weighted"
    assert nearest("x", ["weighted"]) == ". Known: weighted"
    assert nearest("x", []) == ". Known: none"

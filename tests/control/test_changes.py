"""What a change is said to have changed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from servekit.control.changes import changes_of
from servekit.control.state import Desired


def texts(before: Desired, after: Desired, **more: Any) -> list[tuple[str, str]]:
    return [(each.kind, each.text) for each in changes_of(before, after, **more)]


def test_what_is_created_and_deleted(make: Any) -> None:
    one = make.desired(make.backend("b"), make.endpoint("e", traffic={"b": 1.0}), make.endpoint("h", route=None))
    assert texts(Desired(), one) == [
        ("backend_created", "backend b is created, revision 1: module:Model"),
        ("endpoint_created", "endpoint e is created, at /e"),
        ("traffic_set", "endpoint e has traffic: b 1"),
        ("endpoint_created", "endpoint h is created, no HTTP"),
    ]
    assert texts(one, Desired()) == [
        ("backend_deleted", "backend b is deleted"),
        ("endpoint_deleted", "endpoint e is deleted"),
        ("endpoint_deleted", "endpoint h is deleted"),
    ]
    assert texts(one, one) == []


def test_traffic_with_what_it_was(make: Any) -> None:
    before = make.desired(make.endpoint("e", traffic={"a": 1.0}))
    after = make.desired(make.endpoint("e", traffic={"a": 0.9, "b": 0.1}))
    (change,) = changes_of(before, after)
    assert (change.text, change.detail, change.endpoint) == ("endpoint e has traffic: a 0.9, b 0.1", "it was: a 1", "e")
    # Set to what it was, it was set all the same.
    assert texts(before, make.desired(make.endpoint("e", traffic={"a": 1.0}))) == [
        ("traffic_set", "endpoint e has traffic: a 1")
    ]


def test_options_of_an_endpoint(make: Any) -> None:
    before = make.desired(make.endpoint("e", traffic={"a": 1.0}))
    after = make.desired(make.endpoint("e", traffic={"a": 1.0}, timeout_s=5.0, methods=("POST",)))
    assert texts(before, after) == [("endpoint_changed", "endpoint e is changed: timeout_s, methods")]
    both = make.desired(make.endpoint("e", traffic={"b": 1.0}, strict=True))
    assert [kind for kind, _ in texts(before, both)] == ["endpoint_changed", "traffic_set"]


@pytest.mark.parametrize(
    ("config", "more", "told"),
    [
        ({"num_replicas": 3}, {}, [("backend_scaled", "backend b goes from 1 to 3 replicas")]),
        (
            {"user_config": {"key": "secret"}, "max_queued_requests": 7},
            {},
            [("backend_changed", "the config of backend b is changed: max_queued_requests, user_config")],
        ),
        (
            {},
            {"revision": 2, "repeats": 1},
            [("backend_restarted", "every replica of backend b is replaced by a new one")],
        ),
        ({}, {"revision": 2}, [("backend_changed", "backend b goes from revision 1 to 2")]),
        ({}, {"written": {}}, []),
    ],
)
def test_a_backend(make: Any, config: dict[str, Any], more: dict[str, Any], told: list[tuple[str, str]]) -> None:
    before, after = make.desired(make.backend("b")), make.desired(make.backend("b", config=config, **more))
    assert texts(before, after) == told
    assert "secret" not in repr(changes_of(before, after))


def test_what_is_put_back(make: Any) -> None:
    old = make.backend("b")
    before = make.desired(msgspec.structs.replace(old, revision=2), make.backend("new"))
    assert texts(before, make.desired(old), put_back=True) == [
        ("backend_put_back", "backend b is as it was before, revision 1"),
        ("backend_put_back", "backend new is gone again"),
    ]

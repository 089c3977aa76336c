"""The probes: whether an ingress worker lives, and whether requests to its endpoints would be answered."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from servekit.config import Autoscaling

FROM_ZERO = Autoscaling(min_replicas=0, max_replicas=2)


@pytest.fixture
def ready(world: Any) -> Any:
    world.router.builtin.ready = True
    return world


@pytest.mark.parametrize("probe", ["/-/readyz", "/-/healthz"])
def test_a_worker_that_starts_or_ends_lives_and_is_not_ready(world: Any, probe: str) -> None:
    assert world.ask("/-/livez").status == 200
    asked = world.ask(probe)
    assert asked.status == 503
    assert "is starting, or is being shut down" in asked.text
    world.router.builtin.ready = True
    assert (world.ask(probe).status, world.ask(probe).text) == (200, "ok\n")
    assert world.ask(probe, method="HEAD").status == 200
    assert world.ask("/-/livez").text == "ok\n"


def test_an_endpoint_whose_traffic_none_can_take_is_named(ready: Any) -> None:
    ready.apply(
        ready.backend("up"),
        ready.backend("down", replicas=(), num_replicas=1),
        ready.backend("off", replicas=(), num_replicas=0),
        ready.endpoint("good", weights={"up": 1.0}),
        ready.endpoint("bad", route="/bad", weights={"down": 0.5, "off": 0.5}),
    )
    asked = ready.ask("/-/readyz", headers=[("accept", "application/json")])
    error = json.loads(asked.text)["error"]
    assert (asked.status, error["type"]) == (503, "not_ready")
    assert error["message"] == (
        "endpoint 'bad': backend 'down' has no ready replica and backend 'off' has no ready replica (none is coming)."
    )
    assert ready.ask("/-/livez").status == 200


def test_one_endpoint_can_be_asked_for(ready: Any) -> None:
    ready.apply(
        ready.backend("up"),
        ready.backend("down", replicas=()),
        ready.endpoint("good", weights={"up": 1.0}),
        ready.endpoint("a/b c", route="/bad", weights={"down": 1.0}),
    )
    assert ready.ask("/-/readyz/good").status == 200
    assert "endpoint 'a/b c'" in ready.ask("/-/readyz/a/b c").text
    assert ready.ask("/-/readyz/other").status == 404
    assert ready.ask("/-/readyz/good", method="POST").status == 405


def test_an_endpoint_is_ready_while_any_version_serves(ready: Any) -> None:
    ready.apply(
        ready.backend("old"), ready.backend("new", replicas=()), ready.endpoint(weights={"old": 0.5, "new": 0.5})
    )
    assert ready.ask("/-/readyz").status == 200


def test_an_endpoint_without_traffic_is_no_reason(ready: Any) -> None:
    ready.apply(ready.endpoint(weights={}))
    assert ready.ask("/-/readyz").status == 200


def test_a_backend_that_scales_from_zero_is_ready_unless_it_fails_to_start(ready: Any) -> None:
    asleep = ready.backend(replicas=(), autoscaling=FROM_ZERO)
    ready.apply(asleep, ready.endpoint())
    assert ready.ask("/-/readyz").status == 200
    ready.apply(msgspec.structs.replace(asleep, failing=True))
    asked = ready.ask("/-/readyz")
    assert asked.status == 503
    assert "backend 'b' has no ready replica (its replicas fail to start)" in asked.text
    ready.apply(asleep)
    assert ready.ask("/-/readyz").status == 200


def test_a_backend_that_is_to_have_a_replica_always_is_not_ready_without_one(ready: Any) -> None:
    ready.apply(ready.backend(replicas=(), autoscaling=Autoscaling(min_replicas=1, max_replicas=2)), ready.endpoint())
    assert ready.ask("/-/readyz").status == 503


def test_a_replica_that_is_lost_leaves_its_endpoint_not_ready_until_another_comes(ready: Any) -> None:
    ready.apply(ready.backend(replicas=("r1",)), ready.endpoint())
    assert ready.ask("/-/readyz").status == 200
    ready.lose("r1")
    assert ready.ask("/-/readyz").status == 503
    ready.apply(ready.backend(replicas=("r2",)))
    assert ready.ask("/-/readyz").status == 200

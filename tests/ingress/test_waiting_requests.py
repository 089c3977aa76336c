"""What the controller is told of requests that have no replica yet."""

from __future__ import annotations

from typing import Any

import pytest

from servekit.config import Autoscaling
from servekit.ingress.waiting_requests import WaitingRequests

SCALING = Autoscaling(min_replicas=0, max_replicas=4)


@pytest.fixture
def take(world: Any) -> Any:
    """What a report would say now, given the failovers that were counted."""
    waiting = WaitingRequests()

    def take() -> dict[str, int]:
        router = world.router
        return waiting.take(
            router.endpoints.values(), router.backends.values(), world.shared.take_failovers(), world.shared.now()
        )

    return take


def test_a_request_for_a_backend_that_is_at_zero_waits_and_is_told_of(world: Any, take: Any) -> None:
    world.apply(world.backend("b", [], autoscaling=SCALING), world.endpoint())
    assert take() == {}
    asked = [world.ask() for _ in range(3)]
    assert world.wanted == 3
    assert not any(each.answered for each in asked)
    assert take() == {"b": 3}
    world.apply(world.backend("b", ["r1"], autoscaling=SCALING))
    sent = len(world.calls("r1"))
    assert 0 < sent < 3
    assert take() == {"b": 3 - sent}


def test_one_that_waits_for_room_alone_is_counted_and_not_urgent(world: Any, take: Any) -> None:
    world.apply(world.backend("b", ["r1"], autoscaling=SCALING), world.endpoint())
    for _ in range(6):
        world.ask()
    assert take() == {"b": 6 - len(world.calls("r1"))}
    assert world.wanted == 0


def test_what_is_refused_is_load_in_the_measure_of_what_it_would_have_been(world: Any, take: Any) -> None:
    world.apply(world.backend("b", ["r1"], autoscaling=SCALING, max_queued_requests=2), world.endpoint())
    for _ in range(20):
        world.ask()
        world.answer("r1", world.calls("r1")[-1], service_us=500_000)
    take()
    asked = [world.ask() for _ in range(50)]
    world.loop.advance(2.0)
    refused = sum(each.answered for each in asked)
    assert refused >= 40
    waiting = len(world.router.backends["b"].waiting)
    assert take()["b"] == pytest.approx(waiting + refused * 0.5 / 2.0, abs=1)
    assert take() == {"b": waiting}


def test_what_waits_at_an_endpoint_is_shared_by_weight(world: Any, take: Any) -> None:
    world.apply(
        world.backend("a", [], autoscaling=SCALING),
        world.backend("b", [], autoscaling=SCALING),
        world.backend("c", [], num_replicas=0),
        world.endpoint(weights={"a": 0.2, "b": 0.5, "c": 0.3}),
    )
    world.ask()
    assert take() == {"b": 1}
    for _ in range(9):
        world.ask()
    assert take() == {"a": 2, "b": 8}


def test_a_version_whose_share_others_take_is_asked_for_when_that_is_a_request(world: Any, take: Any) -> None:
    world.apply(
        world.backend("a", ["a1"], max_concurrent_queries=100),
        world.backend("b", [], autoscaling=SCALING),
        world.endpoint(weights={"a": 0.75, "b": 0.25}),
    )
    world.ask()
    assert take() == {}
    world.ask()
    world.ask()
    assert "b" not in take()
    world.ask()
    assert take()["b"] == 1
    assert take()["b"] == 1  # Until it comes.
    world.apply(world.backend("b", ["b1"], autoscaling=SCALING))
    assert "b" not in take()
    world.apply(world.backend("b", [], autoscaling=SCALING))
    assert "b" not in take()


def test_under_strict_its_requests_wait_for_it(world: Any, take: Any) -> None:
    world.apply(
        world.backend("a", ["a1"]),
        world.backend("b", [], autoscaling=SCALING, max_queued_requests=1),
        world.endpoint(weights={"b": 0.5, "a": 0.5}, strict=True),
    )
    first, second = world.ask(), world.ask()
    assert not first.answered
    assert second.status == 503  # The queue is full.
    assert take() == {"b": 1}
    assert world.wanted == 1
    world.apply(world.backend("b", ["b1"], autoscaling=SCALING))
    (call,) = world.calls("b1")
    world.answer("b1", call)
    assert first.status == 200

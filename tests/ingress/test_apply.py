"""Snapshots: what is applied, in what order, and what stays."""

from __future__ import annotations

from typing import Any

from servekit.wire.control_frames import PluginRef
from servekit.wire.data_frames import Answer, Bye


def test_a_change_of_weights_keeps_the_policy(world: Any) -> None:
    world.apply(world.backend("a", ["a1"]), world.backend("b", ["b1"]), world.endpoint(weights={"a": 1.0}))
    policy = world.policy()
    world.apply(world.endpoint(weights={"a": 0.0, "b": 1.0}))
    assert world.policy() is policy
    assert policy.weights == [{"a": 1.0}, {"b": 1.0}]
    assert policy.closed == 0
    world.ask()
    assert len(world.calls("b1")) == 1


def test_any_other_change_replaces_it(world: Any) -> None:
    world.apply(world.backend(), world.endpoint(timeout_s=5.0))
    policy = world.policy()
    world.apply(world.endpoint(timeout_s=6.0, route="/y"))
    assert world.policy() is not policy
    assert policy.closed == 1
    assert world.ask("/x").status == 404
    assert not world.ask("/y").answered


def test_what_has_not_changed_is_left_alone(world: Any) -> None:
    world.apply(world.backend(), world.endpoint())
    policy, replica, link = world.policy(), world.replica("r1"), world.link("r1")
    assert world.apply(world.backend(), world.endpoint(), whole=True) == ""
    assert world.policy() is policy
    assert policy.weights == [{"b": 1.0}]
    assert world.replica("r1") is replica
    assert link.frames == []


def test_a_whole_snapshot_takes_away_what_it_does_not_name(world: Any) -> None:
    world.apply(world.backend(), world.backend("c", ["c1"]), world.endpoint(), world.endpoint("f", route="/f"))
    world.apply(world.backend(), world.endpoint("f", route="/f"), whole=True)
    assert list(world.router.endpoints) == ["f"]
    assert list(world.router.backends) == ["b"]
    assert world.ask().status == 404


def test_a_difference_leaves_what_it_does_not_name(world: Any) -> None:
    world.apply(world.backend(), world.endpoint())
    world.apply(world.endpoint("f", route="/f"))
    assert list(world.router.endpoints) == ["e", "f"]


def test_new_replicas_are_there_before_traffic_changes_and_old_ones_go_last(world: Any) -> None:
    world.apply(world.backend("a", ["a1"]), world.endpoint(weights={"a": 1.0}))
    seen: list[tuple[list[str], list[str]]] = []

    def traffic_changed(weights: Any) -> None:
        backends = world.router.backends
        seen.append(([r.id for r in backends["a"].ready], [r.id for r in backends["b"].ready]))

    world.policy().traffic_changed = traffic_changed
    world.apply(world.backend("b", ["b1"]), world.endpoint(weights={"b": 1.0}), gone=["backend:a"])
    assert seen == [(["a1"], ["b1"])]
    assert list(world.router.backends) == ["b"]


def test_a_replica_that_is_gone_from_the_snapshot_finishes_what_it_has(world: Any) -> None:
    world.apply(world.backend(), world.endpoint())
    asked = world.ask()
    replica, link = world.replica("r1"), world.link("r1")
    world.apply(world.backend("b", ["r2"]), leaving=("r1",))
    assert len(link.of(Bye)) == 1
    assert not link.peer_has_ended
    world.ask()
    assert len(world.calls("r2")) == 1
    replica.calls.frame_received(link, Answer(1, 200, b"", b"old", 0, 10))
    assert asked.text == "old"


def test_a_replica_that_is_nowhere_in_the_snapshot_has_ended(world: Any) -> None:
    world.apply(world.backend("b", ["r1", "r2", "r3"]), world.endpoint())
    links = {replica_id: world.link(replica_id) for replica_id in ("r1", "r2", "r3")}

    def ended() -> list[str]:
        return [replica_id for replica_id, link in links.items() if link.peer_has_ended]

    world.apply(world.backend("b", ["r3"]), leaving=("r1",))
    assert ended() == ["r2"]
    world.apply(world.endpoint("f", route="/f"), leaving=("r1",))
    assert ended() == ["r2"]
    world.apply()
    assert ended() == ["r1", "r2"]
    # A controller that was started again may not know of a replica that is there; the next snapshot's word counts.
    world.apply(world.endpoint("f", route="/f"), whole=True)
    assert ended() == ["r1", "r2"]
    world.apply()
    assert ended() == ["r1", "r2", "r3"]


def test_a_replica_whose_link_opens_after_it_was_taken_away_gets_nothing(world: Any) -> None:
    world.links.down = {"r1"}
    world.apply(world.backend(), world.endpoint())
    replica = world.replica("r1")
    world.apply(world.backend("b", []))
    link: Any = world.open(replica)
    assert [type(frame) for frame in link.frames] == [Bye]
    assert world.ask().status == 503


def test_requests_parked_at_an_endpoint_that_is_deleted(world: Any) -> None:
    world.apply(world.backend("b", [], num_replicas=1), world.endpoint())
    asked = world.ask()
    world.apply(gone=["endpoint:e"])
    assert asked.status == 404
    assert "deleted" in asked.text
    assert world.built[0].closed == 1
    assert world.router.backends["b"].endpoints == set()


def test_requests_in_flight_and_queued_at_an_endpoint_that_is_deleted_are_answered(world: Any) -> None:
    world.apply(world.backend(), world.endpoint())
    asked = [world.ask() for _ in range(3)]
    world.apply(gone=["endpoint:e"])
    assert world.ask().status == 404
    for number in range(3):
        world.answer("r1", world.calls("r1")[number])
    assert [one.status for one in asked] == [200] * 3


def test_a_backend_and_its_endpoint_that_go_together(world: Any) -> None:
    world.apply(world.backend(), world.endpoint())
    asked = [world.ask() for _ in range(3)]
    world.apply(gone=["endpoint:e", "backend:b"])
    assert [one.answered for one in asked] == [False, False, True]
    assert asked[2].status == 404


def test_parked_requests_follow_a_change_of_traffic(world: Any) -> None:
    world.apply(world.backend("a", [], num_replicas=1), world.backend(), world.endpoint(weights={"a": 1.0}))
    world.ask()
    world.apply(world.endpoint(weights={"b": 1.0}))
    assert len(world.calls("r1")) == 1


def test_requests_that_wait_at_an_endpoint_whose_options_change_go_on(world: Any) -> None:
    world.apply(world.backend("b", [], num_replicas=1), world.endpoint())
    asked = world.ask()
    world.apply(world.endpoint(timeout_s=5.0))
    world.apply(world.endpoint(timeout_s=6.0))
    assert not asked.answered
    world.apply(world.backend())
    world.answer("r1", world.calls("r1")[0])
    assert asked.status == 200
    assert [policy.closed for policy in world.built] == [1, 1, 0]


def test_a_route_that_passes_from_one_endpoint_to_another(world: Any) -> None:
    world.apply(world.backend(max_concurrent_queries=9), world.endpoint("old"))
    world.apply(world.endpoint("new"), gone=["endpoint:old"])
    assert not world.ask().answered
    assert world.calls("r1")[0].request.endpoint == "new"


def test_two_endpoints_that_change_routes_with_each_other(world: Any) -> None:
    world.apply(
        world.backend(max_concurrent_queries=9), world.endpoint("p", route="/1"), world.endpoint("q", route="/2")
    )
    world.apply(world.backend(), world.endpoint("p", route="/2"), world.endpoint("q", route="/1"), whole=True)
    for path in ("/1", "/2"):
        assert not world.ask(path).answered
    assert [call.request.endpoint for call in world.calls("r1")] == ["q", "p"]


def test_a_policy_that_cannot_be_built_is_reported_and_harms_no_other(world: Any) -> None:
    world.policies["broken"] = lambda: 1 / 0
    error = world.apply(
        world.backend(), world.endpoint("bad", route="/bad", policy=PluginRef("broken")), world.endpoint()
    )
    assert error == "endpoint 'bad': division by zero"
    assert not world.ask().answered
    assert world.ask("/bad").status == 404


def test_a_policy_that_does_not_bear_new_weights_keeps_no_old_ones(world: Any) -> None:
    world.apply(world.backend("a", ["a1"]), world.backend(), world.endpoint(weights={"a": 1.0}))

    def fail(weights: Any) -> None:
        raise ZeroDivisionError("mine")

    world.policy().traffic_changed = fail
    error = world.apply(world.endpoint(weights={"b": 1.0}), gone=["backend:a"])
    assert error == "endpoint 'e': mine"
    world.ask()
    assert len(world.calls("r1")) == 1


def test_a_config_is_taken_over(world: Any) -> None:
    world.apply(world.backend(max_queued_requests=0), world.endpoint())
    world.apply(world.backend(max_queued_requests=1))
    assert [world.ask().answered for _ in range(4)] == [False, False, False, True]

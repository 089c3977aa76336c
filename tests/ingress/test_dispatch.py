"""From an endpoint to a replica: the policy's choice, the window, the queues and their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from servekit.interfaces import BackendView, RequestInfo, RoutingPolicy
from servekit.wire.control_frames import PluginRef
from servekit.wire.data_frames import Answer, Load

TWO = {"a": 0.5, "b": 0.5}


def two_versions(world: Any, **fields: Any) -> None:
    world.apply(world.backend("a", ["a1"]), world.backend("b", ["b1"]), world.endpoint(weights=TWO, **fields))


# -- choices ---------------------------------------------------------------------------------------------------


def test_a_policy_chooses_among_what_can_serve(world: Any) -> None:
    world.links.down = {"c1"}
    world.apply(
        *[world.backend(name, [f"{name}1"]) for name in "abc"],
        world.endpoint(weights={"a": 0.0, "b": 0.5, "c": 0.5}),
    )
    world.ask()
    assert world.policy().choices == [["b"]]
    assert world.policy().weights == [{"b": 0.5, "c": 0.5}]


def test_it_sees_weights_and_replicas(world: Any) -> None:
    seen: list[Any] = []

    class Looks(RoutingPolicy):
        def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
            seen.append((request.endpoint, request.method, request.path, dict(request.headers), request.id))
            seen.extend((view.name, view.weight, [replica.id for replica in view.replicas]) for view in backends)
            return backends[1]

    world.policies["looks"] = Looks
    two_versions(world, policy=PluginRef("looks"))
    world.ask(headers=[("x-request-id", "me"), ("x-a", "1"), ("x-a", "2")])
    assert seen == [
        ("e", "GET", "/x", {"x-request-id": "me", "x-a": "2"}, "me"),
        ("a", 0.5, ["a1"]),
        ("b", 0.5, ["b1"]),
    ]
    assert len(world.calls("b1")) == 1


def test_it_chooses_among_replicas_with_room(world: Any) -> None:
    offered: list[list[str]] = []

    class Looks(RoutingPolicy):
        def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
            return backends[0]

        def choose_replica(self, request: RequestInfo, replicas: Sequence[Any]) -> Any:
            offered.append([replica.id for replica in replicas])
            return replicas[0]

    world.policies["looks"] = Looks
    world.apply(world.backend("b", ["r1", "r2", "r3"]), world.endpoint(policy=PluginRef("looks")))
    world.link("r3").writable = False
    for _ in range(4):
        assert not world.ask().answered
    # Two calls fit into the window of each: one in its slot, one ahead.
    assert offered == [["r1", "r2"], ["r1", "r2"], ["r2"], ["r2"]]


@pytest.mark.parametrize("wrong", [None, "b", object()], ids=["None", "a name", "an object"])
@pytest.mark.parametrize("method", ["choose_backend", "choose_replica"])
def test_a_policy_that_returns_something_else(world: Any, wrong: Any, method: str) -> None:
    broken = type("Broken", (world.policies["first"],), {method: lambda self, request, choices: wrong})
    world.policies["broken"] = broken
    world.apply(world.backend(), world.endpoint(policy=PluginRef("broken")))
    asked = world.ask()
    assert asked.status == 500
    assert "routing policy of endpoint 'e'" in asked.text
    assert world.calls("r1") == []


@pytest.mark.parametrize("method", ["choose_backend", "choose_replica"])
def test_a_policy_that_raises(world: Any, method: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail(self: Any, request: Any, choices: Any) -> Any:
        raise ZeroDivisionError("mine")

    world.policies["broken"] = type("Broken", (world.policies["first"],), {method: fail})
    world.apply(world.backend(), world.endpoint(policy=PluginRef("broken")), world.endpoint("other", route="/other"))
    assert world.ask().status == 500
    assert "ZeroDivisionError: mine" in caplog.text
    assert not world.ask("/other").answered


def test_a_policy_that_clings_to_a_choice_of_before(world: Any) -> None:
    class Clings(RoutingPolicy):
        """Gives what it was given first, for ever."""

        def __init__(self) -> None:
            self.kept: dict[str, Any] = {}

        def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
            return self.kept.setdefault("backend", backends[0])

        def choose_replica(self, request: RequestInfo, replicas: Sequence[Any]) -> Any:
            return self.kept.setdefault("replica", replicas[0])

    world.policies["clings"] = Clings
    world.apply(
        world.backend("a", ["a1", "a2"]),
        world.backend("b", ["b1"]),
        world.endpoint(weights=TWO, policy=PluginRef("clings")),
    )
    assert not world.ask().answered
    world.lose("a1")
    assert world.ask().status == 500  # by its replica, which is gone
    world.apply(world.endpoint(weights={"b": 1.0}, policy=PluginRef("clings")))
    assert world.ask().status == 500  # by its backend, which has no traffic


# -- failover ---------------------------------------------------------------------------------------------------


def test_the_other_version_takes_over(world: Any) -> None:
    two_versions(world)
    world.lose("a1")
    asked = world.ask()
    assert not asked.answered
    assert len(world.calls("b1")) == 1
    assert world.shared.take_failovers() == {"e": 1}


def test_a_strict_endpoint_fails_the_share_of_what_is_down(world: Any) -> None:
    two_versions(world, strict=True)
    world.lose("a1")
    asked = world.ask()
    assert asked.status == 503
    assert "backend 'a'" in asked.text
    assert world.policy().choices == [["a", "b"]]
    assert world.shared.take_failovers() == {}


# -- nothing to choose from -----------------------------------------------------------------------------------------


def test_no_traffic(world: Any) -> None:
    world.apply(world.backend(), world.endpoint(weights={}))
    asked = world.ask()
    assert asked.status == 503
    assert "set_traffic('e'" in asked.text


def test_no_replica_and_none_coming(world: Any) -> None:
    world.apply(world.backend("b", []), world.endpoint())
    asked = world.ask()
    assert asked.status == 503
    assert "num_replicas 0" in asked.text


def test_requests_are_parked_while_a_replica_is_coming(world: Any) -> None:
    world.apply(world.backend("b", [], num_replicas=1), world.endpoint())
    asked = [world.ask(body=b"%d" % n) for n in range(3)]
    assert not any(one.answered for one in asked)
    world.apply(world.backend())
    assert [call.request.body for call in world.calls("r1")] == [b"0", b"1"]
    world.answer("r1", world.calls("r1")[0])
    world.answer("r1", world.calls("r1")[1])
    assert [call.request.body for call in world.calls("r1")] == [b"0", b"1", b"2"]


def test_parked_requests_are_told_when_none_is_coming_any_more(world: Any) -> None:
    world.apply(world.backend("b", [], num_replicas=1), world.endpoint())
    asked = world.ask()
    world.apply(world.backend("b", []))
    assert asked.status == 503


def test_parked_requests_are_bounded(world: Any) -> None:
    world.apply(
        world.backend("a", [], num_replicas=1, max_queued_requests=1),
        world.backend("b", [], num_replicas=1, max_queued_requests=2),
        world.endpoint(weights=TWO),
    )
    asked = [world.ask() for _ in range(4)]
    assert [one.answered for one in asked] == [False, False, False, True]
    assert (asked[3].status, asked[3].header("retry-after")) == (503, "1")
    assert "endpoint 'e'" in asked[3].text


# -- queues ---------------------------------------------------------------------------------------------------------


def test_what_no_replica_has_room_for_waits_in_order_and_is_bounded(world: Any) -> None:
    world.apply(world.backend(max_queued_requests=2), world.endpoint())
    asked = [world.ask(body=b"%d" % n) for n in range(5)]
    assert [one.answered for one in asked] == [False, False, False, False, True]
    assert (asked[4].status, asked[4].header("retry-after")) == (503, "1")
    assert "backend 'b'" in asked[4].text
    for _ in range(4):
        world.answer("r1", next(c for c in world.calls("r1") if c.id in world.replica("r1").calls.pending))
    assert [call.request.body for call in world.calls("r1")] == [b"0", b"1", b"2", b"3"]
    assert all(one.answered for one in asked)


def test_with_no_queue_at_all(world: Any) -> None:
    world.apply(world.backend(max_queued_requests=0), world.endpoint())
    assert [world.ask().answered for _ in range(3)] == [False, False, True]


def test_a_newcomer_does_not_overtake_what_waits(world: Any) -> None:
    world.apply(world.backend(), world.endpoint())
    for n in range(3):
        world.ask(body=b"%d" % n)
    replica = world.replica("r1")
    answered = world.calls("r1")[0]
    replica.calls.frame_received(replica.calls.link, Answer(answered.id, 200, b"", b"", 0, 10))
    world.ask(body=b"new")
    replica.calls.frames_done(replica.calls.link)
    assert [call.request.body for call in world.calls("r1")][:3] == [b"0", b"1", b"2"]


def test_a_full_link_is_not_written_to_until_it_has_room(world: Any) -> None:
    world.apply(world.backend(), world.endpoint())
    replica, link = world.replica("r1"), world.link("r1")
    link.writable = False
    asked = world.ask()
    assert world.calls("r1") == []
    link.writable = True
    replica.calls.link_writable(link)
    assert len(world.calls("r1")) == 1
    world.answer("r1", world.calls("r1")[0])
    assert asked.status == 200


def test_a_slow_handler_is_handed_nothing_ahead_of_its_answers(world: Any) -> None:
    world.apply(world.backend(), world.endpoint())
    for _ in range(3):
        world.ask()
    world.answer("r1", world.calls("r1")[0], service_us=500_000)
    world.answer("r1", world.calls("r1")[1], service_us=500_000)
    world.ask()
    assert world.replica("r1").outstanding == 1


def test_the_load_that_an_answer_reports_is_shown_to_policies(world: Any) -> None:
    world.apply(world.backend(), world.endpoint())
    world.ask()
    assert world.replica("r1").outstanding == 1
    world.answer("r1", world.calls("r1")[0], queue_length=7)
    assert (world.replica("r1").outstanding, world.replica("r1").queue_length) == (0, 7)


def test_the_calls_of_other_ingress_workers_take_room_while_the_replica_tells(world: Any) -> None:
    world.apply(world.backend("b", ["b1", "b2"]), world.endpoint())
    for _ in range(2):  # Slow: nothing is handed over beyond the one slot.
        world.ask()
        world.answer("b1", world.calls("b1")[-1], service_us=50_000)
    world.receive("b1", Load(1))
    assert world.replica("b1").queue_length == 1
    before = len(world.calls("b1"))
    world.ask()
    assert (len(world.calls("b1")), len(world.calls("b2"))) == (before, 1)
    world.receive("b1", Load(0))
    world.ask()
    assert len(world.calls("b1")) == before + 1

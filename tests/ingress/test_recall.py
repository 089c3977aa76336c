"""What an ingress worker remembers of requests, and what is noted of those on an unusual way."""

from __future__ import annotations

import math
import tempfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ingress.conftest import World

from servekit.http1.body import IncomingBody
from servekit.ingress import shared as shared_module
from servekit.ingress.recall import recalled
from servekit.ingress.steps import MOST_LOADS, MOST_STEPS, note, steps_of
from servekit.interfaces import BackendView, RequestRecord, RoutingPolicy
from servekit.wire.control_frames import PluginRef, Recall, Recalled, control_codec
from servekit.wire.data_frames import Refusal


def steps(world: Any) -> list[tuple[Any, ...]]:
    """What was noted of the last request that has ended."""
    return told(world.records[-1].steps)


def told(noted: Any) -> list[tuple[Any, ...]]:
    return [(step.what, step.backend, step.replica, step.number) for step in noted]


def ask(world: Any, **question: Any) -> Recalled:
    under_way = [asked.exchange for asked in world.asked]
    answer = recalled(world.shared, under_way, Recall(5, **question))
    assert control_codec().decode(control_codec().encode(answer)) == answer
    return answer


def last(world: Any, request_id: str) -> Any:
    return ask(world, request_id=request_id).requests[0]


def served(world: Any, replicas: tuple[str, ...] = ("r1",), timeout_s: float = 30.0, **config: Any) -> None:
    world.apply(world.backend("b", replicas, **config), world.endpoint(timeout_s=timeout_s))


def fill(world: Any, replica: str = "r1") -> None:
    """Have requests come until the replica has no room."""
    while world.replica(replica).has_room:
        world.ask()


# -- noted ------------------------------------------------------------------------------------------------------------


def test_of_a_request_that_is_sent_and_answered_nothing_is_noted(world: Any) -> None:
    served(world)
    asked = world.ask()
    assert asked.exchange.steps is None
    world.answer("r1", *world.calls("r1"))
    assert world.records[-1].steps == ()


def test_one_that_waits_in_the_queue_of_its_backend(world: Any) -> None:
    served(world, max_queued_requests=2)
    fill(world)
    first, second, third = world.ask(), world.ask(), world.ask()
    assert told(steps_of(first.exchange)) == [("queued", "b", "", 0)]
    assert told(steps_of(second.exchange)) == [("queued", "b", "", 1)]
    assert third.status == 503
    assert steps(world) == [("queue_full", "b", "", 2)]
    (full,) = world.records[-1].steps
    assert full.loads == {"r1": (2, 2)}


def test_one_that_waited_in_the_queue_is_packed_and_says_so(world: Any) -> None:
    world.shared.observe = None  # Or every request is handed on, and none packed.
    served(world)
    fill(world)
    waited = world.ask()
    for call in world.calls("r1"):
        world.answer("r1", call, service_us=0)
    world.answer("r1", world.calls("r1")[-1], service_us=0)
    assert (waited.status, world.shared.recent.whole) == (200, {})
    (found,) = world.shared.recent.of(waited.exchange.id)
    assert told(found.steps) == [("queued", "b", "", 0)]


def test_one_that_waited_in_the_queue_and_then_went_an_unusual_way(world: Any) -> None:
    served(world)
    fill(world)
    waited = world.ask()
    note(waited.exchange, "lost", "r1")
    assert told(waited.exchange.steps) == [("queued", "b", "", 0), ("lost", "b", "r1", 0)]
    assert told(steps_of(waited.exchange)) == told(waited.exchange.steps)


def test_the_loads_of_replicas_are_told_and_of_those_that_are_given_nothing(world: Any) -> None:
    world.links.down = {"r2"}
    served(world, ("r1", "r2"), max_queued_requests=1)
    fill(world)
    world.ask()
    assert world.ask().exchange.steps[0].loads == {"r1": (2, 2), "r2": (0, 0)}


def test_of_many_replicas_the_first(world: Any) -> None:
    replicas = tuple(f"r{number}" for number in range(MOST_LOADS + 5))
    served(world, replicas, max_concurrent_queries=1, max_queued_requests=1)
    for replica in replicas:
        fill(world, replica)
    world.ask()
    assert len(world.ask().exchange.steps[0].loads) == MOST_LOADS


def test_one_that_waits_for_a_replica_that_is_coming(world: Any) -> None:
    served(world, (), num_replicas=1)
    asked = world.ask()
    assert told(asked.exchange.steps) == [("parked", "", "", 0)]
    world.apply(world.backend("b", ["r1"]))
    assert asked.exchange.replica.id == "r1"


def test_parked_requests_are_bounded(world: Any) -> None:
    served(world, (), num_replicas=1, max_queued_requests=1)
    world.ask()
    assert world.ask().status == 503
    assert steps(world) == [("queue_full", "", "", 1)]


def test_one_of_a_backend_without_a_replica_that_another_answers(world: Any) -> None:
    world.links.down = {"a1"}
    world.apply(world.backend("a", ["a1"]), world.backend("b", ["b1"]), world.endpoint(weights={"a": 0.5, "b": 0.5}))
    (step,) = world.ask().exchange.steps
    assert (step.what, step.backend, step.text) == ("failed_over", "b", "a")


def test_one_that_is_sent_again_when_its_replica_dies(world: Any) -> None:
    served(world, ("r1", "r2"))
    asked = world.ask()
    first = asked.exchange.replica.id
    world.lose(first)
    sent, lost, *alone = asked.exchange.steps
    assert (sent.what, sent.replica, lost.what, lost.replica, lost.text) == ("sent", first, "lost", first, "")
    assert sent.after_s <= lost.after_s
    assert [step.what for step in alone] == ["alone"]
    assert asked.exchange.replica.id != first


def test_one_that_may_not_be_sent_again(world: Any) -> None:
    served(world, ("r1", "r2"))
    asked = world.ask(method="POST")
    first = asked.exchange.replica.id
    world.lose(first)
    assert asked.status == 502
    record = world.records[-1]
    assert (record.error, record.replica) == ("replica_died", first)
    assert record.steps[-1].what == "lost"
    assert "POST is not to be done twice" in record.steps[-1].text


def test_one_whose_answer_had_begun(world: Any) -> None:
    served(world)
    asked = world.ask()
    world.answer("r1", world.calls("r1")[0], rest=10, running=True)
    world.lose("r1")
    assert [step.what for step in world.records[-1].steps] == ["sent", "lost"]
    assert (world.records[-1].error, asked.exchange.done) == ("broken_off", True)
    assert world.shared.failed[-1] == world.records[-1]


def test_one_whose_replica_leaves_before_it_has_begun(world: Any) -> None:
    served(world, ("r1", "r2"))
    asked = world.ask()
    first = asked.exchange.replica
    world.receive(first.id, Refusal(world.calls(first.id)[0].id, "draining"))
    assert [step.what for step in asked.exchange.steps][:2] == ["sent", "left"]


def test_a_suspect_waits_and_goes_alone(world: Any) -> None:
    served(world)
    world.ask()
    asked = world.ask()
    world.lose("r1")
    world.open(world.replica("r1"))
    words = [[step.what for step in each.exchange.steps or ()] for each in world.asked]
    assert ["alone" in each or "held" in each for each in words] == [True, True]
    assert sum("held" in each for each in words) == 1
    assert "has died with its like" in asked.exchange.steps[-1].text


def test_what_is_sent_while_a_replica_is_out_says_so(world: Any) -> None:
    served(world, ("r1", "r2", "r3"))
    backend = world.router.backends["b"]
    backend.ejections._eject(world.replica("r1"), "none")
    (step,) = world.ask().exchange.steps
    assert (step.what, step.text) == ("ejected", "r1")


def test_a_long_body_that_is_taken_in(world: Any) -> None:
    world.apply(world.backend("b", ["r1"], streams_bodies=False), world.endpoint())
    incoming = IncomingBody()
    asked = world.ask(method="POST", body=b"12345", incoming=incoming)
    incoming.receive(b"x" * 100_000)
    incoming.receive(b"y" * 200_000)
    assert told(asked.exchange.steps) == [("gathering", "", "", 0)]
    incoming.end()
    assert told(asked.exchange.steps)[-1] == ("gathered", "", "", 300_005)


def test_a_request_has_so_many_steps_at_the_most(world: Any) -> None:
    served(world)
    exchange = world.ask().exchange
    for number in range(3 * MOST_STEPS):
        note(exchange, "queued", number=number)
    assert len(exchange.steps) == MOST_STEPS
    assert exchange.steps[-1].number == 3 * MOST_STEPS - 1


# -- recalled ---------------------------------------------------------------------------------------------------------


def test_the_last_request_of_an_id_is_told_with_its_weights(world: Any) -> None:
    world.apply(world.backend("a", ["a1"]), world.backend("b", ["b1"]), world.endpoint(weights={"a": 0.5, "b": 0.5}))
    for _ in range(2):
        world.ask(headers=[("x-request-id", "mine")])
    world.answer("a1", world.calls("a1")[0])
    world.apply(world.endpoint(weights={"b": 1.0}))
    answer = ask(world, request_id="mine")
    assert (answer.number, answer.found, answer.known) == (5, 2, 1)
    assert answer.requests[0].pending
    assert answer.requests[0].weights == {"a": 0.5, "b": 0.5}
    world.answer("a1", world.calls("a1")[1], status=404)
    found = last(world, "mine")
    assert (found.pending, found.record.status, found.policy) == (False, 404, "first")
    assert found.weights == {"a": 0.5, "b": 0.5}
    world.ask(headers=[("x-request-id", "later")])
    assert last(world, "later").weights == {"b": 1.0}


def test_one_that_waits_through_a_change_is_told_with_the_weights_that_it_was_sent_by(world: Any) -> None:
    world.apply(world.backend("a", (), num_replicas=1), world.backend("b", ["b1"]), world.endpoint(weights={"a": 1.0}))
    world.ask(headers=[("x-request-id", "mine")])
    world.apply(world.endpoint(weights={"b": 1.0}))
    found = last(world, "mine")
    assert (found.pending, found.record.replica, found.weights) == (True, "b1", {"b": 1.0})
    assert found.record.status == 0


def test_what_is_not_known_is_not_told(world: Any) -> None:
    served(world)
    assert ask(world, request_id="none") == Recalled(5, [], 0, 0, 0.0)
    world.ask(path="/none", headers=[("x-request-id", "mine")])
    assert ask(world, request_id="none").oldest == world.records[0].ended_at
    assert (last(world, "mine").policy, last(world, "mine").weights) == ("", {})


def test_a_path_that_is_no_text_can_be_told(world: Any) -> None:
    served(world)
    world.ask(path="/\udcff", headers=[("x-request-id", "mine")])
    assert last(world, "mine").record.path == "/\\udcff"


def test_what_failed_and_what_was_slow_are_listed_by_endpoint(world: Any) -> None:
    served(world)
    world.apply(world.endpoint("f", route="/f", weights={}))
    world.router.endpoints["e"].slow_s = 0.0
    for request_id in ("slow", "failed"):
        world.ask(headers=[("x-request-id", request_id)])
    world.answer("r1", world.calls("r1")[0])
    world.answer("r1", world.calls("r1")[1], status=500)
    world.ask("/f", headers=[("x-request-id", "refused")])
    world.ask("/none")

    def ids(kind: str, endpoint: str = "", most: int = 9) -> list[str]:
        found = ask(world, kind=kind, endpoint=endpoint, most=most).requests
        return [each.record.id for each in found]

    assert ids("slow") == ["slow"]
    assert ids("failed") == ["refused", "failed"]
    assert ids("failed", "e") == ["failed"]
    assert ids("failed", most=1) == ["refused"]
    assert ids("slow", "f") == []


def test_one_that_failed_is_remembered_when_10_000_others_have_come(world: Any) -> None:
    served(world)
    world.ask(headers=[("x-request-id", "mine")])
    world.answer("r1", world.calls("r1")[0], status=500)
    other = RequestRecord("other", "e", "b", "r1", "GET", "/x", 200, 0.1)
    world.shared.recent.extend([other] * shared_module.RECENT_REQUESTS)
    answer = ask(world, request_id="mine")
    assert (answer.found, answer.known) == (1, shared_module.RECENT_REQUESTS)


class Fails(RoutingPolicy):
    def choose_backend(self, request: Any, backends: Any) -> BackendView:
        raise ValueError("no choice")


@pytest.mark.parametrize(("policy", "error"), [("fails", "policy_failed"), ("first", "deadline")])
def test_what_it_failed_of_is_in_its_record(world: Any, policy: str, error: str) -> None:
    world.policies["fails"] = Fails
    world.apply(world.backend(), world.endpoint(timeout_s=1.0, policy=PluginRef(policy)))
    world.ask(headers=[("x-request-id", "mine")])
    world.loop.advance(2)
    assert last(world, "mine").record.error == error


@given(st.lists(st.sampled_from(["answered", "slow", "failed", "unrouted", "abandoned"]), max_size=40))
def test_the_rings_never_exceed_their_bounds(requests: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patched, tempfile.TemporaryDirectory() as folder:
        patched.setattr(shared_module, "RECENT_REQUESTS", 5)
        patched.setattr(shared_module, "REMARKABLE_REQUESTS", 3)
        world = World(folder)
    served(world, max_concurrent_queries=100)
    for number, kind in enumerate(requests):
        world.router.endpoints["e"].slow_s = 0.0 if kind == "slow" else math.inf
        asked = world.ask("/none" if kind == "unrouted" else "/x", headers=[("x-request-id", f"{kind}-{number}")])
        if kind == "abandoned":
            world.leave(asked)
        elif not asked.answered:
            world.answer("r1", world.calls("r1")[-1], status=500 if kind == "failed" else 200)
    names = [f"{kind}-{number}" for number, kind in enumerate(requests)]
    assert [record.id for record in world.shared.recent] == names[-5:]
    for ring, kind in ((world.shared.failed, "failed"), (world.shared.slow, "slow")):
        assert [record.id for record in ring] == [name for name in names if name.startswith(kind)][-3:]

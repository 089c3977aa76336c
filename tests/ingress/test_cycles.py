"""Calls in a circle: refused at once, and only those that could never be answered."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.ingress.backend import open_to
from servekit.ingress.callers import Callers
from servekit.wire.data_frames import Answer, Call, Invoke
from servekit.wire.data_links import DataLinks
from servekit.wire.incoming_calls import IncomingLink


class Asking:
    """Handlers that call."""

    def __init__(self, world: Any) -> None:
        self.world = world
        callers = Callers(world.router, DataLinks(bytes(32), "ingress1"))
        self.owner = IncomingLink(callers.calls, callers, Invoke)
        self.link: Any = self
        self.sent: list[Any] = []
        self.owner.link_opened(self.link)
        self.number = 0

    def send(self, frame: Any) -> None:
        self.sent.append(frame)

    def call(self, *chain: str, endpoint: str = "e") -> int:
        self.number += 1
        self.owner.frame_received(self.link, Invoke(self.number, endpoint, b"", chain=chain))
        return self.number

    def status(self, number: int) -> int | None:
        found = [frame for frame in self.sent if type(frame) is Answer and frame.id == number]
        return found[0].status if found else None

    def text(self, number: int) -> str:
        body: bytes = next(frame.body for frame in self.sent if frame.id == number)
        return body.decode()


@pytest.fixture
def pair(world: Any) -> Asking:
    """Two backends of one replica with one slot: ``e`` goes to ``b``, ``f`` to ``c``."""
    world.apply(
        world.backend("b", ["rb"]),
        world.backend("c", ["rc"]),
        world.endpoint("e"),
        world.endpoint("f", route="/f", weights={"c": 1.0}),
    )
    return Asking(world)


def test_a_call_that_only_its_own_callers_could_answer_is_refused_at_once(pair: Asking) -> None:
    number = pair.call("rb", "rc")
    assert pair.status(number) == 508
    for part in ("'b'", "'b' (rb) → 'c' (rc)", "max_concurrent_queries"):
        assert part in pair.text(number)
    assert not pair.world.calls("rb")
    assert pair.status(pair.call("rb")) == 508, "a call of itself"


def test_what_is_no_circle_goes_on(pair: Asking) -> None:
    pair.call("rc")
    pair.call()
    assert len(pair.world.calls("rb")) == 2


def test_a_replica_that_is_gone_is_named_by_its_id(pair: Asking) -> None:
    assert "gone → 'b' (rb)" in pair.text(pair.call("gone", "rb"))


def test_it_does_not_wait_in_the_queue_either(pair: Asking) -> None:
    for _ in range(5):
        pair.call()
    assert pair.world.router.backends["b"].waiting
    assert pair.status(pair.call("rb")) == 508


def test_another_replica_may_take_it(world: Any) -> None:
    world.apply(world.backend("b", ["r1", "r2"]), world.endpoint())
    asking = Asking(world)
    number = asking.call("r1")
    assert len(world.calls("r2")) == 1
    assert not world.calls("r1")
    assert asking.status(number) is None
    assert asking.status(asking.call("r1", "r2")) == 508


def test_slots_that_the_chain_does_not_occupy_are_room(world: Any) -> None:
    world.apply(world.backend("b", ["r1"], max_concurrent_queries=3), world.endpoint())
    asking = Asking(world)
    asking.call("r1", "r1")
    assert len(world.calls("r1")) == 1
    assert asking.status(asking.call("r1", "r1", "r1")) == 508


@pytest.mark.parametrize("others_wait", [True, False])
def test_what_is_alone_in_a_replica_may_call_it(world: Any, others_wait: bool) -> None:
    """A suspect, whose handler calls its own backend, waits for that."""
    world.apply(world.backend("b", ["r1"], max_concurrent_queries=2), world.endpoint())
    asking, replica = Asking(world), world.replica("r1")
    world.ask()
    world.lose("r1")
    world.open(replica)
    if others_wait:
        world.ask(body=b"another")
    assert len(world.calls("r1")) == 1
    asking.call("r1")
    assert [call.request.chain for call in world.calls("r1")] == [None, ("r1",)]


def test_one_that_must_wait_lets_others_pass_where_it_may_not_go(world: Any) -> None:
    world.apply(world.backend("b", ["r1", "r2"]), world.endpoint())
    asking = Asking(world)
    for _ in range(4):
        asking.call()
    waits_for_r2 = asking.call("r1")
    behind = asking.call()
    assert {len(world.calls("r1")), len(world.calls("r2"))} == {2}
    world.answer("r1", world.calls("r1")[0], service_us=900)
    assert len(world.calls("r1")) == 3, "the one behind has passed"
    assert asking.status(waits_for_r2) is None
    world.answer("r2", world.calls("r2")[0], service_us=900)
    assert len(world.calls("r2")) == 3
    assert world.calls("r2")[2].request.chain == ("r1",)
    assert asking.status(behind) is None


def test_one_that_waits_is_refused_when_only_its_callers_are_left(world: Any) -> None:
    world.apply(world.backend("b", ["r1", "r2"]), world.endpoint())
    asking = Asking(world)
    for _ in range(4):
        asking.call()
    number = asking.call("r1")
    assert asking.status(number) is None
    world.lose("r2")
    assert asking.status(number) == 508


def test_an_ejected_replica_takes_what_no_other_can(world: Any) -> None:
    """It may fail; that the call is one in a circle would be wrong."""
    world.apply(world.backend("b", ["r1", "r2"]), world.endpoint())
    asking = Asking(world)
    turns = itertools.cycle(("r1", "r2"))
    world.policy().choose_replica = lambda request, free: (
        next((each for each in free if each.id == turn), free[0]) if (turn := next(turns)) else None
    )
    for _ in range(40):
        asking.call()
        for name, status in (("r1", 200), ("r2", 500)):
            for number in list(world.replica(name).calls.pending):
                world.answer(name, Call(number, 0, None), status=status, failed=status == 500, service_us=900)
    assert [replica.id for replica in world.router.backends["b"].ready] == ["r1"]
    before = len(world.calls("r2"))
    numbers = [asking.call("r1") for _ in range(3)]
    assert [asking.status(number) for number in numbers] == [None] * 3
    assert len(world.calls("r2")) > before
    while pending := list(world.replica("r2").calls.pending):
        world.answer("r2", Call(pending[0], 0, None), service_us=900)
    assert [asking.status(number) for number in numbers] == [200] * 3


class FakeReplica:
    def __init__(self, replica_id: str, slots: int) -> None:
        self.id = replica_id
        self.slots = slots


names = st.sampled_from(["a", "b", "c"])


@given(st.lists(names, max_size=8), st.dictionaries(names, st.integers(1, 3)))
def test_a_replica_is_open_while_the_chain_leaves_it_a_slot(chain: list[str], slots: dict[str, int]) -> None:
    replicas: Any = [FakeReplica(name, count) for name, count in slots.items()]
    found = [replica.id for replica in open_to(chain, replicas)]
    assert found == [name for name, count in slots.items() if sum(each == name for each in chain) < count]

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.config import BackendConfig
from servekit.control.plan import Plan, ReplicaFacts, ReplicaState, make_plan
from servekit.control.state import BackendRecord

STARTING, READY, DRAINING = ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING


def facts(*states: ReplicaState, revision: int = 1, first: int = 1, backend: str = "b") -> list[ReplicaFacts]:
    return [ReplicaFacts(f"r{n}", backend, revision, state, n) for n, state in enumerate(states, first)]


@pytest.fixture
def plan(make: Any) -> Any:
    """The plan for one backend, ``b``."""

    def planned(
        replicas: list[ReplicaFacts], wanted: int = 1, revision: int = 1, most_replicas: int | None = None, **more: Any
    ) -> Plan:
        record = make.backend("b", revision=revision, config={"num_replicas": wanted}, most_replicas=most_replicas)
        return make_plan({"b": record}, replicas, **more)

    return planned


def test_what_is_lacking_is_started(plan: Any) -> None:
    assert plan([], 2) == Plan(["b", "b"], [])
    assert plan(facts(STARTING), 3) == Plan(["b", "b"], [])
    assert plan(facts(READY, STARTING), 2) == Plan([], [])


def test_what_is_too_much_goes_the_starting_first_and_then_the_young(plan: Any) -> None:
    assert plan(facts(READY, READY, STARTING, READY), 2).retire == ["r3", "r4"]
    assert plan(facts(READY, READY), 0).retire == ["r2", "r1"]


def test_what_drains_already_is_not_counted_and_not_told_again(plan: Any) -> None:
    assert plan(facts(DRAINING, DRAINING, READY), 2) == Plan(["b"], [])


def test_replicas_of_a_backend_that_is_gone_go() -> None:
    assert make_plan({}, facts(READY, STARTING, DRAINING)) == Plan([], ["r1", "r2"])


def test_a_backend_that_keeps_failing_starts_nothing(plan: Any) -> None:
    assert plan([], 2, held_back=frozenset({"b"})) == Plan([], [])
    assert plan(facts(READY, READY), 1, held_back=frozenset({"b"})).retire == ["r2"]


def test_an_older_revision_serves_until_the_newer_can(plan: Any) -> None:
    older = facts(READY, READY)
    assert plan(older, 2, revision=2) == Plan(["b", "b"], [])
    assert plan(older + facts(READY, STARTING, revision=2, first=3), 2, revision=2) == Plan([], [])
    assert plan(older + facts(READY, READY, revision=2, first=3), 2, revision=2) == Plan([], ["r1", "r2"])


def test_a_change_that_is_taken_back_keeps_what_it_was_to_replace(plan: Any) -> None:
    replicas = facts(READY) + facts(STARTING, revision=2, first=2)
    assert plan(replicas, 1, revision=1) == Plan([], ["r2"])


def test_what_a_backend_autoscales_to_takes_the_place_of_what_was_asked_for(plan: Any) -> None:
    assert plan(facts(READY), 1, autoscaled={"b": 3}) == Plan(["b", "b"], [])
    assert plan(facts(READY, READY), 2, autoscaled={"b": 0}).retire == ["r2", "r1"]
    assert plan(facts(READY), 1, autoscaled={"c": 3}) == Plan([], [])
    older = facts(READY, READY)
    assert plan(older, 0, revision=2, autoscaled={"b": 2}) == Plan(["b", "b"], [])


def test_where_there_is_no_place_for_both_an_old_one_goes_before_the_next_starts(plan: Any) -> None:
    def rolled(replicas: list[ReplicaFacts], most: int, **more: Any) -> Plan:
        return plan(replicas, 2, revision=2, most_replicas=most, **more)

    older = facts(READY, READY)
    assert rolled(older, 2) == Plan([], ["r2"])
    assert rolled(facts(READY, DRAINING), 2) == Plan([], []), "its place is not free yet"
    assert rolled(facts(READY), 2) == Plan(["b"], [])
    assert rolled(facts(READY) + facts(STARTING, revision=2, first=3), 2) == Plan([], []), "one at a time"
    assert rolled(facts(READY) + facts(READY, revision=2, first=3), 2) == Plan([], ["r1"])
    assert rolled(older, 3) == Plan(["b"], []), "as far as there is a place, the new one is first"
    assert rolled(older, 2, held_back=frozenset({"b"})) == Plan([], []), "what would come instead keeps failing"


def test_what_is_on_its_way_out_has_its_place_yet(plan: Any) -> None:
    assert plan(facts(DRAINING, READY), 2, most_replicas=2) == Plan([], [])
    assert plan(facts(DRAINING, READY), 2, most_replicas=3) == Plan(["b"], [])


class World:
    """Replicas that do as they are told, when the test lets them."""

    def __init__(self) -> None:
        self.backends: dict[str, BackendRecord] = {}
        self.replicas: dict[str, ReplicaFacts] = {}
        self._numbers = itertools.count(1)

    def ready(self, name: str) -> int:
        return sum(r.backend == name and r.state is READY for r in self.replicas.values())

    def step(self) -> bool:
        """Follow the plan; whether it asked for anything."""
        plan = make_plan(self.backends, self.replicas.values())
        for name in plan.start:
            number = next(self._numbers)
            revision = self.backends[name].revision
            self.replicas[f"r{number}"] = ReplicaFacts(f"r{number}", name, revision, STARTING, number)
        for replica_id in plan.retire:
            assert self.replicas[replica_id].state is not DRAINING
            self.replicas[replica_id] = replace(self.replicas[replica_id], state=DRAINING)
        return bool(plan.start or plan.retire)

    def move(self, choice: int) -> None:
        """One replica that is on its way somewhere gets there."""
        moving = [replica for replica in self.replicas.values() if replica.state is not READY]
        if moving:
            replica = moving[choice % len(moving)]
            if replica.state is STARTING:
                self.replicas[replica.id] = replace(replica, state=READY)
            else:
                del self.replicas[replica.id]

    def crash(self, choice: int) -> None:
        if self.replicas:
            del self.replicas[[*self.replicas][choice % len(self.replicas)]]


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("scale"), st.sampled_from("ab"), st.integers(0, 4)),
        st.tuples(st.just("revise"), st.sampled_from("ab"), st.just(0)),
        st.tuples(st.just("delete"), st.sampled_from("ab"), st.just(0)),
        st.tuples(st.just("crash"), st.just(""), st.integers(0, 20)),
        *[st.tuples(st.just("move"), st.just(""), st.integers(0, 20))] * 4,
    ),
    max_size=60,
)


@given(events=EVENTS)
def test_the_world_becomes_what_was_asked_for_and_never_serves_with_less(make: Any, events: list[Any]) -> None:
    world = World()
    for event, name, number in events:
        if event == "scale":
            old = world.backends.get(name) or make.backend(name)
            world.backends[name] = msgspec.structs.replace(old, config=BackendConfig(num_replicas=number))
        elif event == "revise" and name in world.backends:
            old = world.backends[name]
            world.backends[name] = msgspec.structs.replace(old, revision=old.revision + 1)
        elif event == "delete":
            world.backends.pop(name, None)
        elif event == "crash":
            world.crash(number)
        elif event == "move":
            world.move(number)
        before = {each: world.ready(each) for each in world.backends}
        world.step()
        for each, record in world.backends.items():
            assert world.ready(each) >= min(before[each], record.config.num_replicas)
    for _ in range(200):
        if not world.step() and all(replica.state is READY for replica in world.replicas.values()):
            break
        world.move(0)
    assert {each: world.ready(each) for each in world.backends} == {
        each: record.config.num_replicas for each, record in world.backends.items()
    }
    assert len(world.replicas) == sum(record.config.num_replicas for record in world.backends.values())
    assert all(replica.revision == world.backends[replica.backend].revision for replica in world.replicas.values())


@given(wanted=st.integers(1, 5), moves=st.lists(st.integers(0, 20), max_size=40))
def test_a_rolling_change_never_has_fewer_ready_than_asked_for(make: Any, wanted: int, moves: list[int]) -> None:
    world = World()
    world.backends["b"] = make.backend(config={"num_replicas": wanted})
    world.replicas = {replica.id: replica for replica in facts(*[READY] * wanted)}
    world._numbers = itertools.count(wanted + 1)
    world.backends["b"] = make.backend(revision=2, config={"num_replicas": wanted})
    for choice in [*moves, *[0] * 30]:
        world.step()
        assert world.ready("b") >= wanted
        assert len(world.replicas) <= 2 * wanted
        world.move(choice)
        assert world.ready("b") >= wanted
    assert {replica.revision for replica in world.replicas.values()} == {2}


@given(wanted=st.integers(1, 4), spare=st.integers(0, 4), moves=st.lists(st.integers(0, 20), max_size=40))
def test_a_rolling_change_takes_no_more_places_than_there_are_and_ends(
    make: Any, wanted: int, spare: int, moves: list[int]
) -> None:
    world, most = World(), wanted + spare
    world.replicas = {replica.id: replica for replica in facts(*[READY] * wanted)}
    world._numbers = itertools.count(wanted + 1)
    world.backends["b"] = make.backend(revision=2, config={"num_replicas": wanted}, most_replicas=most)
    for choice in [*moves, *[0] * 40]:
        world.step()
        assert world.ready("b") >= wanted - 1
        assert len(world.replicas) <= most
        world.move(choice)
    assert [replica.revision for replica in world.replicas.values()] == [2] * wanted


@given(
    wanted=st.integers(1, 4),
    surge=st.one_of(st.none(), st.integers(0, 3)),
    unavailable=st.integers(0, 3),
    moves=st.lists(st.integers(0, 20), max_size=20),
)
def test_a_roll_out_keeps_to_what_a_backend_may_have_and_comes_to_its_end(
    make: Any, wanted: int, surge: int | None, unavailable: int, moves: list[int]
) -> None:
    unavailable = max(unavailable, 1) if surge == 0 else unavailable
    config = {"num_replicas": wanted, "max_surge": surge, "max_unavailable": unavailable}
    world = World()
    world.backends["b"] = make.backend("b", config=config)
    while world.step() or any(replica.state is STARTING for replica in world.replicas.values()):
        world.move(0)
    world.backends["b"] = make.backend("b", config=config, revision=2)
    for choice in itertools.chain(moves, itertools.repeat(0)):
        asked = world.step()
        assert world.ready("b") >= wanted - unavailable
        assert len(world.replicas) <= wanted + (wanted if surge is None else surge)
        if not asked and all(replica.state is READY for replica in world.replicas.values()):
            break
        world.move(choice)
    assert [replica.revision for replica in world.replicas.values()] == [2] * wanted

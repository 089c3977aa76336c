"""When a replica is an outlier, and what becomes of it: first by numbers, then with requests."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.ingress.outliers import EJECTED_S, LEAST_STREAK, LONGEST_S, ejection_s, is_outlier, may_eject, too_many
from servekit.ingress.quarantine import CLEARED_WITHIN_S
from servekit.wire.data_frames import Answer, Bye, Call


def test_one_that_only_fails_where_siblings_succeed() -> None:
    assert is_outlier(5, 1000, 0)
    assert not is_outlier(4, 1000, 0)
    assert is_outlier(10, 10, 0)


def test_where_siblings_have_said_little_nothing_is_known() -> None:
    assert not is_outlier(1000, 4, 0)
    assert not is_outlier(5, 5, 0)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_where_siblings_fail_as_well_it_takes_more(share: float) -> None:
    needed = next(streak for streak in itertools.count(1) if is_outlier(streak, 1000, int(1000 * share)))
    assert needed > LEAST_STREAK
    assert share**needed < 2e-6


@given(streak=st.integers(0, 10**6), successes=st.integers(0, LEAST_STREAK - 1), failures=st.integers(0, 10**6))
def test_where_all_fail_nobody_is(streak: int, successes: int, failures: int) -> None:
    assert not is_outlier(streak, successes + failures, failures)


@given(streak=st.integers(0, 500), answers=st.integers(0, 500), data=st.data())
def test_more_failures_of_its_own_make_it_one_and_more_of_its_siblings_do_not(
    streak: int, answers: int, data: st.DataObject
) -> None:
    failures = data.draw(st.integers(0, answers))
    if is_outlier(streak, answers, failures):
        assert is_outlier(streak + 1, answers, failures)
        assert is_outlier(streak, answers, max(0, failures - 1))


@given(replicas=st.integers(0, 100))
def test_at_most_half_are_ejected(replicas: int) -> None:
    ejected = 0
    while may_eject(ejected, replicas):
        ejected += 1
    assert 2 * ejected <= replicas
    assert not too_many(ejected, replicas)
    assert replicas < 2 or ejected


def test_each_ejection_is_longer_up_to_a_bound() -> None:
    times = [ejection_s(n) for n in range(1, 20)]
    assert times[0] == EJECTED_S
    assert times == sorted(times)
    assert max(times) == LONGEST_S


# -- with requests ------------------------------------------------------------------------------------------------


class Answering:
    """Sends requests one after another; ``failing`` replicas answer them with 500."""

    def __init__(self, world: Any, replicas: int, **config: Any) -> None:
        self.names = [f"r{n}" for n in range(1, replicas + 1)]
        world.apply(world.backend("b", self.names, **config), world.endpoint())
        self.world = world
        self.failing: set[str] = set()
        self._turn = itertools.count()
        policy = world.policy()
        policy.choose_replica = lambda request, free: free[next(self._turn) % len(free)]

    def ask(self, count: int = 1) -> list[str]:
        """The replicas that had the requests."""
        had = []
        for _ in range(count):
            asked = self.world.ask()
            replica = asked.exchange.replica.id
            status = 500 if replica in self.failing else 200
            self.world.answer(
                replica, self.world.calls(replica)[-1], status=status, failed=status == 500, service_us=5000
            )
            assert asked.status == status
            had.append(replica)
        return had

    def pending(self, replica: str) -> list[int]:
        return list(self.world.replica(replica).calls.pending)

    @property
    def offered(self) -> list[str]:
        return sorted(replica.id for replica in self.world.router.backends["b"].ready)


def test_it_gets_nothing_for_a_while_then_one_request_and_then_all(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    answering = Answering(world, 4)
    answering.failing = {"r2"}
    answering.ask(40)
    assert answering.offered == ["r1", "r3", "r4"]
    assert "replica b r2 gets no requests for 30 s" in caplog.text
    assert "r2" not in answering.ask(20)
    answering.failing = set()
    world.loop.advance(EJECTED_S + 0.1)
    assert answering.offered == ["r1", "r2", "r3", "r4"]
    first = [world.ask() for _ in range(20)]
    assert [replica.outstanding for replica in world.router.backends["b"].ready] == [2, 2, 2, 1]
    while pending := [(name, call) for name in answering.names for call in answering.pending(name)]:
        for name, number in pending:
            world.answer(name, Call(number, 0, None), service_us=10)
    assert all(asked.status == 200 for asked in first)
    assert answering.ask(40).count("r2") == 10


def test_one_that_still_fails_goes_for_longer(world: Any) -> None:
    answering = Answering(world, 3)
    answering.failing = {"r2"}
    answering.ask(40)
    assert answering.offered == ["r1", "r3"]
    world.loop.advance(EJECTED_S + 0.1)
    assert answering.ask(12).count("r2") == 1
    world.loop.advance(EJECTED_S + 0.1)
    assert answering.offered == ["r1", "r3"]
    world.loop.advance(EJECTED_S)
    assert answering.offered == ["r1", "r2", "r3"]


def test_never_more_than_half_and_never_the_only_one(world: Any) -> None:
    answering = Answering(world, 4)
    answering.failing = {"r1", "r2", "r3"}
    answering.ask(1000)
    assert len(answering.offered) == 2
    assert "r4" in answering.offered


def test_a_backend_with_one_replica(world: Any) -> None:
    answering = Answering(world, 1)
    answering.failing = {"r1"}
    answering.ask(100)
    assert answering.offered == ["r1"]


def test_where_all_fail_alike_it_is_the_application(world: Any) -> None:
    answering = Answering(world, 4)
    answering.failing = set(answering.names)
    answering.ask(1000)
    assert len(answering.offered) == 4


def test_where_one_in_two_requests_fails_nobody_is_ejected(world: Any) -> None:
    answering = Answering(world, 3)
    for number in range(600):
        answering.failing = set(answering.names) if (number * 7919) % 13 < 7 else set()
        answering.ask()
    assert len(answering.offered) == 3


def test_it_comes_back_when_its_siblings_are_gone(world: Any) -> None:
    answering = Answering(world, 3)
    answering.failing = {"r2"}
    answering.ask(40)
    world.lose("r1")
    assert answering.offered == ["r3"]
    world.lose("r3")
    assert answering.offered == ["r2"]


def test_one_that_is_gone_does_not_come_back(world: Any) -> None:
    answering = Answering(world, 4)
    answering.failing = {"r2"}
    answering.ask(40)
    world.apply(world.backend("b", ["r1", "r3", "r4"]))
    world.loop.advance(LONGEST_S)
    assert answering.offered == ["r1", "r3", "r4"]


def test_no_timer_is_left_of_a_worker_that_ends(world: Any) -> None:
    answering = Answering(world, 4)
    answering.failing = {"r2"}
    answering.ask(40)
    world.router.close()
    world.loop.advance(LONGEST_S)
    assert answering.offered == ["r1", "r3", "r4"]


class Failing:
    """Four replicas, the calls of one of which are all to fail, while its siblings have answered many."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.names = ["r1", "r2", "r3", "r4"]
        world.apply(world.backend("b", self.names, max_concurrent_queries=8), world.endpoint())
        self.replica = world.replica("r2")
        self.calls = [self.ask("r2", method="POST", body=b"%d" % n) for n in range(8)]
        self.fail(4)
        for n in range(40):
            asked = self.ask("r1", body=b"%d" % n)
            world.answer("r1", Call(asked.exchange.number, 0, None), service_us=10)

    def ask(self, replica: str, **request: Any) -> Any:
        self.world.policy().choose_replica = lambda request, free: next(each for each in free if each.id == replica)
        asked = self.world.ask(**request)
        assert asked.exchange.replica.id == replica
        self.world.policy().choose_replica = lambda request, free: free[0]
        return asked

    def fail(self, count: int) -> None:
        for _ in range(count):
            number = self.calls.pop(0).exchange.number
            frame = Answer(number, 500, b"", b"", queue_length=0, service_us=10, failed=True)
            self.replica.calls.frame_received(self.replica.calls.link, frame)

    @property
    def backend(self) -> Any:
        return self.world.router.backends["b"]


@pytest.mark.parametrize("how", ["retired", "leaves"])
def test_one_that_leaves_is_not_judged(world: Any, how: str) -> None:
    failing = Failing(world)
    if how == "retired":
        world.apply(world.backend("b", ["r1", "r3", "r4"], max_concurrent_queries=8))
    else:
        world.receive("r2", Bye())
    failing.fail(4)
    assert [replica.id for replica in failing.backend.ready] == ["r1", "r3", "r4"]
    world.loop.advance(EJECTED_S + 0.1)
    assert [replica.id for replica in failing.backend.ready] == ["r1", "r3", "r4"]


def test_its_places_are_not_counted_while_it_is_out(world: Any) -> None:
    failing = Failing(world)
    assert failing.backend._places == 32
    failing.fail(1)
    assert failing.backend._places == 24
    world.loop.advance(EJECTED_S + 0.1)
    assert failing.backend._places == 32


def test_that_it_came_back_early_counts_as_a_return(world: Any) -> None:
    failing = Failing(world)
    failing.fail(1)
    for name in ("r1", "r3", "r4"):
        world.lose(name)
    assert failing.backend.ready == [failing.replica]
    assert failing.replica.record.back_at == world.loop.now


def test_a_suspect_in_an_ejected_one_is_still_inside(world: Any) -> None:
    failing = Failing(world)
    poison = {"method": "POST", "body": b"poison"}
    failing.ask("r1", **poison)
    killed = world.replica("r1")
    world.lose("r1")
    world.open(killed)
    for name in ("r1", "r3", "r4"):
        for n in range(6):
            failing.ask(name, body=b"%s%d" % (name.encode(), n))
    inside = world.ask(**poison)
    world.loop.advance(CLEARED_WITHIN_S + 0.1)
    assert inside.exchange.replica is failing.replica
    failing.fail(1)
    assert failing.replica not in failing.backend.ready
    alike = world.ask(**poison)
    world.loop.advance(CLEARED_WITHIN_S + 0.1)
    assert alike.exchange.queue is failing.backend.suspects.waiting


def test_none_becomes_empty_for_a_suspect_while_it_is_ejected(world: Any) -> None:
    failing = Failing(world)
    failing.ask("r1", method="POST", body=b"poison")
    killed = world.replica("r1")
    world.lose("r1")
    world.open(killed)
    for name in ("r1", "r3", "r4"):
        for n in range(6):
            failing.ask(name, body=b"%s%d" % (name.encode(), n))
    suspect = world.ask(method="POST", body=b"poison")
    assert failing.replica.reserved
    failing.fail(1)
    assert failing.replica not in failing.backend.ready
    assert not failing.replica.reserved
    world.loop.advance(CLEARED_WITHIN_S + 0.1)
    assert suspect.exchange.replica in failing.backend.ready

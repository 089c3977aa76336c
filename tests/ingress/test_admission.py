"""Which requests a queue has too much before, by the pure decision; and what becomes of them, with a router."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from servekit.config import Autoscaling
from servekit.ingress.admission import FEWEST, MARGIN, MOST, Pace, retry_after_s
from servekit.wire.data_frames import Answer, Call, Load, Refusal

times_s = st.floats(1e-4, 1e3)


def measured(*intervals_s: float, places: int = 1) -> Pace:
    """What a queue has shown by calls that left it one by one, after such times."""
    pace, now = Pace(), 0.0
    pace.begin(now)
    for interval_s in intervals_s:
        now += interval_s
        pace.moved(now, 1, places)
    return pace


# -- the decision ------------------------------------------------------------------------------------------------------


def known(intervals_s: list[float], answer_s: float, places: int = 1) -> Pace:
    pace = measured(*intervals_s, places=places)
    pace.answered(answer_s)
    return pace


def refuses(pace: Pace, left_s: float, ahead: int, places: int = 1) -> bool:
    wait_s = pace.wait_s(ahead, places)
    return bool(wait_s) and not pace.ends_in_time(left_s, left_s, wait_s)


@given(left_s=times_s, answer_s=times_s, intervals_s=st.lists(times_s, max_size=50), places=st.integers(0, 100))
def test_behind_nobody_every_request_is_let_try(
    left_s: float, answer_s: float, intervals_s: list[float], places: int
) -> None:
    assert not refuses(known(intervals_s, answer_s), left_s, 0, places)


@given(
    left_s=times_s,
    answer_s=times_s,
    intervals_s=st.lists(times_s, max_size=50),
    places=st.integers(1, 100),
    ahead=st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)).map(sorted),
)
def test_a_longer_queue_lets_no_request_in_that_a_shorter_one_refuses(
    left_s: float, answer_s: float, intervals_s: list[float], places: int, ahead: list[int]
) -> None:
    pace = known(intervals_s, answer_s, places)
    shorter, longer = (refuses(pace, left_s, each, places) for each in ahead)
    assert longer or not shorter


@given(times_s, times_s, times_s, st.lists(times_s, max_size=50), st.integers(1, 10_000))
def test_whoever_has_more_time_is_not_refused_sooner(
    left_s: float, more_s: float, answer_s: float, intervals_s: list[float], ahead: int
) -> None:
    pace = known(intervals_s, answer_s)
    assert refuses(pace, left_s, ahead) or not refuses(pace, left_s + more_s, ahead)


@given(times_s, st.lists(times_s, min_size=1))
def test_whoever_has_all_its_time_is_sent_however_long_answers_took(timeout_s: float, answers_s: list[float]) -> None:
    pace = Pace()
    for answer_s in answers_s:
        pace.answered(answer_s)
    assert pace.ends_in_time(timeout_s, timeout_s)
    assert not pace.ends_in_time(min(MARGIN * min(answers_s), MOST * timeout_s) * 0.99, timeout_s)


def test_one_call_that_took_very_long_says_little_of_the_next() -> None:
    pace = Pace()
    for answer_s in [0.1] * 10 + [60.0]:
        pace.answered(answer_s)
    assert pace.ends_in_time(0.3, 2.0)
    for _ in range(20):
        pace.answered(0.1)
    assert pace.ends_in_time(0.15, 2.0)


@given(times_s, st.integers(1, 50), st.integers(1, 1000), st.integers(1, 20))
def test_the_wait_behind_a_steady_queue(interval_s: float, places: int, ahead: int, times: int) -> None:
    pace = measured(*[interval_s] * max(FEWEST, places), places=places)
    assert pace.wait_s(ahead, places) == pytest.approx(ahead * interval_s, rel=1e-6)
    assert pace.wait_s(ahead, places * times) == pytest.approx(ahead * interval_s / times, rel=1e-6)


@given(st.lists(times_s, max_size=FEWEST - 1), st.integers(0, 10_000))
def test_nothing_is_expected_before_ten_have_left(intervals_s: list[float], ahead: int) -> None:
    assert measured(*intervals_s).wait_s(ahead, 1) == 0.0


@given(st.lists(times_s, min_size=FEWEST, max_size=50))
def test_the_estimate_is_within_what_was_measured(intervals_s: list[float]) -> None:
    wait_s = measured(*intervals_s).wait_s(1, 1)
    assert min(intervals_s) * (1 - 1e-9) <= wait_s <= max(intervals_s) * (1 + 1e-9)


def test_the_first_ten_count_alike() -> None:
    assert measured(*range(1, FEWEST + 1)).wait_s(1, 1) == pytest.approx((FEWEST + 1) / 2)


@given(st.integers(1, 100), st.integers(1, 20))
@example(FEWEST - 1, 2)
@example(FEWEST - 1, 3)
def test_calls_that_leave_together(places: int, rounds: int) -> None:
    """In the places of a backend all calls begin, and end, together. What is measured begins and ends within a round,
    so that a part of one counts as a whole."""
    pace, now = Pace(), 0.0
    pace.begin(now)
    for _ in range(rounds):
        now += 1.0
        for _ in range(places):
            pace.moved(now, 1, places)
            pace.moved(now, 0, places)  # No room for any.
    if rounds * places >= FEWEST:
        assert 0.5 <= pace.wait_s(places, places) <= 2.0


def test_it_follows_a_change_within_a_few_tens_of_calls() -> None:
    assert measured(*[1.0] * 50, *[4.0] * 30).wait_s(1, 1) == pytest.approx(4.0, rel=0.1)
    assert measured(*[4.0] * 50, *[1.0] * 30).wait_s(1, 1) == pytest.approx(1.0, rel=0.4)


def test_what_others_had_of_the_replicas_is_forgotten_with_the_queue() -> None:
    pace = measured(*[0.4] * 20)  # Three other ingress workers had as much.
    pace.answered(0.1)
    pace.begin(100.0)
    assert pace.wait_s(10, 1) == pytest.approx(1.0)


def test_without_replicas_nothing_is_known_of_those_that_come() -> None:
    pace = measured(*[1.0] * 20)
    assert pace.wait_s(5, 0) == 0.0
    pace.forget()
    assert (pace.wait_s(5, 1), pace.answer_s) == (0.0, 0.0)


@pytest.mark.parametrize(("wait_s", "expected"), [(0.0, 1), (0.2, 1), (1.0, 1), (1.1, 2), (59.5, 60)])
def test_when_to_try_again(wait_s: float, expected: int) -> None:
    assert retry_after_s(wait_s) == expected


# -- in an ingress worker ----------------------------------------------------------------------------------------------

SERVICE_S = 0.5


class Busy:
    """A backend whose handler takes `SERVICE_S`, and an endpoint with ``timeout_s`` before it."""

    def __init__(self, world: Any, timeout_s: float = 4.0, replicas: Sequence[str] = ("r1",), **config: Any) -> None:
        self.world, self.loop, self._numbers = world, world.loop, itertools.count()
        self.replicas = replicas
        world.apply(world.backend("b", replicas, **config), world.endpoint(timeout_s=timeout_s))

    def ask(self, count: int = 1) -> list[Any]:
        return [self.world.ask(body=b"%d" % next(self._numbers)) for _ in range(count)]

    def work(self, turns: int = 1) -> None:
        """Each replica has answered one call in each turn."""
        for _ in range(turns):
            self.loop.advance(SERVICE_S)
            for replica in self.replicas:
                pending = self.world.replica(replica).calls.pending
                if pending:
                    call = next(call for call in self.world.calls(replica) if call.id == min(pending))
                    self.world.answer(replica, call, service_us=int(SERVICE_S * 1e6))

    def learn(self) -> None:
        """A queue has moved long enough; now it is empty, and nothing runs."""
        asked = [*self.ask(2)]
        for _ in range(80):
            asked += self.ask(len(self.replicas))
            self.work()
        self.work(2)
        assert {each.status for each in asked} == {200}

    @property
    def sent(self) -> list[int]:
        return [int(call.request.body) for replica in self.replicas for call in self.world.calls(replica)]


def kind(asked: Any) -> str:
    if not asked.answered:
        return "waits"
    return (
        "200"
        if asked.status == 200
        else "overloaded"
        if "more requests than it can answer in time" in asked.text
        else "other"
    )


def test_what_the_queue_has_too_much_before_is_refused_at_once(world: Any) -> None:
    busy = Busy(world)
    busy.learn()
    asked = busy.ask(12)
    # One runs. Behind seven others it would be sent after 3.5 s or more, and take 0.5 of the 4.0.
    assert [kind(each) for each in asked] == ["waits"] * 8 + ["overloaded"] * 4
    assert (asked[-1].status, asked[-1].header("retry-after")) == (503, "4")
    sent = len(busy.sent)
    busy.work(8)
    # The last that was let wait is just too late: dropped, and not sent.
    assert [kind(each) for each in asked[:8]] == ["200"] * 7 + ["overloaded"]
    assert len(busy.sent) == sent + 6


def test_first_in_first_out(world: Any) -> None:
    busy = Busy(world)
    busy.learn()
    for _ in range(20):
        busy.ask(3)
        busy.work()
    assert busy.sent == sorted(busy.sent)


def test_nothing_is_refused_before_ten_answers(world: Any) -> None:
    busy = Busy(world, timeout_s=2.0)
    assert not any(each.answered for each in busy.ask(200))


def test_what_its_time_is_not_left_for_is_dropped_and_not_sent(world: Any) -> None:
    busy = Busy(world, timeout_s=2.0, replicas=("r1",))
    busy.learn()
    before = len(busy.sent)
    asked = busy.ask(3)
    busy.loop.advance(1.6)  # The replica has taken longer than ever.
    busy.work(0)
    (running,) = world.replica("r1").calls.pending
    world.answer("r1", world.calls("r1")[-1], service_us=1_600_000)
    assert running == world.calls("r1")[-1].id
    assert [kind(each) for each in asked] == ["200", "overloaded", "overloaded"]
    assert (asked[1].status, asked[1].header("retry-after")) == (503, "1")
    assert len(busy.sent) == before + 1


def test_whose_time_is_over_gets_a_504_and_is_not_sent(world: Any) -> None:
    """The timer of deadlines strikes a little late."""
    busy = Busy(world, timeout_s=2.0)
    asked = busy.ask(4)
    sent = len(busy.sent)
    busy.loop.now += 2.001
    world.receive("r1", Refusal(1, "expired"))
    assert [each.status for each in asked if each.answered] == [504] * 3
    assert len(busy.sent) == sent


def test_a_call_with_less_time_is_refused_sooner(world: Any) -> None:
    """A handle's call brings the time that its caller has left: see `handle_call`."""
    busy = Busy(world)
    world.apply(world.endpoint("short", route="/short", timeout_s=1.5))
    busy.learn()
    busy.ask(4)
    assert kind(world.ask("/short")) == "overloaded"
    assert kind(world.ask("/x")) == "waits"


def test_what_is_coming_counts_as_if_it_were_there(world: Any) -> None:
    scaling = Autoscaling(min_replicas=1, max_replicas=8)
    busy = Busy(world, autoscaling=scaling, num_replicas=1)
    busy.learn()
    asked = busy.ask(10)
    assert kind(asked[-1]) == "overloaded"
    world.apply(world.backend("b", ["r1"], autoscaling=scaling, num_replicas=4))
    asked = busy.ask(10)
    assert not any(each.answered for each in asked)


def test_after_the_last_replica_nothing_is_expected_of_the_next(world: Any) -> None:
    busy = Busy(world)
    busy.learn()
    world.lose("r1")
    parked = busy.ask(100)
    assert not any(each.answered for each in parked)
    world.open(world.replica("r1"))
    assert not any(each.answered for each in busy.ask(100))


def test_the_start_of_a_replica_is_no_service(world: Any) -> None:
    """The queue forms while the chosen version has none, and other versions must not take over."""
    scaling = Autoscaling(min_replicas=1, max_replicas=8)
    world.apply(
        world.backend("b", ["r1"], autoscaling=scaling),
        world.backend("c", ["rc"]),
        world.endpoint(strict=True, weights={"b": 0.5, "c": 0.5}, timeout_s=60.0),
    )
    world.policy().choose_backend = lambda request, backends: next(each for each in backends if each.name == "b")
    replica = world.replica("r1")
    world.lose("r1")
    asked = [world.ask(body=b"%d" % n) for n in range(60)]
    world.loop.advance(25.0)
    world.open(replica)
    for _ in range(2 * FEWEST):
        world.loop.advance(0.1)
        world.answer("r1", Call(min(replica.calls.pending), 0, None), service_us=100_000)
    assert sum(each.answered for each in asked) == 2 * FEWEST
    assert not world.ask(body=b"more").answered
    assert world.router.backends["b"]._pace.wait_s(10, 1) < 2.0


def test_what_was_refused_on_its_way_from_the_queue_is_no_answer(world: Any) -> None:
    busy = Busy(world)
    asked = busy.ask(4)

    def fails(request: Any, replicas: Any) -> Any:
        raise ValueError

    world.policy().choose_replica = fails
    busy.work(2)
    assert [kind(each) for each in asked] == ["200", "200", "other", "other"]
    assert world.router.backends["b"]._followed is None
    assert world.router.backends["b"]._pace.answer_s == 0.0


def test_a_share_of_the_replicas_is_measured(world: Any) -> None:
    """Another ingress worker has every second call of the replica."""
    busy = Busy(world, timeout_s=4.0)
    busy.learn()
    busy.ask(2)
    for _ in range(30):
        busy.ask(3)
        world.receive("r1", Load(1))
        busy.work()
        world.receive("r1", Load(1))  # The other's call
        busy.loop.advance(SERVICE_S)
        world.receive("r1", Load(0))
    waiting = len(world.router.backends["b"].waiting)
    assert 2 <= waiting <= 5  # Alone, there would be seven.


def test_batches_are_counted_by_what_leaves(world: Any) -> None:
    busy = Busy(world, timeout_s=2.0, max_batch_size=4)
    for _ in range(20):
        busy.ask(8)
        busy.loop.advance(SERVICE_S)
        batch = sorted(world.replica("r1").calls.pending)[:4]
        world.receive("r1", *[Answer(number, 200, b"", b"", 0, int(SERVICE_S * 1e6)) for number in batch])
    # Eight a second: in 2.0 s less the service, eleven or so.
    assert 8 <= len(world.router.backends["b"].waiting) <= 13


def test_what_is_refused_is_load(world: Any) -> None:
    """Of 20 a second that are refused, 0.5 s each, ten would be in places at a time."""
    busy = Busy(world, max_queued_requests=3)
    busy.learn()
    backend = world.router.backends["b"]
    backend.take_refused(1.0)
    asked = busy.ask(24)
    assert sum(each.answered for each in asked) == backend.refused == 20
    assert backend.take_refused(1.0) == 10
    assert backend.take_refused(1.0) == 0

"""Requests that replicas have died with: which are suspects, and how they go on."""

from __future__ import annotations

from typing import Any

import pytest

from servekit.http1.body import IncomingBody
from servekit.ingress.quarantine import ALONE_S, CLEARED_WITHIN_S
from servekit.ingress.suspects import REFUSED_S
from servekit.tallies import DURATION_US
from servekit.wire.data_frames import PIECE_BYTES, Answer, Bye, Call, Credit, Refusal


def apply(world: Any, replicas: int, **config: Any) -> None:
    world.apply(world.backend("b", [f"r{n}" for n in range(1, replicas + 1)], **config), world.endpoint())


def where(asked: Any) -> str | None:
    """The replica that has a request now."""
    replica = asked.exchange.replica
    pending = replica is not None and asked.exchange in replica.calls.pending.values()
    return replica.id if pending else None


def answer(world: Any, asked: Any, **more: Any) -> None:
    world.answer(where(asked), Call(asked.exchange.number, 0, None), **more)


def kill(world: Any, replica: str) -> None:
    """And have the next one take its place, under the same name."""
    found = world.replica(replica)
    world.lose(replica)
    world.open(found)


def killed_with(world: Any, **request: Any) -> Any:
    """A request that has been sent, and whose replica has died."""
    asked = world.ask(**request)
    kill(world, where(asked))
    return asked


def refused(world: Any) -> int:
    """How many requests are counted that were refused for this."""
    return sum(sum(slots[:DURATION_US]) for key, slots in world.counted.items() if key[-1] == "deadly_request")


POISON: dict[str, Any] = {"method": "POST", "body": b"poison"}


# -- when it is refused ----------------------------------------------------------------------------------------------


def test_after_three_deaths_it_is_refused_at_once_and_for_a_while(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    apply(world, 4)
    for _ in range(3):
        assert killed_with(world, **POISON).header("content-type") == "text/plain; charset=utf-8"
    for _ in range(2):
        asked = world.ask(**POISON, headers=[("accept", "application/json")])
        assert asked.status == 502
        assert '"type":"deadly_request"' in asked.text
    assert caplog.text.count("have died 3 times with a request like") == 1
    assert refused(world) == 2
    world.loop.advance(REFUSED_S + 1)
    asked = world.ask(**POISON)
    answer(world, asked)
    assert asked.status == 200
    assert not world.shared.suspects.deaths


def test_a_get_has_two_deaths_and_the_next_one_the_third(world: Any) -> None:
    apply(world, 4)
    first = world.ask()
    kill(world, where(first))
    kill(world, where(first))
    assert "had this request died" in first.text
    second = world.ask()
    kill(world, where(second))
    assert "refused for a while" in second.text
    assert refused(world) == 1


@pytest.mark.parametrize("status", [200, 500])
def test_any_answer_clears_it(world: Any, status: int) -> None:
    """A handler that raises lives."""
    apply(world, 2)
    killed_with(world, **POISON)
    killed_with(world, **POISON)
    answer(world, world.ask(**POISON), status=status, failed=status == 500)
    for _ in range(2):
        assert "had this request died" in killed_with(world, **POISON).text


@pytest.mark.parametrize(
    "other",
    [
        {"method": "GET", "body": b"poison"},
        {"method": "POST", "body": b"another"},
        {"method": "POST", "body": b"poison", "query": b"q"},
        {"method": "POST", "body": b"poison", "sent_target": b"/%78"},
        {"method": "POST", "body": b"poison", "path": "/y"},
        {"method": "POST", "body": b"poison", "headers": [("x-serve-call-method", "m")]},
    ],
)
def test_others_are_not(world: Any, other: dict[str, Any]) -> None:
    world.apply(
        world.backend("b", ["r1", "r2"], callable_methods=["m"]), world.endpoint(), world.endpoint("f", route="/y")
    )
    for _ in range(3):
        killed_with(world, **POISON)
    asked = world.ask(**other)
    answer(world, asked)
    assert asked.status == 200


def test_all_that_die_at_one_time_are_one_death(world: Any) -> None:
    """Every replica is killed, each with the request that everybody sends."""
    apply(world, 4)
    asked = [world.ask() for _ in range(8)]
    assert len({where(one) for one in asked}) == 4
    for name in ("r1", "r2", "r3", "r4"):
        kill(world, name)
    # The first of them goes alone; when it is answered the others follow.
    assert sum(where(one) is not None for one in asked) == 1
    while waiting := [one for one in asked if where(one)]:
        answer(world, waiting[0])
    assert [one.status for one in asked] == [200] * 8
    assert not world.shared.suspects.deaths


@pytest.mark.parametrize("how", ["retired", "leaves"])
def test_an_end_that_was_asked_for_is_none(world: Any, how: str) -> None:
    apply(world, 2)
    asked = world.ask(**POISON)
    replica = world.replica(where(asked))
    link = replica.calls.link
    if how == "retired":
        world.apply(world.backend("b", ["r2"]), leaving=("r1",))
    else:
        world.receive("r1", Bye())
    replica.calls.link_lost(link, ConnectionResetError())
    assert asked.status == 502
    assert not world.shared.suspects.deaths


def test_an_end_of_which_the_controller_tells_first(world: Any) -> None:
    """The snapshot without the replica comes before the end of the replica's link."""
    apply(world, 2)
    asked = world.ask(**POISON)
    replica = world.replica(where(asked))
    link = replica.calls.link
    world.apply(world.backend("b", ["r2"]))
    replica.calls.link_lost(link, None)
    assert asked.status == 502
    assert len(world.shared.suspects.deaths) == 1


@pytest.mark.parametrize("how", ["companion", "link"])
def test_that_a_machine_is_silent_is_no_evidence(world: Any, how: str) -> None:
    apply(world, 1)
    replica, asked = world.replica("r1"), world.ask()
    link = replica.calls.link
    if how == "companion":
        replica.calls._peer_silent()
    replica.calls.link_lost(link, TimeoutError() if how == "link" else None)
    assert not world.shared.suspects.deaths
    world.open(replica)
    assert where(asked) == "r1", "it is sent again, as it is when a replica dies"
    world.lose("r1")
    assert len(world.shared.suspects.deaths) == 1, "the next link is judged by its own end"


# -- which are suspects ----------------------------------------------------------------------------------------------


def test_those_that_may_have_begun(world: Any) -> None:
    apply(world, 1)
    asked = [world.ask(method="POST", body=b"%d" % n) for n in range(2)]
    world.lose("r1", unsent=[call for call in world.calls("r1") if call.request.body == b"1"])
    assert [one.answered for one in asked] == [True, False]
    assert len(world.shared.suspects.deaths) == 1


def test_one_whose_handler_is_over_is_none(world: Any) -> None:
    apply(world, 1)
    asked = world.ask(**POISON)
    answer(world, asked, rest=10)
    world.lose("r1")
    assert not world.shared.suspects.deaths


def test_one_that_timed_out_inside_is_one(world: Any) -> None:
    world.apply(world.backend("b", ["r1"]), world.endpoint(timeout_s=1.0))
    world.ask(**POISON)
    world.loop.advance(2.0)
    world.lose("r1")
    assert len(world.shared.suspects.deaths) == 1


def post_long(world: Any, pieces: int) -> Any:
    """A body of so many pieces, behind a first one."""
    incoming = IncomingBody()
    asked = world.ask(method="POST", body=b"a" * PIECE_BYTES, incoming=incoming)
    for _ in range(pieces):
        incoming.receive(b"b" * PIECE_BYTES)
    incoming.end()
    return asked


def test_a_body_that_was_not_all_sent_to_a_replica_that_takes_bodies_whole(world: Any) -> None:
    """Such a call cannot have begun, whatever its method."""
    world.apply(world.backend("b", ["r1", "r2"], streams_bodies=False), world.endpoint())
    asked = post_long(world, 8)
    assert where(asked) == "r1"
    world.lose("r1")
    assert where(asked) == "r2"
    assert not world.shared.suspects.deaths


@pytest.mark.parametrize("pieces", [1, 20])
def test_a_long_body_counts_where_it_is_in_memory(world: Any, pieces: int) -> None:
    world.apply(world.backend("b", ["r1", "r2"], streams_bodies=False), world.endpoint())
    for _ in range(4):
        asked = post_long(world, pieces)
        if replica := where(asked):
            world.receive(replica, Credit(asked.exchange.number, 2 * pieces * PIECE_BYTES))  # All of it is sent.
            kill(world, replica)
    assert ("refused for a while" in asked.text) == (pieces == 1)


# -- how they go on --------------------------------------------------------------------------------------------------


def test_it_goes_alone_and_nothing_follows_until_it_is_answered(world: Any) -> None:
    apply(world, 2)
    killed_with(world, **POISON)
    first = world.ask(body=b"a")
    assert where(first) == "r2"
    asked = world.ask(**POISON)
    assert where(asked) == "r1"
    others = [world.ask(body=b"%d" % n) for n in range(3)]
    assert [where(one) for one in others] == ["r2", None, None]
    answer(world, asked, service_us=10)
    assert [where(one) for one in others] == ["r2", "r1", "r1"]


def test_others_do_not_wait_behind_it(world: Any) -> None:
    apply(world, 2, max_concurrent_queries=4)
    killed_with(world, **POISON)
    world.policy().choose_replica = lambda request, free: min(free, key=lambda replica: replica.outstanding)
    inside = [world.ask(body=b"%d" % n) for n in range(2)]
    asked = world.ask(**POISON)
    assert where(asked) is None
    more = [world.ask(body=b"m%d" % n) for n in range(2)]
    assert None not in [where(one) for one in more]
    cleared = {"r1", "r2"} - {where(one) for one in more}
    assert len(cleared) == 1
    for one in inside:
        answer(world, one)
    assert {where(asked)} == cleared


def test_its_replica_is_not_waited_for_for_ever(world: Any) -> None:
    apply(world, 1, max_concurrent_queries=4)
    killed_with(world, **POISON)
    slow = world.ask(body=b"slow")
    asked = world.ask(**POISON)
    world.loop.advance(CLEARED_WITHIN_S - 0.1)
    assert where(asked) is None
    assert where(world.ask(body=b"other")) is None
    world.loop.advance(0.2)
    assert (where(slow), where(asked)) == ("r1", "r1")
    assert where(world.ask(body=b"other")) is None
    answer(world, asked)
    assert [where(one) for one in world.asked[-2:]] == ["r1", "r1"]


def test_one_of_a_kind_at_a_time_and_all_at_once_when_it_is_cleared(world: Any) -> None:
    apply(world, 3, max_concurrent_queries=4)
    killed_with(world, **POISON)
    asked = [world.ask(**POISON) for _ in range(5)]
    assert [where(one) is not None for one in asked] == [True, False, False, False, False]
    answer(world, asked[0])
    assert None not in [where(one) for one in asked[1:]]


def test_all_of_a_kind_are_refused_when_it_dies_for_the_third_time(world: Any) -> None:
    apply(world, 3)
    killed_with(world, **POISON)
    asked = [world.ask(**POISON) for _ in range(5)]
    kill(world, next(filter(None, map(where, asked))))
    kill(world, next(filter(None, map(where, asked))))
    assert [one.status for one in asked] == [502] * 5
    assert sum("refused for a while" in one.text for one in asked) == 3


def test_suspects_of_several_kinds_go_to_several_replicas(world: Any) -> None:
    apply(world, 3)
    kinds = [b"x", b"y", b"z", b"w"]
    for body in kinds:
        killed_with(world, method="POST", body=body)
    asked = [world.ask(method="POST", body=body) for body in kinds]
    assert sorted(str(where(one)) for one in asked) == ["None", "r1", "r2", "r3"]
    answer(world, asked[0])
    assert where(asked[3]) is not None


def test_a_replica_that_is_cleared_for_one_that_leaves_takes_others_again(world: Any) -> None:
    apply(world, 1, max_concurrent_queries=4)
    killed_with(world, **POISON)
    slow = world.ask(body=b"slow")
    asked = world.ask(**POISON)
    world.leave(asked)
    other = world.ask(body=b"other")
    world.loop.advance(CLEARED_WITHIN_S + 0.1)
    assert (where(slow), where(other)) == ("r1", "r1")


def test_one_that_is_given_up_holds_its_replica_until_the_replica_is_done(world: Any) -> None:
    apply(world, 1)
    killed_with(world, **POISON)
    asked = world.ask(**POISON)
    world.leave(asked)
    other = world.ask(body=b"other")
    assert where(other) is None
    world.receive("r1", Refusal(asked.exchange.number, "cancelled"))
    assert where(other) == "r1"


def test_they_wait_for_a_replica_that_is_coming(world: Any) -> None:
    apply(world, 1)
    replica = world.replica("r1")
    asked = world.ask()
    world.lose("r1")
    assert where(asked) is None
    world.open(replica)
    answer(world, asked)
    assert asked.status == 200


def test_they_are_bounded(world: Any) -> None:
    apply(world, 1, max_queued_requests=2)
    killed_with(world, **POISON)
    asked = [world.ask(**POISON) for _ in range(4)]
    assert [one.answered for one in asked] == [False, False, False, True]
    assert asked[3].status == 503


def test_their_deadlines(world: Any) -> None:
    world.apply(world.backend("b", ["r1"]), world.endpoint(timeout_s=5.0))
    killed_with(world, **POISON)
    asked = [world.ask(**POISON) for _ in range(2)]
    world.loop.advance(6.0)
    assert [one.status for one in asked] == [504, 504]


def test_one_that_waits_in_the_queue_when_its_like_dies(world: Any) -> None:
    """It does not walk through the replicas with the others."""
    apply(world, 2)
    asked = [world.ask(**POISON) for _ in range(10)]
    assert sum(where(one) is not None for one in asked) == 4
    kill(world, "r1")
    kill(world, "r2")
    assert sum(where(one) is not None for one in asked) == 1
    other = world.ask(body=b"other")
    assert where(other) is not None


def test_the_controller_hears_of_it_at_once(world: Any) -> None:
    apply(world, 2)
    answer(world, world.ask())
    before = world.wanted
    kill(world, "r1")
    kill(world, "r2")
    assert world.wanted == before + 2
    assert world.shared.take_served() == {"r1": "b"}
    assert world.shared.take_served() == {}


# -- for how long others are kept out --------------------------------------------------------------------------------


def begin(world: Any, asked: Any) -> None:
    """The handler begins an answer in pieces, and goes on."""
    frame = Answer(asked.exchange.number, 200, b"", b"x", queue_length=1, service_us=10, rest=-1, running=True)
    world.receive(where(asked), frame)


def test_others_come_in_when_its_answer_has_begun(world: Any) -> None:
    apply(world, 1, max_concurrent_queries=8)
    stream = world.ask(query=b"events")
    kill(world, "r1")
    others = [world.ask(body=b"%d" % n) for n in range(3)]
    assert [where(one) for one in (stream, *others)] == ["r1", None, None, None]
    begin(world, stream)
    assert [where(one) for one in others] == ["r1"] * 3
    kill(world, "r1")
    assert world.shared.suspects.deaths[stream.exchange.digest][0] == 2, "its second death is one more of its own"


def test_a_stream_that_goes_on_is_cleared_and_its_like_come_in(world: Any) -> None:
    apply(world, 1, max_concurrent_queries=8)
    stream = world.ask(query=b"events")
    kill(world, "r1")
    alike = [world.ask(query=b"events") for _ in range(3)]
    begin(world, stream)
    assert [where(one) for one in alike] == [None] * 3
    world.loop.advance(ALONE_S + 0.1)
    assert not world.shared.suspects.deaths
    assert [where(one) for one in alike] == ["r1"] * 3


def test_one_that_hangs_keeps_others_out_for_a_while_and_its_like_until_nobody_waits_for_it(world: Any) -> None:
    world.apply(world.backend("b", ["r1"], max_concurrent_queries=8), world.endpoint(timeout_s=25.0))
    hangs = world.ask()
    kill(world, "r1")
    other, alike = world.ask(body=b"other"), world.ask()
    world.loop.advance(ALONE_S - 0.1)
    assert (where(hangs), where(other), where(alike)) == ("r1", None, None)
    world.loop.advance(0.2)
    assert (where(other), where(alike)) == ("r1", None)
    world.loop.advance(10.0)
    later = world.ask()
    assert where(later) is None
    world.loop.advance(10.0 + CLEARED_WITHIN_S)
    assert (hangs.status, alike.status, where(later)) == (504, 504, "r1")


def test_one_that_waits_follows_though_the_replica_is_not_empty(world: Any) -> None:
    apply(world, 1, max_concurrent_queries=8)
    killed_with(world, **POISON)
    slow = world.ask(body=b"slow")
    first, second = world.ask(**POISON), world.ask(**POISON)
    world.loop.advance(CLEARED_WITHIN_S + 0.1)
    assert (where(slow), where(first), where(second)) == ("r1", "r1", None)
    answer(world, first)
    assert where(second) == "r1"


def test_what_is_answered_beside_one_that_is_to_come_leaves_the_replica_reserved(world: Any) -> None:
    """A suspect whose time alone is over ends, while the replica becomes empty for the next one."""
    apply(world, 1, max_concurrent_queries=8)
    for body in (b"x", b"y"):
        killed_with(world, method="POST", body=body)
    hangs = world.ask(method="POST", body=b"x")
    world.loop.advance(ALONE_S + 0.1)
    slow = world.ask(body=b"slow")
    next_one = world.ask(method="POST", body=b"y")
    assert where(slow) == "r1"
    answer(world, hangs)
    assert (where(next_one), where(world.ask(body=b"other"))) == (None, None)
    answer(world, slow)
    assert where(next_one) == "r1"


def test_they_stay_in_order(world: Any) -> None:
    apply(world, 1)
    killed_with(world, **POISON)
    asked = [world.ask(**POISON) for _ in range(4)]
    for _ in range(3):
        world.router.backends["b"].pump()
        assert list(world.router.backends["b"].suspects.waiting) == [one.exchange for one in asked[1:]]

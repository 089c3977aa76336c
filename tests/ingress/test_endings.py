"""How requests end: deadlines, clients that leave, replicas that die, drain or refuse; and what policies are told."""

from __future__ import annotations

from typing import Any

import pytest

from servekit.interfaces import Outcome
from servekit.wire.data_frames import Bye, Call, Refusal


@pytest.fixture
def served(world: Any) -> Any:
    world.apply(world.backend(), world.endpoint(timeout_s=2.0))
    return world


@pytest.fixture
def pair(world: Any) -> Any:
    """Two replicas."""
    world.apply(world.backend("b", ["r1", "r2"]), world.endpoint())
    return world


def outcomes(world: Any) -> list[Outcome]:
    return [outcome for _, _, outcome in world.policy().finished]


# -- deadlines --------------------------------------------------------------------------------------------------


def test_a_deadline_that_passes(served: Any) -> None:
    asked = served.ask()
    (call,) = served.calls("r1")
    served.loop.advance(1.9)
    assert not asked.answered
    served.loop.advance(0.2)
    assert asked.status == 504
    assert "within its 2 s" in asked.text
    assert served.cancels("r1") == [call.id]
    assert outcomes(served) == [Outcome.TIMED_OUT]


def test_a_call_that_timed_out_holds_its_place_until_the_replica_is_done_with_it(served: Any) -> None:
    for _ in range(2):
        served.ask()
    served.loop.advance(3.0)
    waiting = served.ask()
    assert served.replica("r1").outstanding == 2
    assert len(served.calls("r1")) == 2
    served.answer("r1", served.calls("r1")[0], service_us=10)
    assert len(served.calls("r1")) == 3
    served.answer("r1", served.calls("r1")[2])
    assert waiting.status == 200


def test_a_late_answer_is_dropped(served: Any) -> None:
    asked = served.ask()
    served.loop.advance(3.0)
    served.answer("r1", served.calls("r1")[0])
    assert asked.status == 504
    assert [record.status for record in served.records] == [504]
    assert outcomes(served) == [Outcome.TIMED_OUT]
    assert served.replica("r1").outstanding == 0


def test_the_deadline_of_one_that_waits_in_the_queue(served: Any) -> None:
    asked = [served.ask() for _ in range(3)]
    served.loop.advance(3.0)
    assert asked[2].status == 504
    served.answer("r1", served.calls("r1")[0])
    served.answer("r1", served.calls("r1")[1])
    assert len(served.calls("r1")) == 2
    assert len(served.cancels("r1")) == 2


def test_the_deadline_of_one_that_is_parked(world: Any) -> None:
    world.apply(world.backend("b", [], num_replicas=1), world.endpoint(timeout_s=1.0))
    asked = world.ask()
    world.loop.advance(2.0)
    assert asked.status == 504
    world.apply(world.backend())
    assert world.calls("r1") == []


def test_what_remains_of_the_deadline_is_what_the_replica_is_told(served: Any) -> None:
    for _ in range(3):
        served.ask()
    served.loop.advance(1.5)
    served.answer("r1", served.calls("r1")[0], service_us=10)
    assert 400 < served.calls("r1")[2].timeout_ms <= 501


def test_no_deadline_is_left_of_what_was_answered(served: Any) -> None:
    asked = served.ask()
    served.answer("r1", served.calls("r1")[0])
    served.loop.advance(5.0)
    assert asked.status == 200
    assert served.cancels("r1") == []


# -- clients that leave ------------------------------------------------------------------------------------------


def test_an_abandoned_call_is_cancelled_and_counted_as_499(served: Any) -> None:
    asked = served.ask()
    served.leave(asked)
    assert served.cancels("r1") == [served.calls("r1")[0].id]
    assert [record.status for record in served.records] == [499]
    assert outcomes(served) == [Outcome.ABANDONED]
    assert served.replica("r1").outstanding == 1
    served.receive("r1", Refusal(served.calls("r1")[0].id, "cancelled"))
    assert served.replica("r1").outstanding == 0
    assert not asked.answered
    served.loop.advance(5.0)
    assert [record.status for record in served.records] == [499]
    assert outcomes(served) == [Outcome.ABANDONED]


def test_one_that_is_abandoned_in_the_queue_is_never_sent(served: Any) -> None:
    asked = [served.ask() for _ in range(3)]
    served.leave(asked[2])
    for call in served.calls("r1"):
        served.answer("r1", call)
    assert len(served.calls("r1")) == 2
    assert outcomes(served) == [Outcome.ANSWERED] * 2


# -- replicas that die ------------------------------------------------------------------------------------------


def test_a_post_that_has_begun_is_not_sent_again(pair: Any) -> None:
    asked = pair.ask(method="POST")
    pair.lose("r1")
    assert asked.status == 502
    assert "backend 'b'" in asked.text
    assert pair.calls("r2") == []
    assert outcomes(pair) == [Outcome.LOST]


def test_a_get_is_sent_once_more(pair: Any) -> None:
    asked = pair.ask()
    pair.lose("r1")
    assert not asked.answered
    (again,) = pair.calls("r2")
    pair.answer("r2", again)
    assert asked.status == 200
    assert outcomes(pair) == [Outcome.LOST, Outcome.ANSWERED]


def test_a_poison_get_does_not_walk_through_all_replicas(world: Any) -> None:
    world.apply(world.backend("b", ["r1", "r2", "r3"]), world.endpoint())
    asked = world.ask()
    world.lose("r1")
    world.lose("r2")
    assert asked.status == 502
    assert world.calls("r3") == []


def test_a_post_that_was_not_sent_yet_goes_elsewhere(pair: Any) -> None:
    asked = pair.ask(method="POST")
    pair.lose("r1", unsent=pair.calls("r1"))
    assert not asked.answered
    pair.answer("r2", pair.calls("r2")[0])
    assert asked.status == 200


def test_what_was_not_sent_does_not_count_as_a_try(world: Any) -> None:
    world.apply(world.backend("b", ["r1", "r2", "r3"]), world.endpoint())
    asked = world.ask()
    world.lose("r1", unsent=world.calls("r1"))
    world.lose("r2")
    assert not asked.answered
    assert len(world.calls("r3")) == 1


def test_the_queue_of_a_backend_that_lost_its_last_replica_waits_for_the_next(served: Any) -> None:
    asked = [served.ask(method="POST", body=b"%d" % n) for n in range(4)]
    replica = served.replica("r1")
    served.lose("r1")
    assert [one.answered for one in asked] == [True, True, False, False]
    link = served.open(replica)
    assert len(link.of(Call)) == 2


def test_the_queue_of_a_version_that_is_down_goes_to_the_other(world: Any) -> None:
    world.apply(world.backend("a", ["a1"]), world.backend("b", ["b1"]), world.endpoint(weights={"a": 0.5, "b": 0.5}))
    asked = [world.ask(method="POST") for _ in range(3)]
    world.lose("a1")
    assert [one.answered for one in asked] == [True, True, False]
    assert len(world.calls("b1")) == 1


# -- replicas that drain or refuse ------------------------------------------------------------------------------------


def test_a_call_that_a_draining_replica_gives_back_goes_elsewhere(pair: Any) -> None:
    asked = pair.ask(method="POST")
    pair.receive("r1", Bye())
    pair.receive("r1", Refusal(pair.calls("r1")[0].id, "draining"))
    assert not asked.answered
    pair.answer("r2", pair.calls("r2")[0])
    assert asked.status == 200
    assert outcomes(pair) == [Outcome.LOST, Outcome.ANSWERED]


def test_a_replica_that_says_bye_gets_no_more_and_answers_what_it_has(pair: Any) -> None:
    asked = pair.ask()
    pair.receive("r1", Bye())
    assert len(pair.link("r1").of(Bye)) == 1
    pair.ask()
    assert (len(pair.calls("r1")), len(pair.calls("r2"))) == (1, 1)
    pair.answer("r1", pair.calls("r1")[0])
    assert asked.status == 200


def test_a_call_that_expired_in_the_replica(served: Any) -> None:
    asked = served.ask()
    served.receive("r1", Refusal(served.calls("r1")[0].id, "expired"))
    assert asked.status == 504
    assert outcomes(served) == [Outcome.TIMED_OUT]


def test_answers_to_calls_that_nobody_made_are_ignored(served: Any) -> None:
    served.receive("r1", Refusal(99, "draining"))
    served.answer("r1", Call(98, 0, served.router))
    assert served.replica("r1").outstanding == 0


# -- what policies are told -------------------------------------------------------------------------------------------


def test_failures_are_told_apart(served: Any) -> None:
    served.ask()
    served.ask()
    served.answer("r1", served.calls("r1")[0])
    served.answer("r1", served.calls("r1")[1], status=500, failed=True)
    assert outcomes(served) == [Outcome.ANSWERED, Outcome.FAILED]


def test_a_request_that_was_never_sent_is_not_told_of(world: Any) -> None:
    world.apply(world.backend("b", []), world.endpoint())
    world.ask()
    assert outcomes(world) == []


def test_a_policy_that_fails_in_request_finished_harms_nobody(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*arguments: Any) -> None:
        raise ZeroDivisionError("mine")

    served.policy().request_finished = fail
    asked = served.ask()
    served.answer("r1", served.calls("r1")[0])
    assert asked.status == 200
    assert "ZeroDivisionError: mine" in caplog.text

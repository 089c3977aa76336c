"""What may become of a copy: each ends in a count, and in nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from servekit.ingress.shadow import MOST_IN_FLIGHT, MOST_PAIRS_BYTES
from servekit.tallies import COUNT
from servekit.wire.control_frames import ShadowEntry, ShadowPair
from servekit.wire.data_frames import Answer, Call, End, Refusal

ENTRY = ShadowEntry("s", 1.0, noise=0.0, number=1)


class Shadowed:
    """An endpoint with a live backend ``b`` (replica r1) and a shadow ``s`` (replica s1), and what it has told."""

    replica = "s1"
    """The shadow's."""

    def __init__(self, world: Any, entry: ShadowEntry) -> None:
        self.world = world
        self.pairs: list[ShadowPair] = []
        self.controller_is_there = True
        world.shared.tell_controller = self._tell
        world.apply(world.backend(), world.backend("s", ["s1"]), world.endpoint(shadow=entry))

    def _tell(self, frame: Any) -> bool:
        if self.controller_is_there:
            self.pairs.append(frame)
        return self.controller_is_there

    async def copy(self, method: str = "GET", **more: Any) -> Call:
        """Ask, have the live version answer, and return the copy that goes out."""
        before = len(self.world.calls(self.replica))
        asked = self.world.ask(method=method, **more)
        self.world.answer("r1", self.world.calls("r1")[-1], b"live")
        assert asked.status == 200
        assert len(self.world.calls(self.replica)) == before, "not in the same turn"
        await asyncio.sleep(0)
        call: Call = self.world.calls(self.replica)[-1]
        return call

    @property
    def counted(self) -> dict[str, int]:
        found = {key: slots[COUNT] for key, slots in self.world.shared.tallies.slots.items() if key[0] == "shadow"}
        assert all(key[1] == "e" for key in found)
        return {str(key[3]): count for key, count in found.items() if count}


@pytest.fixture
def run(world: Any) -> Callable[..., None]:
    def run(test: Callable[[Shadowed], Awaitable[None]], entry: ShadowEntry = ENTRY) -> None:
        async def whole() -> None:
            shadowed = Shadowed(world, entry)
            await test(shadowed)
            await asyncio.sleep(0)
            assert not [each for each in world.shared.deadlines.open if type(each).__name__ == "ShadowExchange"]
            assert len(world.records) == len(world.asked)
            assert not any(world.shared.copies.values())

        asyncio.run(whole())

    return run


def test_an_answer_is_compared(run: Any) -> None:
    async def test(shadowed: Shadowed) -> None:
        call = await shadowed.copy(headers=[("x-request-id", "mine"), ("x-servekit-shadow", "no")], query=b"a=b")
        request = call.request
        assert (request.shadow, request.id, request.query_string) == (True, "mine~shadow", b"a=b")
        assert [each for each in request.headers if each[0] == b"x-servekit-shadow"] == [(b"x-servekit-shadow", b"1")]
        assert request.client == "192.0.2.1"
        shadowed.world.answer("s1", call, b"new", status=201)
        (pair,) = shadowed.pairs
        assert (pair.endpoint, pair.number, pair.repeat, pair.request_id, pair.same) == ("e", 1, False, "mine", False)
        assert (pair.live.status, pair.live.body, pair.live.content_type) == (200, b"live", "text/plain")
        assert (pair.shadow.status, pair.shadow.body) == (201, b"new")
        shadowed.world.answer("s1", await shadowed.copy(), b"live")
        assert (shadowed.pairs[1].same, shadowed.pairs[1].live.body) == (True, b"")
        assert shadowed.counted == {"sent": 2, "answered": 2}

    run(test)


def test_one_that_is_late_is_cancelled(run: Any) -> None:
    async def test(shadowed: Shadowed) -> None:
        call = await shadowed.copy()
        shadowed.world.loop.advance(11)
        assert shadowed.world.cancels("s1") == [call.id]
        assert shadowed.counted == {"sent": 1, "late": 1}
        shadowed.world.answer("s1", call)
        assert shadowed.pairs == []

    run(test)


@pytest.mark.parametrize(("reason", "what"), [("draining", "failed"), ("late", "late")])
def test_one_that_a_replica_does_not_take_is_not_sent_again(run: Any, reason: str, what: str) -> None:
    async def test(shadowed: Shadowed) -> None:
        call = await shadowed.copy()
        shadowed.world.receive("s1", Refusal(call.id, reason))
        await asyncio.sleep(0)
        assert shadowed.counted == {"sent": 1, what: 1}
        assert len(shadowed.world.calls("s1")) == 1

    run(test)


def test_one_whose_replica_dies_makes_nobody_a_suspect(run: Any) -> None:
    async def test(shadowed: Shadowed) -> None:
        call = await shadowed.copy()
        shadowed.world.lose("s1")
        assert call
        assert shadowed.counted == {"sent": 1, "failed": 1}
        assert shadowed.world.shared.suspects.take_news() == {}
        shadowed.world.ask()
        shadowed.world.answer("r1", shadowed.world.calls("r1")[-1])
        await asyncio.sleep(0)
        assert shadowed.counted["dropped_no_replica"] == 1

    run(test)


def test_an_answer_in_pieces_is_given_up(run: Any) -> None:
    async def test(shadowed: Shadowed) -> None:
        call = await shadowed.copy()
        shadowed.world.receive("s1", Answer(call.id, 200, b"", b"first", 0, 0, False, 100, True))
        assert shadowed.counted == {"sent": 1, "failed": 1}
        assert shadowed.world.cancels("s1") == [call.id]
        shadowed.world.receive("s1", End(call.id, complete=False, queue_length=0, service_us=1))
        assert shadowed.world.replica("s1").outstanding == 0

    run(test)


def test_errors_are_no_evidence_against_its_replica(run: Any) -> None:
    async def test(shadowed: Shadowed) -> None:
        for _ in range(20):
            shadowed.world.answer("s1", await shadowed.copy(), b"", status=500, failed=True)
        assert shadowed.world.replica("s1").tally[1] == 0
        assert shadowed.counted == {"sent": 20, "answered": 20}

    run(test)


def test_pairs_are_bounded_by_the_second(run: Any) -> None:
    async def test(shadowed: Shadowed) -> None:
        shadowed.controller_is_there = False
        shadowed.world.answer("s1", await shadowed.copy(), b"new")
        assert shadowed.counted["dropped_no_controller"] == 1
        shadowed.controller_is_there = True
        pairs = 2 * MOST_PAIRS_BYTES // 60_000
        for _ in range(pairs):
            shadowed.world.answer("s1", await shadowed.copy(), b"x" * 60_000)
        told, left_out = len(shadowed.pairs), shadowed.counted.get("dropped_too_many_pairs", 0)
        assert told + left_out == pairs
        assert left_out > 0

    run(test)


def test_a_shadow_that_changes_keeps_the_policy_and_one_that_is_stopped_leaves_no_step(run: Any, world: Any) -> None:
    async def test(shadowed: Shadowed) -> None:
        policy, endpoint = world.policy(), world.router.endpoints["e"]
        assert "dispatch" in vars(endpoint)
        call = await shadowed.copy()
        world.apply(world.endpoint(shadow=ShadowEntry("s", 0.5, number=2)))
        world.apply(world.endpoint())
        assert world.router.endpoints["e"] is endpoint
        assert world.policy() is policy
        assert (policy.weights, policy.closed) == ([{"b": 1.0}], 0)
        assert "dispatch" not in vars(endpoint)
        world.answer("s1", call, b"new")
        assert shadowed.pairs == []
        world.ask()
        world.answer("r1", world.calls("r1")[-1])
        await asyncio.sleep(0)
        assert len(world.calls("s1")) == 1

    run(test)


def test_a_shadow_and_traffic_may_change_at_once(run: Any, world: Any) -> None:
    async def test(shadowed: Shadowed) -> None:
        policy = world.policy()
        world.apply(world.backend("a", ["a1"]), world.endpoint(weights={"a": 1.0}, timeout_s=60.0))
        assert world.policy() is policy
        assert policy.weights == [{"b": 1.0}, {"a": 1.0}]
        assert "dispatch" not in vars(world.router.endpoints["e"])

    run(test)


def test_a_live_client_that_goes_away_has_no_copy(run: Any, world: Any) -> None:
    async def test(shadowed: Shadowed) -> None:
        world.leave(world.ask())
        world.answer("r1", world.calls("r1")[-1])
        await asyncio.sleep(0)
        assert world.calls("s1") == []
        assert shadowed.counted == {}

    run(test)


def test_a_request_that_is_sent_again_is_copied_once(run: Any, world: Any) -> None:
    async def test(shadowed: Shadowed) -> None:
        world.apply(world.backend("b", ["r1", "r2"]))
        asked = world.ask()
        world.lose("r1")
        world.answer("r2", world.calls("r2")[-1], b"live")
        assert asked.status == 200
        await asyncio.sleep(0)
        (call,) = world.calls("s1")
        world.answer("s1", call)
        assert shadowed.counted == {"sent": 1, "answered": 1}

    run(test)


def test_repeats_go_where_a_slot_is_left(run: Any, world: Any) -> None:
    async def test(shadowed: Shadowed) -> None:
        world.apply(world.backend("b", ["r1"], max_concurrent_queries=2))
        waits = world.ask()
        answered = world.ask()
        world.answer("r1", world.calls("r1")[1], b"live")
        await asyncio.sleep(0)
        assert answered.status == 200
        assert shadowed.counted["dropped_no_room"] == 1
        world.answer("s1", world.calls("s1")[-1], b"live")
        world.answer("r1", world.calls("r1")[0], b"live")
        await asyncio.sleep(0)
        assert waits.status == 200
        copies = [call for call in world.calls("r1") if call.request.shadow]
        assert [call.request.id.rpartition("~")[2] for call in copies] == ["repeat"]
        world.answer("s1", world.calls("s1")[-1], b"live")
        world.answer("r1", copies[0], b"live")
        assert [pair.repeat for pair in shadowed.pairs] == [False, False, True]

    run(test, ShadowEntry("s", 1.0, noise=1.0, number=1))


def test_a_backend_with_live_requests_loses_one_slot_at_most(run: Any, world: Any) -> None:
    async def test(shadowed: Shadowed) -> None:
        world.apply(
            world.backend("s", ["s2"], max_concurrent_queries=8), world.endpoint("other", route="/y", weights={"s": 1})
        )
        shadowed.replica = "s2"
        late = await shadowed.copy()
        world.loop.advance(11)
        for _ in range(3):
            await shadowed.copy()
        assert shadowed.counted == {"sent": 1, "late": 1, "dropped_after_late": 3}
        world.loop.advance(10_000)
        await shadowed.copy()
        assert len(world.calls("s2")) == 1, "its handler still runs"
        assert shadowed.counted["dropped_no_room"] == 1
        world.answer("s2", late)
        again = await shadowed.copy()
        assert again is not late
        world.answer("s2", again, b"new")
        assert shadowed.counted["answered"] == 1

    run(test)


def test_a_copy_that_is_answered_too_late_ends_no_pause(run: Any, world: Any) -> None:
    async def test(shadowed: Shadowed) -> None:
        world.apply(world.endpoint("other", route="/y", weights={"s": 1}))
        late = await shadowed.copy()
        world.loop.advance(11)
        world.answer("s1", late)
        await shadowed.copy()
        assert shadowed.counted == {"sent": 1, "late": 1, "dropped_after_late": 1}

    run(test)


def test_copies_that_hang_are_bounded_at_a_backend_of_their_own(run: Any, world: Any) -> None:
    async def test(shadowed: Shadowed) -> None:
        world.apply(world.backend("s", ["s2"], max_concurrent_queries=20))
        shadowed.replica = "s2"
        for _ in range(MOST_IN_FLIGHT + 3):
            await shadowed.copy()
            world.loop.advance(11)
        assert shadowed.counted == {"sent": MOST_IN_FLIGHT, "late": MOST_IN_FLIGHT, "dropped_no_room": 3}
        world.lose("s2")

    run(test)

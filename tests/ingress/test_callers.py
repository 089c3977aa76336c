"""Calls of handles in the ingress: routed as requests are, and answered in frames."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from servekit.ingress.callers import Callers
from servekit.interfaces import Outcome
from servekit.traces import trace_id_of
from servekit.wire.data_frames import (
    PIECE_BYTES,
    UNKNOWN,
    Answer,
    Bye,
    Call,
    Cancel,
    Chunk,
    Credit,
    End,
    Invoke,
    Refusal,
)
from servekit.wire.data_links import DataLinks
from servekit.wire.incoming_calls import IncomingLink

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


class HandleLink:
    """The ingress's end of a handle's link."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.aborted = False
        self.lost = asyncio.Event()

    def send(self, frame: Any) -> None:
        self.sent.append(frame)

    def fail(self, error: Exception) -> None:
        self.aborted = True

    def finish(self) -> None:
        self.lost.set()

    async def wait_lost(self) -> None:
        await self.lost.wait()

    def of(self, kind: type) -> list[Any]:
        return [frame for frame in self.sent if type(frame) is kind]


class Dialled:
    """A caller that has dialled the world's ingress."""

    def __init__(self, world: Any) -> None:
        self.callers = Callers(world.router, DataLinks(bytes(32), "ingress1"))
        self.owner = IncomingLink(self.callers.calls, self.callers, Invoke)
        self.link = HandleLink()
        link: Any = self.link
        self.owner.link_opened(link)

    def receive(self, *frames: Any) -> None:
        link: Any = self.link
        for frame in frames:
            self.owner.frame_received(link, frame)
        self.owner.frames_done(link)

    def lose(self) -> None:
        link: Any = self.link
        self.owner.link_lost(link, None)

    @property
    def answers(self) -> list[Answer]:
        return self.link.of(Answer)


@pytest.fixture
def served(world: Any) -> Any:
    world.apply(world.backend(), world.endpoint(methods=("GET",), timeout_s=2.0))
    return world


@pytest.fixture
def dialled(served: Any) -> Dialled:
    return Dialled(served)


def test_a_call_reaches_a_replica_as_a_request_of_its_own_kind(served: Any, dialled: Dialled) -> None:
    dialled.receive(Invoke(7, "e", b"pickled", chain=("r9",), request_id="mine", method="any_method"))
    call = served.calls("r1")[0]
    request = call.request
    assert (request.method, request.path, request.endpoint, request.body) == ("POST", "/x", "e", b"pickled")
    assert (request.chain, request.id, request.call_method) == (("r9",), "mine", "any_method")
    assert request.headers == [(b"x-request-id", b"mine")]
    assert 1900 < call.timeout_ms <= 2001
    served.answer("r1", call, b"result")
    assert [(answer.id, answer.status, answer.body) for answer in dialled.answers] == [(7, 200, b"result")]
    assert b"x-request-id: mine\r\n" in dialled.answers[0].head
    assert not dialled.owner.open


def test_an_http_request_has_no_chain_and_a_call_of_a_script_an_empty_one(served: Any, dialled: Dialled) -> None:
    served.ask()
    dialled.receive(Invoke(1, "e", b""))
    assert [call.request.chain for call in served.calls("r1")] == [None, ()]


def test_an_endpoint_without_a_route_is_reached(world: Any) -> None:
    world.apply(world.backend(), world.endpoint(route=None))
    dialled = Dialled(world)
    dialled.receive(Invoke(1, "e", b""))
    assert world.calls("r1")[0].request.path == "/"


def test_calls_are_counted_and_observed_like_requests(served: Any, dialled: Dialled) -> None:
    dialled.receive(Invoke(1, "e", b"", request_id="id"))
    served.answer("r1", served.calls("r1")[0], status=500, failed=True)
    assert [(record.id, record.method, record.status) for record in served.records] == [("id", "POST", 500)]
    assert list(served.counted) == [("e", "b", "POST", 500, "handler_failed")]
    assert served.policy().finished == [("id", "r1", Outcome.FAILED)]


def test_a_call_is_a_child_of_the_call_that_it_is_made_in(served: Any, dialled: Dialled) -> None:
    made_in = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
    passed_on = ((b"traceparent", made_in.encode()), (b"baggage", b"u=7"))
    served.shared.trace_share = 1.0
    dialled.receive(Invoke(1, "e", b"", chain=("r9",), headers=passed_on), Invoke(2, "e", b"", chain=("r9",)))
    dialled.receive(Invoke(3, "e", b""))
    for number in range(3):  # The third waits for room.
        served.answer("r1", served.calls("r1")[number])
    child, without, first = served.records
    assert (child.by_handle, child.parent, trace_id_of(child.trace)) == (True, "00f067aa0ba902b7", TRACE_ID)
    assert served.calls("r1")[0].request.headers[1:] == [(b"traceparent", child.trace.encode()), passed_on[1]]
    assert without.trace == "", "the call that it is made in has decided that"
    assert (first.parent, first.trace[-2:]) == ("", "03")


@pytest.mark.parametrize("given", ["", "x" * 200, "a\nb", "ü"])
def test_a_request_id_that_is_not_fit_is_replaced(served: Any, dialled: Dialled, given: str) -> None:
    dialled.receive(Invoke(1, "e", b"", request_id=given))
    made = served.calls("r1")[0].request.id
    assert made != given
    assert made.isascii()


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_an_unknown_endpoint(served: Any, dialled: Dialled) -> None:
    dialled.receive(Invoke(1, "f", b""))
    assert dialled.answers[0].status == 404
    assert b"no endpoint 'f'" in dialled.answers[0].body
    assert b"Known: e" in dialled.answers[0].body
    assert not dialled.owner.open


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 2.0),
        ({"timeout_ms": 500}, 0.5),
        ({"timeout_ms": 5000}, 5.0),
        ({"limit_ms": 700}, 0.7),
        ({"timeout_ms": 5000, "limit_ms": 700}, 0.7),
        ({"timeout_ms": 500, "limit_ms": 700}, 0.5),
        ({"limit_ms": 7000}, 2.0),
    ],
)
def test_a_call_has_its_own_time_and_never_more_than_its_caller(
    served: Any, dialled: Dialled, fields: dict[str, int], seconds: float
) -> None:
    dialled.receive(Invoke(1, "e", b"", **fields))
    served.loop.advance(seconds - 0.05)
    assert not dialled.answers
    served.loop.advance(0.15)
    assert dialled.answers[0].status == 504
    assert f"{seconds:g} s".encode() in dialled.answers[0].body
    assert served.cancels("r1") == [1]


def test_a_replica_that_dies_with_a_call_is_an_error_unless_nothing_was_sent(world: Any) -> None:
    world.apply(world.backend("b", ["r1", "r2"]), world.endpoint())
    dialled = Dialled(world)
    dialled.receive(Invoke(1, "e", b""))
    dialled.receive(Invoke(2, "e", b""))
    first, second = world.calls("r1")
    world.lose("r1", unsent=[second])
    assert [(answer.id, answer.status) for answer in dialled.answers] == [(1, 502)]
    world.answer("r2", world.calls("r2")[0])
    assert [(answer.id, answer.status) for answer in dialled.answers] == [(1, 502), (2, 200)]
    assert first.id != second.id


# -- the caller goes away ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["cancel", "broken off", "link lost"])
def test_a_caller_that_goes_away(served: Any, dialled: Dialled, way: str) -> None:
    dialled.receive(Invoke(1, "e", b""))
    if way == "cancel":
        dialled.receive(Cancel(1))
    elif way == "broken off":
        dialled.receive(End(1, complete=False))
    else:
        dialled.lose()
    assert served.cancels("r1") == [1]
    assert served.records[0].status == 499
    served.answer("r1", served.calls("r1")[0])
    assert not dialled.answers
    assert not dialled.owner.open


# -- long bodies -------------------------------------------------------------------------------------------------------


def test_long_arguments_wait_for_a_window_and_go_on_with_credit(served: Any, dialled: Dialled) -> None:
    first = b"f" * PIECE_BYTES
    dialled.receive(Invoke(1, "e", first, more=True))
    for _ in range(3):
        dialled.receive(Chunk(1, bytes(PIECE_BYTES)))
    assert not served.calls("r1")
    dialled.receive(Chunk(1, bytes(PIECE_BYTES)))
    call = served.calls("r1")[0]
    assert call.more
    assert call.request.body == first
    assert len(served.link("r1").of(Chunk)) == 4
    assert sum(frame.size_bytes for frame in dialled.link.of(Credit)) == 3 * PIECE_BYTES, "the fourth has just gone on"
    for _ in range(4):
        dialled.receive(Chunk(1, bytes(PIECE_BYTES)))
    assert len(served.link("r1").of(Chunk)) == 4, "the replica has granted nothing"
    assert sum(frame.size_bytes for frame in dialled.link.of(Credit)) == 3 * PIECE_BYTES
    served.receive("r1", Credit(call.id, 2 * PIECE_BYTES))
    assert len(served.link("r1").of(Chunk)) == 6
    assert sum(frame.size_bytes for frame in dialled.link.of(Credit)) == 5 * PIECE_BYTES
    dialled.receive(End(1))
    served.receive("r1", Credit(call.id, 2 * PIECE_BYTES))
    assert served.link("r1").of(End)
    served.answer("r1", call)
    assert dialled.answers[0].status == 200


def test_short_arguments_in_pieces_are_sent_at_their_end(served: Any, dialled: Dialled) -> None:
    dialled.receive(Invoke(1, "e", b"first", more=True), Chunk(1, b"second"))
    assert not served.calls("r1")
    dialled.receive(End(1))
    assert served.calls("r1")[0].request.body == b"first"
    assert [chunk.data for chunk in served.link("r1").of(Chunk)] == [b"second"]


def test_a_peer_that_minds_no_credit_is_cut(served: Any, dialled: Dialled) -> None:
    dialled.receive(Invoke(1, "e", b"first", more=True))
    for _ in range(13):
        dialled.receive(Chunk(1, bytes(PIECE_BYTES)))
    assert dialled.link.aborted


def begin(world: Any, call: Call, first: bytes) -> None:
    world.receive("r1", Answer(call.id, 200, b"content-type: x\r\n", first, 0, 0, False, UNKNOWN, True))


def test_an_answer_in_pieces_goes_on_as_the_caller_reads(served: Any, dialled: Dialled) -> None:
    dialled.receive(Invoke(5, "e", b""))
    call = served.calls("r1")[0]
    begin(served, call, b"first")
    head = dialled.answers[0]
    assert (head.id, head.body, head.rest, head.running) == (5, b"", UNKNOWN, True)
    for _ in range(4):
        served.receive("r1", Chunk(call.id, bytes(PIECE_BYTES)))
    granted = sum(frame.size_bytes for frame in served.link("r1").of(Credit))
    assert granted < 5 + 4 * PIECE_BYTES, "the caller has read nothing"
    dialled.receive(Credit(5, 3 * PIECE_BYTES))
    assert sum(frame.size_bytes for frame in served.link("r1").of(Credit)) == 5 + 4 * PIECE_BYTES
    served.loop.advance(10.0)
    served.receive("r1", End(call.id))
    assert b"".join(chunk.data for chunk in dialled.link.of(Chunk)) == b"first" + bytes(4 * PIECE_BYTES)
    assert [(end.id, end.complete) for end in dialled.link.of(End)] == [(5, True)]
    assert not dialled.owner.open


@pytest.mark.parametrize("dies", [True, False])
def test_an_answer_that_is_broken_off_is_said_so(served: Any, dialled: Dialled, dies: bool) -> None:
    dialled.receive(Invoke(5, "e", b""))
    call = served.calls("r1")[0]
    begin(served, call, b"first")
    if dies:
        served.lose("r1")
    else:
        served.receive("r1", End(call.id, complete=False))
    assert [(end.id, end.complete) for end in dialled.link.of(End)] == [(5, False)]


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_worker_that_leaves_takes_only_what_handlers_call_and_waits_for_it(served: Any, dialled: Dialled) -> None:
    async def leave() -> None:
        dialled.receive(Invoke(1, "e", b""))
        dialled.callers.calls.leave()
        assert len(dialled.link.of(Bye)) == 1
        dialled.receive(Invoke(2, "e", b""), Invoke(3, "e", b"", chain=("r1", "r7")))
        assert [(frame.id, frame.reason) for frame in dialled.link.of(Refusal)] == [(2, "draining")]
        draining = asyncio.ensure_future(dialled.callers.drain(10.0))
        for call in served.calls("r1"):
            await asyncio.sleep(0)
            assert not draining.done()
            served.answer("r1", call)
        await asyncio.wait_for(draining, 10.0)
        assert not dialled.link.lost.is_set()
        await asyncio.wait_for(dialled.callers.calls.finish(), 10.0)
        assert dialled.link.lost.is_set()
        assert [bye.last for bye in dialled.link.of(Bye)] == [False, True]
        dialled.receive(Invoke(4, "e", b"", chain=("r1", "r7")))
        assert len(served.calls("r1")) == 2, "its caller will look elsewhere"

    served.apply(served.backend(replicas=["r1"], max_concurrent_queries=4), served.endpoint())
    served.replica("r1").slots = 4
    asyncio.run(leave())
    assert [answer.id for answer in dialled.answers] == [1, 3]


def test_draining_is_bounded(served: Any, dialled: Dialled, caplog: pytest.LogCaptureFixture) -> None:
    async def leave() -> None:
        dialled.receive(Invoke(1, "e", b""))
        dialled.callers.calls.leave()
        await asyncio.wait_for(dialled.callers.drain(0.01), 10.0)
        finishing = asyncio.ensure_future(dialled.callers.calls.finish())
        await asyncio.sleep(0)
        finishing.cancel()
        assert dialled.link.lost.is_set()
        assert not any(bye.last for bye in dialled.link.of(Bye)), "it was begun, and is not to be begun elsewhere"

    asyncio.run(leave())
    assert "1 calls of handles are cut off" in caplog.text


def test_a_link_that_opens_meanwhile_is_told(served: Any, dialled: Dialled) -> None:
    dialled.callers.calls.leave()
    late = IncomingLink(dialled.callers.calls, dialled.callers, Invoke)
    link: Any = HandleLink()
    late.link_opened(link)
    assert [bye.last for bye in link.of(Bye)] == [False]
    asyncio.run(dialled.callers.calls.finish())
    last: Any = HandleLink()
    IncomingLink(dialled.callers.calls, dialled.callers, Invoke).link_opened(last)
    assert [bye.last for bye in last.of(Bye)] == [True]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("how", ["cancel", "lost", "late"])
def test_a_call_that_is_given_up_while_its_arguments_arrive_is_not_begun(world: Any, how: str, whole: bool) -> None:
    world.apply(world.backend(streams_bodies=not whole), world.endpoint(timeout_s=2.0))
    dialled = Dialled(world)
    dialled.receive(Invoke(1, "e", bytes(PIECE_BYTES), True))
    if whole:
        dialled.receive(*[Chunk(1, bytes(PIECE_BYTES)) for _ in range(4)])
    if how == "cancel":
        dialled.receive(Cancel(1))
    elif how == "lost":
        dialled.lose()
    else:
        world.loop.advance(3.0)
    assert not world.calls("r1")
    assert [record.status for record in world.records] == [504 if how == "late" else 499]

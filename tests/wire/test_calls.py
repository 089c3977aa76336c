"""Calls over a real link: the end that makes them, and the end that answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from tests.support.waiting import until_async

from servekit.interfaces import Request
from servekit.wire.data_frames import PIECE_BYTES, UNKNOWN, Answer, Call, Credit, End, Load, Refusal
from servekit.wire.data_links import DataLinks
from servekit.wire.incoming_calls import IncomingCalls, IncomingLink
from servekit.wire.network import connect, listen
from servekit.wire.outgoing_calls import OutgoingCalls
from servekit.wire.streams import Incoming, Outgoing, WholeBody

TOKEN = bytes(32)


class Asked:
    """A call, at the end that made it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.number = 0
        self.upload: Outgoing | None = None
        self.download: Incoming | None = None


class Maker:
    """Makes calls, and writes down what it hears of them."""

    def __init__(self) -> None:
        self.calls: OutgoingCalls[Asked] = OutgoingCalls(self)
        self.heard: list[Any] = []
        self.wanted = True

    def call(self, name: str, body: bytes = b"") -> Asked:
        asked = Asked(name)
        request = Request("POST", "/", b"", [], body[:PIECE_BYTES], "e", "/", name, "")
        more = len(body) > PIECE_BYTES
        self.calls.begin(asked, Call(0, 1000, request, more))
        if more:
            self.calls.upload(asked).follow(WholeBody(body[PIECE_BYTES:]))
        return asked

    def link_opened(self) -> None:
        self.heard.append("opened")

    def link_writable(self) -> None: ...

    def answered(self, call: Asked, answer: Answer) -> None:
        self.heard.append((call.name, answer.body))

    def begun(self, call: Asked, answer: Answer) -> None:
        self.heard.append((call.name, "begun"))

    def ended(self, call: Asked, end: End) -> None:
        assert call.download is not None
        call.download.end()
        self.heard.append((call.name, "ended", end.complete))

    def refused(self, call: Asked, reason: str) -> None:
        self.heard.append((call.name, reason))

    def answers_done(self) -> None: ...

    def load_told(self, queue_length: int) -> None:
        self.heard.append(queue_length)

    def peer_leaves(self) -> None:
        self.heard.append("leaves")

    def lost(self, calls: Sequence[tuple[Asked, bool]]) -> None:
        self.heard.append([(call.name, sent) for call, sent in calls])


class Taken:
    """A call, at the end that answers."""

    def __init__(self, origin: IncomingLink[Taken], frame: Call) -> None:
        self.origin = origin
        self.number = frame.id
        self.name = frame.request.id
        self.body = frame.request.body
        self.download: Outgoing | None = None
        link, number = origin.link, frame.id
        self.upload = Incoming(lambda size: link.send(Credit(number, size)), self.body) if frame.more else None


class Answerer:
    def __init__(self) -> None:
        self.calls: IncomingCalls[Taken] = IncomingCalls(self, DataLinks(TOKEN, "answers"), Call)
        self.taken: dict[str, Taken] = {}
        self.cancels: list[str] = []

    def called(self, origin: IncomingLink[Taken], frame: Any) -> None:
        call = Taken(origin, frame)
        origin.open[call.number] = self.taken[call.name] = call

    def cancelled(self, call: Taken) -> None:
        self.cancels.append(call.name)

    def calls_done(self) -> None: ...

    def answer(self, name: str, body: bytes = b"ok") -> None:
        call = self.taken[name]
        del call.origin.open[call.number]
        call.origin.link.send(Answer(call.number, 200, b"", body, 0, 0))
        self.calls.check()


class Pair:
    """The two ends, and a link that is kept dialled."""

    async def __aenter__(self) -> Pair:
        self.maker, self.answerer = Maker(), Answerer()
        self.listener = await listen("tcp:127.0.0.1:0", self.answerer.calls.new_link)
        self.task = asyncio.ensure_future(
            self.maker.calls.keep_linked(
                DataLinks(TOKEN, "makes"),
                lambda: [self.listener.address],
                wanted=lambda: self.maker.wanted,
                tried=lambda error: None,
            )
        )
        await until_async(lambda: self.maker.calls.link is not None)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.maker.wanted = False
        self.listener.close()
        self.answerer.calls.abort()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def run(test: Callable[[Pair], Coroutine[Any, Any, None]]) -> None:
    async def within() -> None:
        async with Pair() as pair:
            await test(pair)

    asyncio.run(asyncio.wait_for(within(), 20))


def test_calls_are_answered_in_whatever_order() -> None:
    async def test(pair: Pair) -> None:
        for name in "ab":
            pair.maker.call(name)
        await until_async(lambda: len(pair.answerer.taken) == 2)
        pair.answerer.answer("b", b"B")
        pair.answerer.answer("a", b"A")
        await until_async(lambda: len(pair.maker.heard) == 3)
        assert pair.maker.heard == ["opened", ("b", b"B"), ("a", b"A")]
        assert not pair.maker.calls.pending
        assert list(pair.answerer.calls) == []

    run(test)


def test_bodies_go_both_ways_in_pieces() -> None:
    async def test(pair: Pair) -> None:
        body = bytes(range(256)) * 8192  # 2 MiB
        asked = pair.maker.call("long", body)
        await until_async(lambda: pair.answerer.taken)
        taken = pair.answerer.taken["long"]
        found = b""
        assert taken.upload is not None
        async for piece in taken.upload:
            found += piece
        assert found == body
        taken.origin.link.send(Answer(taken.number, 200, b"", b"first", 0, 0, False, UNKNOWN, True))
        taken.download = Outgoing(taken.origin.link, taken.number, 5)
        taken.download.follow(WholeBody(body))
        await until_async(lambda: asked.download is not None)
        assert asked.download is not None
        back = b""
        async for piece in asked.download:
            back += piece
        assert back == b"first" + body
        assert ("long", "ended", True) in pair.maker.heard

    run(test)


def test_cancel_stays_pending_until_the_other_end_is_done_with_it_and_forget_does_not() -> None:
    async def test(pair: Pair) -> None:
        one, two = pair.maker.call("one"), pair.maker.call("two")
        pair.maker.calls.cancel(one)
        pair.maker.calls.forget(two)
        pair.maker.calls.forget(two)
        await until_async(lambda: pair.answerer.cancels == ["one", "two"])
        assert list(pair.maker.calls.pending.values()) == [one]
        for name in ("one", "two"):
            pair.answerer.answer(name)
        await until_async(lambda: ("one", b"ok") in pair.maker.heard)
        assert ("two", b"ok") not in pair.maker.heard

    run(test)


def test_refusals_and_loads_are_told() -> None:
    async def test(pair: Pair) -> None:
        pair.maker.call("a")
        await until_async(lambda: pair.answerer.taken)
        taken = pair.answerer.taken["a"]
        del taken.origin.open[taken.number]
        taken.origin.link.send(Load(3))
        taken.origin.link.send(Refusal(taken.number, "draining"))
        await until_async(lambda: ("a", "draining") in pair.maker.heard)
        assert 3 in pair.maker.heard
        assert not pair.maker.calls.pending

    run(test)


def test_the_calls_of_a_link_that_is_lost() -> None:
    async def test(pair: Pair) -> None:
        pair.maker.call("sent")
        await until_async(lambda: pair.answerer.taken)
        link = pair.maker.calls.link
        assert link is not None
        link.abort()
        pair.maker.call("unsent")
        await until_async(lambda: [("sent", True), ("unsent", False)] in pair.maker.heard)
        await until_async(lambda: pair.answerer.cancels == ["sent"])
        await until_async(lambda: pair.maker.heard.count("opened") == 2)
        pair.maker.call("again")
        await until_async(lambda: "again" in pair.answerer.taken)

    run(test)


def test_what_crosses_the_end_has_not_been_begun() -> None:
    async def test(pair: Pair) -> None:
        pair.maker.call("answered")
        await until_async(lambda: pair.answerer.taken)
        pair.answerer.calls.leave()
        await until_async(lambda: "leaves" in pair.maker.heard)
        waiting = asyncio.ensure_future(pair.answerer.calls.wait_answered(10))
        await asyncio.sleep(0)
        assert not waiting.done()
        pair.answerer.answer("answered")
        assert await waiting == 0
        pair.maker.wanted = False
        finishing = asyncio.ensure_future(pair.answerer.calls.finish())
        await asyncio.sleep(0)
        pair.maker.call("crossing")
        await finishing
        assert ("answered", b"ok") in pair.maker.heard
        assert [("crossing", False)] in pair.maker.heard

    run(test)


def test_what_was_begun_is_not_to_be_begun_elsewhere() -> None:
    async def test(pair: Pair) -> None:
        pair.maker.call("begun")
        await until_async(lambda: pair.answerer.taken)
        pair.answerer.calls.leave()
        assert await pair.answerer.calls.wait_answered(0.01) == 1
        pair.maker.wanted = False
        await pair.answerer.calls.finish()
        assert [("begun", True)] in pair.maker.heard

    run(test)


@pytest.mark.parametrize("way", ["bye", "gone"])
def test_it_is_quiet_when_all_have_said_so_or_are_gone(way: str) -> None:
    async def test(pair: Pair) -> None:
        waiting = asyncio.ensure_future(pair.answerer.calls.wait_answered(10, quiet=True))
        await asyncio.sleep(0)
        assert not waiting.done()
        pair.maker.wanted = False
        if way == "bye":
            pair.maker.calls.leave()
        else:
            link = pair.maker.calls.link
            assert link is not None
            link.close()
        assert await waiting == 0

    run(test)


def test_a_link_that_opens_when_all_is_over_is_told() -> None:
    async def test(pair: Pair) -> None:
        pair.maker.wanted = False
        await pair.answerer.calls.finish()
        late = Maker()
        late.wanted = False
        link = DataLinks(TOKEN, "late").new(late.calls, dialing=True)
        await connect(pair.listener.address, lambda: link)
        await link.wait_lost()
        assert late.heard == ["opened", []]

    run(test)


def test_what_crosses_the_last_bye_is_not_begun() -> None:
    async def test(pair: Pair) -> None:
        pair.maker.wanted = False
        finishing = asyncio.ensure_future(pair.answerer.calls.finish())
        pair.maker.call("crosses")
        await finishing
        assert not pair.answerer.taken
        assert pair.maker.heard[1:] == [[("crosses", False)]]

    run(test)


def test_an_answer_that_comes_behind_the_end_of_its_link_is_dropped() -> None:
    async def test() -> None:
        problems: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        maker, answerer = Maker(), Answerer()
        listener = await listen("tcp:127.0.0.1:0", answerer.calls.new_link)
        link = DataLinks(TOKEN, "makes").new(maker.calls, dialing=True)
        await connect(listener.address, lambda: link)
        await link.wait_open()
        maker.call("late")
        await until_async(lambda: answerer.taken)
        listener.close()
        finishing = asyncio.ensure_future(answerer.calls.finish())
        await asyncio.sleep(0)
        answerer.answer("late")
        await finishing
        await link.wait_lost()
        assert maker.heard == ["opened", [("late", True)]]
        assert not problems

    asyncio.run(test())


def test_a_loop_that_hangs_gives_back_what_it_has_not_begun() -> None:
    """Another thread says so on its links, behind the answers that the loop has yet to send."""

    async def test(pair: Pair) -> None:
        for name in ("answered", "begun", "waits"):
            pair.maker.call(name)
        await until_async(lambda: len(pair.answerer.taken) == 3)
        pair.maker.wanted = False
        pair.answerer.answer("answered")
        begun = pair.answerer.taken["begun"]
        other = threading.Thread(target=pair.answerer.calls.break_off, args=(lambda call: call is begun,))
        other.start()
        other.join()  # This thread has the loop: it hangs.
        pair.maker.call("crossing")
        await until_async(lambda: len(pair.maker.heard) == 3)
        assert pair.maker.heard[1:] == [("answered", b"ok"), [("begun", True), ("waits", False), ("crossing", False)]]

    run(test)

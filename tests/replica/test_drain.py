from __future__ import annotations

import asyncio
from typing import Any

from servekit.wire.data_frames import Bye, Call, Cancel, Refusal
from servekit.wire.incoming_calls import IncomingLink


class Served:
    """An executor that serves until it is drained; use it inside a running loop."""

    def __init__(self, bench: Any, handler: Any = lambda request: b"ok") -> None:
        self.executor = bench.executor(handler, counts_idle=False).executor
        self.serving = asyncio.ensure_future(self._serve())
        self._bench = bench

    async def _serve(self) -> None:
        await self.executor.serve()
        await self.executor.calls.finish()

    def open(self) -> tuple[Any, Any]:
        """The replica's end of a link, and who is told what comes by it."""
        link = self._bench.link()
        origin = IncomingLink(self.executor.calls, self.executor, Call)
        origin.link_opened(link)
        return link, origin

    async def ended(self) -> bool:
        for _ in range(20):
            await asyncio.sleep(0)
        return self.serving.done()


def test_calls_are_answered_and_cancels_are_read_first(bench: Any) -> None:
    async def test() -> None:
        served = Served(bench)
        link, origin = served.open()
        for number in (1, 2):
            origin.frame_received(link, bench.call(number))
        origin.frame_received(link, Cancel(1))
        origin.frames_done(link)
        assert link.frames[0] == Refusal(1, "cancelled")
        assert link.answers == [b"ok"]
        served.serving.cancel()

    bench.run(test)


def test_a_drain_waits_for_the_bye_of_every_link(bench: Any) -> None:
    async def test() -> None:
        served = Served(bench)
        (one, from_one), (other, from_other) = served.open(), served.open()
        served.executor.drain(60)
        assert not await served.ended()
        from_one.frame_received(one, Bye())
        from_one.frames_done(one)
        assert not await served.ended()
        from_other.frame_received(other, bench.call(1))
        from_other.frame_received(other, Bye())
        assert not await served.ended()
        from_other.frames_done(other)
        assert await served.ended()
        assert other.answers == [b"ok"]
        assert one.closed
        assert other.closed

    bench.run(test)


def test_a_link_that_is_lost_has_said_all(bench: Any) -> None:
    async def test() -> None:
        served = Served(bench)
        link, origin = served.open()
        served.executor.drain(60)
        origin.link_lost(link, None)
        assert await served.ended()

    bench.run(test)


def test_with_no_link_there_is_nothing_to_wait_for(bench: Any) -> None:
    async def test() -> None:
        served = Served(bench)
        served.executor.drain(60)
        assert await served.ended()

    bench.run(test)


def test_a_drain_is_bounded(bench: Any, caplog: Any) -> None:
    async def test() -> None:
        served = Served(bench)
        link, origin = served.open()
        origin.frame_received(link, bench.call(1))
        served.executor.drain(0.0)
        await asyncio.wait_for(served.serving, 10)
        assert "1 calls are cut off" in caplog.text

    bench.run(test)


def test_a_replica_that_leaves_asks_for_no_more_and_gives_back_what_waits(bench: Any) -> None:
    async def test() -> None:
        served = Served(bench)
        link, origin = served.open()
        origin.frame_received(link, bench.call(1))
        served.executor.leave(60)
        assert link.frames == [Bye(), Refusal(1, "draining")]
        # What was on its way is answered all the same.
        origin.frame_received(link, bench.call(2))
        origin.frames_done(link)
        assert link.answers == [b"ok"]
        assert not await served.ended()
        origin.frame_received(link, Bye())
        origin.frames_done(link)
        assert await served.ended()

    bench.run(test)


def test_a_link_that_opens_while_draining_is_asked_for_nothing(bench: Any) -> None:
    async def test() -> None:
        served = Served(bench)
        first, from_first = served.open()
        served.executor.drain(60)
        late, from_late = served.open()
        assert late.frames == [Bye()]
        from_first.link_lost(first, None)
        assert not await served.ended()
        from_late.link_lost(late, None)
        assert await served.ended()

    bench.run(test)

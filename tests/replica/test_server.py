from __future__ import annotations

import asyncio
from typing import Any

from servekit.replica.server import DataServer
from servekit.wire.data_frames import Bye, Cancel, Refusal


class Served:
    """A server and its executor; use it inside a running loop."""

    def __init__(self, bench: Any, handler: Any = lambda request: b"ok") -> None:
        self.server = DataServer(bytes(32), b"r1", 0.0)
        self.server.executor = bench.executor(handler, self.server.check_drained)
        self.serving = asyncio.ensure_future(self._serve())
        self._bench = bench

    async def _serve(self) -> None:
        await self.server.serve()
        await self.server.finish()

    def open(self) -> Any:
        link = self._bench.link()
        self.server.link_opened(link)
        return link

    async def ended(self) -> bool:
        for _ in range(20):
            await asyncio.sleep(0)
        return self.serving.done()


def test_calls_are_answered_and_cancels_are_read_first(bench: Any) -> None:
    async def test() -> None:
        served = Served(bench)
        link = served.open()
        for number in (1, 2):
            served.server.frame_received(link, bench.call(number))
        served.server.frame_received(link, Cancel(1))
        served.server.frames_done(link)
        assert link.frames[0] == Refusal(1, "cancelled")
        assert link.answers == [b"ok"]
        served.serving.cancel()

    bench.run(test)


def test_a_drain_waits_for_the_bye_of_every_link(bench: Any) -> None:
    async def test() -> None:
        served = Served(bench)
        one, other = served.open(), served.open()
        served.server.drain(60)
        assert not await served.ended()
        served.server.frame_received(one, Bye())
        served.server.frames_done(one)
        assert not await served.ended()
        served.server.frame_received(other, bench.call(1))
        served.server.frame_received(other, Bye())
        assert not await served.ended()
        served.server.frames_done(other)
        assert await served.ended()
        assert other.answers == [b"ok"]
        assert one.closed
        assert other.closed

    bench.run(test)


def test_a_link_that_is_lost_has_said_all(bench: Any) -> None:
    async def test() -> None:
        served = Served(bench)
        link = served.open()
        served.server.drain(60)
        served.server.link_lost(link, None)
        assert await served.ended()

    bench.run(test)


def test_with_no_link_there_is_nothing_to_wait_for(bench: Any) -> None:
    async def test() -> None:
        served = Served(bench)
        served.server.drain(60)
        assert await served.ended()

    bench.run(test)


def test_a_drain_is_bounded(bench: Any, caplog: Any) -> None:
    async def test() -> None:
        served = Served(bench)
        link = served.open()
        served.server.frame_received(link, bench.call(1))
        served.server.drain(0.0)
        await asyncio.wait_for(served.serving, 10)
        assert "1 calls are cut off" in caplog.text

    bench.run(test)


def test_a_replica_that_leaves_asks_for_no_more_and_gives_back_what_waits(bench: Any) -> None:
    async def test() -> None:
        served = Served(bench)
        link = served.open()
        served.server.frame_received(link, bench.call(1))
        served.server.leave(60)
        assert link.frames == [Bye(), Refusal(1, "draining")]
        # What was on its way is answered all the same.
        served.server.frame_received(link, bench.call(2))
        served.server.frames_done(link)
        assert link.answers == [b"ok"]
        assert not await served.ended()
        served.server.frame_received(link, Bye())
        served.server.frames_done(link)
        assert await served.ended()

    bench.run(test)


def test_a_link_that_opens_while_draining_is_asked_for_nothing(bench: Any) -> None:
    async def test() -> None:
        served = Served(bench)
        first = served.open()
        served.server.drain(60)
        late = served.open()
        assert late.frames == [Bye()]
        served.server.link_lost(first, None)
        assert not await served.ended()
        served.server.link_lost(late, None)
        assert await served.ended()

    bench.run(test)

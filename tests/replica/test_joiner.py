"""Pieces that come thick and fast leave together; the first, and one that comes alone, at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from servekit.interfaces import RequestAdapter, Response
from servekit.replica import joiner
from servekit.wire.data_frames import BODY_WINDOW_BYTES, Answer, Chunk, End

LONG_S = 3600.0


def frames(link: Any) -> list[bytes]:
    return [bytes(frame.data) for frame in link.frames if type(frame) is Chunk]


def ended(link: Any) -> bool:
    return any(type(frame) is End for frame in link.frames)


def handler(body: Any) -> Any:
    return lambda request: Response(200, [], body)


async def pieces(*made: bytes) -> AsyncIterator[bytes]:
    for piece in made:
        await asyncio.sleep(0)
        yield piece


def submit(bench: Any, body: Any) -> Any:
    executor, link = bench.executor(handler(body), slots=2), bench.link()  # On the main thread nothing is joined.
    executor.submit(link, bench.call(1))
    executor.run()
    return link


@pytest.mark.parametrize("body", [lambda *made: iter(made), pieces], ids=["iterator", "async iterator"])
def test_what_follows_at_once_leaves_together(bench: Any, monkeypatch: pytest.MonkeyPatch, body: Any) -> None:
    monkeypatch.setattr(joiner, "JOIN_S", LONG_S)  # so that only the end has it leave

    async def test() -> None:
        link = submit(bench, body(b"one", b"two", b"three", b"four"))
        await bench.until(lambda: ended(link))
        (answer,) = (frame for frame in link.frames if type(frame) is Answer)
        assert answer.body == b"one"
        assert b"".join(frames(link)) == b"twothreefour"
        assert len(frames(link)) <= 2
        assert type(link.frames[-1]) is End

    bench.run(test)


def test_what_has_gathered_leaves_in_time_though_nothing_follows(bench: Any) -> None:
    gate = threading.Event()

    def made() -> Iterator[bytes]:
        yield from (b"one", b"two", b"three")
        gate.wait(10)

    async def test() -> None:
        link = submit(bench, made())
        await bench.until(lambda: b"".join(frames(link)) == b"twothree")
        assert not ended(link)
        gate.set()
        await bench.until(lambda: ended(link))

    bench.run(test)


def test_a_piece_that_comes_alone_waits_for_nothing(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time as well: what had left before it has been forgotten by then."""
    ticks = []
    tick = joiner.Joiner._tick
    monkeypatch.setattr(joiner.Joiner, "_tick", lambda self: ticks.append(tick(self)))

    async def test() -> None:
        gates = [asyncio.Event() for _ in range(3)]

        async def made() -> AsyncIterator[bytes]:
            yield b"first"
            for gate in gates:
                await gate.wait()
                yield b"alone"

        link = submit(bench, made())
        for count, gate in enumerate(gates):
            before = len(ticks)
            gate.set()
            await bench.until(lambda count=count: len(frames(link)) == count + 1)
            await bench.until(lambda before=before: len(ticks) > before)  # it joins no more: nothing had gathered
        await bench.until(lambda: ended(link))
        assert frames(link) == [b"alone"] * 3

    bench.run(test)


def test_an_answer_leaves_the_joiner_when_nothing_had_gathered(bench: Any) -> None:
    class Gathers:
        def __init__(self, times: int) -> None:
            self.times = times
            self.left = 0

        def leave(self) -> bool:
            self.left += 1
            return self.left < self.times

    async def test() -> None:
        joins = joiner.Joiner(asyncio.get_running_loop())
        short, long = Gathers(2), Gathers(5)
        joins.add(short)
        joins.add(long)
        await bench.until(lambda: long.left == 5)
        assert short.left == 2
        again = Gathers(3)
        joins.add(again)
        await bench.until(lambda: again.left == 3)
        assert (short.left, long.left) == (2, 5)

    bench.run(test)


def test_what_a_web_socket_says_does_not_wait(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joiner, "JOIN_S", LONG_S)
    open_to = asyncio.Event()

    async def said() -> AsyncIterator[bytes]:
        async for piece in pieces(b"one", b"two", b"three"):
            yield piece
        await open_to.wait()

    class Talks(RequestAdapter):
        is_async = True

        def decode(self, request: Any) -> Any:
            raise NotImplementedError

        def encode(self, result: Any) -> Response:
            raise NotImplementedError

        async def call_async(self, handler: Any, request: Any) -> Response:
            return Response(101, [], said())

    async def test() -> None:
        executor, link = bench.executor(handler(b""), adapter=Talks()), bench.link()
        executor.submit(link, bench.call(1, upgrade=True, more=True))
        executor.run()
        await bench.until(lambda: frames(link) == [b"two", b"three"])
        open_to.set()
        await bench.until(lambda: ended(link))

    bench.run(test)


def test_a_flood_leaves_in_frames_of_bounded_length_within_the_readers_credit(bench: Any) -> None:
    flood = [b"x" * 100] * 10_000

    async def test() -> None:
        link = submit(bench, pieces(*flood))
        await bench.until(lambda: sum(map(len, frames(link))) + 100 >= BODY_WINDOW_BYTES)
        assert max(map(len, frames(link))) <= 64 * 1024
        assert sum(map(len, frames(link))) <= BODY_WINDOW_BYTES + 100
        assert not ended(link)

    bench.run(test)

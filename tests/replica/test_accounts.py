"""Whatever comes in whatever order: each call ends once, and nothing is held when all have."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from servekit import accept_batch
from servekit.interfaces import Request, Response
from servekit.replica import executor
from servekit.wire.data_frames import Answer, Chunk, Credit, End, Refusal

STEPS = 200
ENDS_S = 10.0
RECENT = 6
"""Calls that something may happen to: older ones are mostly over."""


class Pieces:
    """A body that is made piece by piece, and counts those that were never closed."""

    open = 0

    def __init__(self, count: int, size: int, fails: bool) -> None:
        self._left, self._size, self._fails = count, size, fails
        self._closed = False
        Pieces.open += 1

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._left:
            self._left -= 1
            return bytes(self._size)
        if self._fails:
            raise ValueError("the last piece is none")
        raise StopIteration

    def close(self) -> None:
        assert not self._closed
        self._closed = True
        Pieces.open -= 1


class AsyncPieces(AsyncIterator[bytes]):
    """The same, for a task."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._pieces.close()


class Handler:
    """Answers in every way, by chance."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def __call__(self, request: Request) -> Any:
        return self._result()

    async def task(self, request: Request) -> Any:
        await asyncio.sleep(self._chance.random() * 0.002)
        return self._result()

    async def generator(self, request: Request) -> Any:
        for _ in range(self._chance.choice([1, 10, 200])):
            yield bytes(self._chance.choice([10, 3000]))

    @accept_batch
    def batch(self, requests: list[Request]) -> list[Any]:
        return [self._item() for _ in requests]

    def _item(self) -> Any:
        try:
            return self._result()
        except ValueError as error:
            return error

    def _result(self) -> Any:
        chance = self._chance
        if chance.random() < 0.5:
            time.sleep(chance.random() * 0.004)  # A handler that is at work when its call is given up.
        kind = chance.random()
        if kind < 0.2:
            return b"ok"
        if kind < 0.3:
            raise ValueError("by chance")
        if kind < 0.5:
            return bytes(chance.choice([70_000, 400_000, 3_000_000]))
        pieces = Pieces(chance.choice([0, 1, 3, 40]), chance.choice([0, 10, 5000, 66_000]), chance.random() < 0.1)
        return Response(200, [], AsyncPieces(pieces) if kind < 0.6 else pieces)


class Callers:
    """Ingress workers that do what they may, by chance."""

    def __init__(self, bench: Any, served: Any, chance: random.Random) -> None:
        self._bench, self._served, self._chance = bench, served, chance
        self.links = [bench.link() for _ in range(3)]
        self._number = 0
        self.calls: dict[int, Any] = {}
        """The link of each call, if that is there yet."""
        self._sending: set[int] = set()
        """Calls whose bodies have not ended."""
        self._cancelled: set[int] = set()

    def act(self) -> None:
        kind = self._chance.random()
        if kind < 0.5:
            self._call(self._chance.choice(self.links))
        elif kind < 0.98 and self.calls:
            self._go_on(self._chance.choice(list(self.calls)[-RECENT:]))
        elif kind < 0.99:
            self._lose()
        elif kind < 0.995:
            self._served.refuse_waiting()
        self._served.run()

    def _call(self, link: Any) -> None:
        chance = self._chance
        self._number += 1
        more = chance.random() < 0.2
        call = self._bench.call(
            self._number,
            method=chance.choice([None, None, "task", "batch", "batch", "generator", "none such"]),
            http_method=chance.choice(["POST", "HEAD"]),
            more=more,
            body=bytes(1000) if more else b"",
            timeout_ms=chance.choice([60_000, 60_000, 3]),
        )
        self.calls[self._number] = link
        if more:
            self._sending.add(self._number)
        self._served.submit(link, call)

    def _go_on(self, number: int) -> None:
        link, served, chance = self.calls[number], self._served, self._chance
        kind = chance.random()
        if kind < 0.4:
            if number not in self._cancelled:
                served.granted(link, Credit(number, chance.choice([65_536, 200_000])))
        elif kind < 0.7 and number in self._sending:
            call = served.origin(link).open.get(number)
            if call is not None and call.upload is not None and not call.upload.is_full:
                served.receive(link, Chunk(number, bytes(chance.choice([100, 65_536]))))
        elif kind < 0.75 and number in self._sending:
            self._sending.discard(number)
            served.received(link, End(number, complete=chance.random() < 0.9))
        elif kind > 0.8:
            self._cancelled.add(number)
            served.cancel(link, number)

    def _lose(self) -> None:
        at = self._chance.randrange(len(self.links))
        lost, self.links[at] = self.links[at], self._bench.link()
        self._served.origin(lost)
        self._served.forget(lost)
        self.calls = {number: link for number, link in self.calls.items() if link is not lost}

    def let_all_end(self) -> None:
        """Bodies end, and answers are read."""
        for number, link in self.calls.items():
            if number in self._sending:
                self._sending.discard(number)
                self._served.received(link, End(number))
            if number not in self._cancelled:
                self._served.granted(link, Credit(number, 300_000))
        self._served.run()

    def check_ends(self) -> None:
        """Each call has ended once, and nothing of it has come behind that."""
        for link in self.links:
            ends: Counter[int] = Counter()
            for frame in link.frames:
                whole = type(frame) is Answer and not frame.rest and not frame.running
                if type(frame) in (Refusal, End) or whole:
                    ends[frame.id] += 1
                elif type(frame) is Chunk:
                    assert not ends[frame.id]
            expected = {number for number, of in self.calls.items() if of is link}
            assert {number: ends[number] for number in expected} == dict.fromkeys(expected, 1)


@pytest.mark.parametrize("seed", range(40))
def test_each_call_ends_once_and_leaves_nothing(
    bench: Any, seed: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("CRITICAL")
    chance = random.Random(seed)
    Pieces.open = 0
    problems: list[dict[str, Any]] = []

    class Chanced(Handler):
        def __init__(self) -> None:
            super().__init__(chance)

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, problem: problems.append(problem))
        served = bench.executor(
            Chanced,
            slots=chance.choice([1, 1, 2, 4]),
            streams=chance.random() < 0.5,
            max_batch_size=chance.choice([1, 3, 8]),
            batch_wait_s=chance.choice([0.0, 0.002]),
        )
        callers = Callers(bench, served, chance)
        for _ in range(STEPS):
            callers.act()
            await asyncio.sleep(chance.choice([0, 0, 0, 0.002]))
            bench.clock.now += chance.choice([0.0, 0.001])
        ends = time.monotonic() + ENDS_S
        while not served.is_idle:
            assert time.monotonic() < ends, [(call.state, call.entry.name, call.stopped) for call in served.calls]
            callers.let_all_end()
            bench.clock.now += 0.002
            await asyncio.sleep(0.002)
        monkeypatch.setattr(executor, "UNSENT_BYTES", 0)
        assert served.executor.has_room, "some of an answer counts as unsent, or a slot as taken"
        assert not served.busy_since
        await bench.until(lambda: not Pieces.open)
        callers.check_ends()

    bench.run(test)
    assert problems == []

"""What ingress workers that share a replica are told of each other's calls."""

from __future__ import annotations

from typing import Any

import pytest

from servekit import accept_batch
from servekit.wire.data_frames import Load


def told(link: Any) -> list[int]:
    return [entry.queue_length for entry in link.log if type(entry) is Load]


@pytest.mark.parametrize(
    ("handler_s", "several", "expected"),
    [
        (0.05, True, [2, 1, 0]),  # two calls are here; the last word is that none is
        (0.05, False, []),  # nobody else is there to be told
        (0.0001, True, []),
    ],
    ids=["slow and shared", "slow", "fast"],
)
def test_who_is_told_and_of_what(bench: Any, handler_s: float, several: bool, expected: list[int]) -> None:
    def handler(request: Any) -> bytes:
        bench.clock.now += handler_s
        return b""

    async def test() -> None:
        executor, link, other = bench.executor(handler), bench.link(), bench.link()
        if several:
            executor.origin(other)
        for _ in range(20):  # The mean service time is learnt.
            executor.submit(link, bench.call(0))
            executor.run()
            await bench.until(lambda: not executor.outstanding)
        del link.log[:], other.log[:]
        executor.submit(link, bench.call(1))
        executor.submit(link, bench.call(2))
        executor.run()
        await bench.until(lambda: not executor.outstanding)
        assert told(link) == expected
        assert other.log == [entry for length in expected for entry in (Load(length), "flush")]

    bench.run(test)


def test_a_batch_is_one_change(bench: Any) -> None:
    @accept_batch
    def handler(requests: list[Any]) -> list[bytes]:
        bench.clock.now += 0.05
        return [b""] * len(requests)

    async def test() -> None:
        executor, link, other = bench.executor(handler, max_batch_size=4), bench.link(), bench.link()
        executor.origin(other)
        for _ in range(20):
            executor.submit(link, bench.call(0))
            executor.run()
            await bench.until(lambda: not executor.outstanding)
        del link.log[:], other.log[:]
        for number in range(4):
            executor.submit(link, bench.call(number))
        executor.run()
        await bench.until(lambda: not executor.outstanding)
        assert told(link) == told(other) == [4, 0]

    bench.run(test)

"""Calls that hold their slots beyond their deadlines: which count, and that a drain does not wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from servekit.decorators import accept_batch
from servekit.replica import stacks
from servekit.wire.data_frames import Answer, Bye, Refusal


def late(served: Any) -> list[tuple[int, float]]:
    return sorted((call.number, late_s) for call, late_s in served.executor.overdue().items())


def test_a_call_in_a_thread_is_overdue_and_another_that_waits_is_not(bench: Any) -> None:
    gate = threading.Event()

    async def test() -> None:
        served, link = bench.executor(lambda request: gate.wait(60) and b"ok", slots=2), bench.link()
        for number, timeout_ms in ((1, 1000), (2, 60_000), (3, 1000)):
            served.submit(link, bench.call(number, timeout_ms=timeout_ms))
        served.run()
        assert late(served) == []
        bench.clock.now += 5
        assert late(served) == [(1, pytest.approx(4))]
        assert served.executor.overdue(4.5) == {}
        gate.set()
        await bench.until(lambda: len(link.answers) == 2)
        assert late(served) == []
        assert served.executor.requests == 3

    bench.run(test)


def test_a_call_that_runs_inline_is_seen_by_another_thread(bench: Any) -> None:
    seen: list[Any] = []

    def handler(request: Any) -> bytes:
        bench.clock.now += 70
        watcher = threading.Thread(target=lambda: seen.append((late(served), served.busy_since)))
        watcher.start()
        watcher.join()
        return b"ok"

    async def test() -> None:
        nonlocal served
        served, link = bench.executor(handler), bench.link()
        served.submit(link, bench.call(1))
        served.run()
        assert seen == [([(1, pytest.approx(10))], 100.0)]
        assert (late(served), served.busy_since) == ([], 0.0)

    served: Any = None
    bench.run(test)


def test_a_batch_is_as_late_as_the_last_of_its_calls(bench: Any) -> None:
    gate = threading.Event()

    @accept_batch
    def handler(requests: list[Any]) -> list[bytes]:
        gate.wait(60)
        return [b"ok"] * len(requests)

    async def test() -> None:
        served, link = bench.executor(handler, max_batch_size=2), bench.link()
        for number, timeout_ms in ((1, 1000), (2, 3000)):
            served.submit(link, bench.call(number, timeout_ms=timeout_ms))
        served.run()
        bench.clock.now += 2
        assert late(served) == []
        bench.clock.now += 2
        assert late(served) == [(1, pytest.approx(1)), (2, pytest.approx(1))]
        gate.set()
        await bench.until(lambda: len(link.answers) == 2)

    bench.run(test)


def test_an_answer_that_has_begun_is_not_overdue(bench: Any) -> None:
    gate = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"one"
        gate.wait(60)

    async def test() -> None:
        served, link = bench.executor(lambda request: pieces(), slots=2, streams=True), bench.link()
        served.submit(link, bench.call(1))
        served.run()
        await bench.until(lambda: any(type(frame) is Answer for frame in link.frames))
        bench.clock.now += 1000
        assert late(served) == []
        gate.set()

    bench.run(test)


def test_a_drain_does_not_wait_for_what_is_given_up(bench: Any) -> None:
    gate = threading.Event()

    async def test() -> None:
        served, link = bench.executor(lambda request: gate.wait(60) and b"ok", slots=2, counts_idle=False), bench.link()
        served.submit(link, bench.call(1, timeout_ms=1000))
        served.submit(link, bench.call(2))
        served.run()
        serving = asyncio.ensure_future(served.executor.serve())
        served.origin(link).frame_received(link, Bye())
        bench.clock.now += 20
        served.executor.drain(60)
        served.executor.give_up(10)
        await asyncio.sleep(0)
        assert not serving.done()  # The second call is within its deadline.
        gate.set()
        await bench.until(lambda: len(link.answers) == 2)
        await serving
        assert served.executor.outstanding == 0

    bench.run(test)


@pytest.mark.parametrize("hung", [1, 2])
def test_what_waits_is_given_back_where_all_slots_are_lost(bench: Any, hung: int) -> None:
    gate = threading.Event()

    async def test() -> None:
        served, link = bench.executor(lambda request: gate.wait(60) and b"ok", slots=2), bench.link()
        for number in (1, 2, 3):
            served.submit(link, bench.call(number, timeout_ms=1000 if number <= hung else 60_000))
        served.run()
        bench.clock.now += 20
        served.executor.give_up(10)
        assert link.of(Refusal) == ([Refusal(3, "draining")] if hung == 2 else [])
        gate.set()
        await bench.until(lambda: not served.executor.outstanding)

    bench.run(test)


def test_the_stack_of_a_task_goes_down_to_what_it_awaits(bench: Any) -> None:
    async def innermost() -> None:
        await asyncio.sleep(1000)

    async def handler(request: Any) -> bytes:
        with contextlib.suppress(asyncio.CancelledError):
            await innermost()
        return b"ok"

    async def test() -> None:
        served, link = bench.executor(handler, slots=2), bench.link()
        served.submit(link, bench.call(1))
        served.run()
        await asyncio.sleep(0)
        bench.clock.now += 61.5
        told = stacks.describe(served.executor.overdue())
        assert told.startswith("1.5 s beyond its deadline: GET /1 of endpoint 'e' (request id id1)\n")
        assert told.index("in handler") < told.index("in innermost") < told.index("in sleep")
        served.cancel(link, 1)
        await bench.until(lambda: not served.executor.outstanding)

    bench.run(test)

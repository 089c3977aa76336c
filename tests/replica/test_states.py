"""The one state of a call, from its frame to the last byte of its answer."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from servekit import accept_batch
from servekit.interfaces import Response
from servekit.replica.open_call import CallState
from servekit.wire.data_frames import BODY_WINDOW_BYTES, PIECE_BYTES, Answer, Chunk, Credit, End

DEADLINE_S = 10.0
ARRIVING, WAITING, RUNNING, ANSWERING, OVER = CallState


class Handlers:
    """Each kind of handler, as a method; all wait at a gate."""

    gate: threading.Event

    def __call__(self, request: Any) -> bytes:
        self.gate.wait(DEADLINE_S)
        return b"ok"

    def pieces(self, request: Any) -> Response:
        def made() -> Iterator[bytes]:
            yield b"first"
            self.gate.wait(DEADLINE_S)
            yield b"last"

        return Response(200, [], made())

    async def later(self, request: Any) -> bytes:
        while not self.gate.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return b"ok"

    async def pieces_later(self, request: Any) -> Response:
        async def made() -> AsyncIterator[bytes]:
            yield b"first"
            while not self.gate.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            yield b"last"

        return Response(200, [], made())

    @accept_batch
    def together(self, requests: list[Any]) -> list[bytes]:
        self.gate.wait(DEADLINE_S)
        return [b"ok"] * len(requests)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (None, [WAITING, RUNNING, OVER]),
        ("pieces", [WAITING, ANSWERING, OVER]),
        ("later", [WAITING, RUNNING, OVER]),
        ("pieces_later", [WAITING, ANSWERING, OVER]),
        ("together", [WAITING, RUNNING, OVER]),
    ],
)
def test_of_a_call_that_runs_beside_the_loop(bench: Any, method: str | None, expected: list[CallState]) -> None:
    gate = threading.Event()

    async def test() -> None:
        executor, link = bench.executor(type("Gated", (Handlers,), {"gate": gate}), slots=2), bench.link()
        executor.submit(link, bench.call(1, method=method))
        (call,) = executor.calls
        seen = [call.state]
        executor.run()
        await bench.until(lambda: call.state is expected[1])
        seen.append(call.state)
        assert list(executor.calls) == [call]
        gate.set()
        await bench.until(lambda: executor.is_idle)
        assert [*seen, call.state] == expected

    bench.run(test)


def test_of_a_call_with_a_long_body_and_a_long_answer(bench: Any) -> None:
    seen: list[CallState] = []

    def handler(request: Any) -> bytes:
        seen.append(call.state)
        return bytes(2 * BODY_WINDOW_BYTES)

    call: Any = None

    async def test() -> None:
        nonlocal call
        executor, link = bench.executor(handler), bench.link()
        executor.submit(link, bench.call(1, body=bytes(PIECE_BYTES), more=True))
        (call,) = executor.calls
        seen.append(call.state)
        executor.receive(link, Chunk(1, bytes(PIECE_BYTES)))
        seen.append(call.state)
        executor.received(link, End(1))
        seen.append(call.state)
        executor.run()
        seen.append(call.state)
        assert executor.outstanding == 0
        executor.granted(link, Credit(1, 2 * BODY_WINDOW_BYTES))
        assert [*seen, call.state] == [ARRIVING, ARRIVING, WAITING, RUNNING, ANSWERING, OVER]
        assert executor.is_idle

    bench.run(test)


@pytest.mark.parametrize("more", [False, True])
def test_of_a_call_that_is_refused(bench: Any, more: bool) -> None:
    async def test() -> None:
        executor, link = bench.executor(lambda request: b"ok"), bench.link()
        executor.submit(link, bench.call(1, more=more))
        (call,) = executor.calls
        assert call.state is (ARRIVING if more else WAITING)
        executor.cancel(link, 1)
        assert call.state is OVER
        executor.run()
        assert not [frame for frame in link.frames if type(frame) is Answer]

    bench.run(test)


@pytest.mark.parametrize("how", ["cancelled", "lost"])
@pytest.mark.parametrize("slots", [2, 1])
def test_of_a_call_whose_long_answer_comes_when_nobody_waits_for_it(bench: Any, how: str, slots: int) -> None:
    async def handler(request: Any) -> bytes:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(DEADLINE_S)
        return bytes(20 * 1024 * 1024)

    async def test() -> None:
        executor, link = bench.executor(handler, slots=slots), bench.link()
        executor.submit(link, bench.call(1))
        (call,) = executor.calls
        executor.run()
        await asyncio.sleep(0)
        if how == "lost":
            executor.forget(link)
        else:
            executor.cancel(link, 1)
        await bench.until(lambda: call.state is OVER)
        assert executor.executor.has_room
        assert executor.is_idle
        if how == "cancelled":
            assert [frame.complete for frame in link.frames if type(frame) is End] == [False]

    bench.run(test)

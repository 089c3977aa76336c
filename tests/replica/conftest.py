"""An executor on a link that only remembers, with a clock that the test moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from servekit.interfaces import Request, RequestAdapter, Response
from servekit.replica import executor as executor_module
from servekit.replica.executor import Executor
from servekit.replica.target import Handlers, Target
from servekit.wire.data_frames import Answer, Call

DEADLINE_S = 10.0


class FakeLink:
    """``log`` has each frame, and ``"flush"`` for each flush, in order."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.closed = False

    def send(self, frame: Any) -> None:
        self.log.append(frame)

    def flush(self) -> None:
        self.log.append("flush")

    def finish(self) -> None:
        self.closed = True

    async def wait_lost(self) -> None:
        """The peer closes at once."""

    @property
    def frames(self) -> list[Any]:
        return [entry for entry in self.log if entry != "flush"]

    @property
    def answers(self) -> list[bytes]:
        return [frame.body for frame in self.frames if type(frame) is Answer]


class Plain(RequestAdapter):
    """The handler gets the request, and answers with bytes or a `Response`."""

    def decode(self, request: Request) -> Any:
        return request

    def encode(self, result: Any) -> Response:
        if isinstance(result, bytes):
            return Response(200, [], result)
        if isinstance(result, Response):
            return result
        raise TypeError(f"no answer for {result!r}")


class Streaming(Plain):
    """The same, for handlers that read the body through `Request.stream`."""

    streams_body = True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """Makes executors, and what they are given. Use it inside `run`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.idle = 0
        self.debug = False
        self._executors: list[Executor] = []

    def executor(
        self,
        target: Any,
        idle: Callable[[], None] | None = None,
        *,
        slots: int = 1,
        streams: bool = False,
        adapter: RequestAdapter | None = None,
        **more: Any,
    ) -> Executor:
        handlers, adapter = Handlers(Target(target)), adapter or (Streaming() if streams else Plain())
        executor = Executor("b", handlers, adapter, slots=slots, debug=self.debug, idle=idle or self._idle, **more)
        self._executors.append(executor)
        return executor

    def _idle(self) -> None:
        self.idle += 1

    def link(self) -> Any:
        return FakeLink()

    def call(
        self,
        number: int,
        *,
        timeout_ms: int = 60_000,
        method: str | None = None,
        http_method: str = "GET",
        body: bytes = b"",
        more: bool = False,
        upgrade: bool = False,
        chain: tuple[str, ...] | None = None,
    ) -> Call:
        """``more``: the rest of the body follows."""
        request = Request(http_method, f"/{number}", b"", [], body, "e", "/x", f"id{number}", "", None, method)
        request.upgrade, request.chain = upgrade, chain
        return Call(number, timeout_ms, request, more)

    def run(self, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            asyncio.run(test())
        finally:
            for executor in self._executors:
                executor.close()

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the loop go on until ``condition()`` is true."""
        ends = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < ends, "it did not come about"
            await asyncio.sleep(0.001)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    clock = Clock()
    monkeypatch.setattr(executor_module, "_clock", clock)
    return Bench(clock)

"""An executor on a link that only remembers, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from servekit.interfaces import Request, RequestAdapter, Response
from servekit.replica import executor as executor_module
from servekit.replica.executor import Executor
from servekit.replica.target import Handlers, Target
from servekit.wire.frames import Answer, Call


class FakeLink:
    """``log`` has each frame, and ``"flush"`` for each flush, in order."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.closed = False

    def send(self, frame: Any) -> None:
        self.log.append(frame)

    def flush(self) -> None:
        self.log.append("flush")

    def close(self) -> None:
        self.closed = True

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

    def executor(self, target: Any, idle: Callable[[], None] | None = None) -> Executor:
        handlers = Handlers(Target(target))
        return Executor("b", handlers, Plain(), slots=1, debug=self.debug, idle=idle or self._idle)

    def _idle(self) -> None:
        self.idle += 1

    def link(self) -> Any:
        return FakeLink()

    def call(self, number: int, *, timeout_ms: int = 60_000, method: str | None = None) -> Call:
        request = Request("GET", f"/{number}", b"", [], b"", "e", "/x", f"id{number}", "", None, method)
        return Call(number, timeout_ms, request)

    def run(self, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run(test())


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    clock = Clock()
    monkeypatch.setattr(executor_module, "_clock", clock)
    return Bench(clock)

"""An executor on a link that only remembers, with a clock that the test moves."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.support.links import FakeLink
from tests.support.waiting import until_async

from servekit.interfaces import Request, RequestAdapter, Response
from servekit.replica.executor import Executor
from servekit.replica.handler_calls import HandlerCalls
from servekit.replica.open_call import OpenCall
from servekit.replica.target import Handlers, Target
from servekit.wire.data_frames import Answer, Call, Cancel, Chunk, End
from servekit.wire.data_links import DataLinks
from servekit.wire.incoming_calls import IncomingLink

DEADLINE_S = 10.0


class CallsLink(FakeLink):
    """``log`` has each frame, and ``"flush"`` for each flush, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Any] = []

    def send(self, frame: Any) -> None:
        super().send(frame)
        self.log.append(frame)

    def flush(self) -> None:
        self.log.append("flush")

    def fail(self, error: Exception) -> None:
        raise error

    async def wait_lost(self) -> None:
        """The peer closes at once."""

    @property
    def answers(self) -> list[bytes]:
        return [frame.body for frame in self.frames if type(frame) is Answer]

    @property
    def ends(self) -> list[End]:
        return [frame for frame in self.frames if type(frame) is End]

    def sent(self, number: int = 1) -> bytes:
        """The body of an answer, as far as it went out."""
        return b"".join(
            bytes(frame.body if type(frame) is Answer else frame.data)
            for frame in self.frames
            if type(frame) in (Answer, Chunk) and frame.id == number
        )


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


class Served:
    """An executor and the calls of its links: what arrives is told as `IncomingLink` tells it."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.calls = executor.calls
        self._origins: dict[Any, IncomingLink[OpenCall]] = {}

    def origin(self, link: Any) -> IncomingLink[OpenCall]:
        """Opened where it is not there yet."""
        if link not in self._origins:
            self._origins[link] = IncomingLink(self.calls, self.executor, Call)
            self.calls.leaving = False
            self._origins[link].link_opened(link)
            self.calls.leaving = True  # Now each turn that leaves no handler at work calls `check`; see `Bench.idle`.
        return self._origins[link]

    def submit(self, link: Any, frame: Call) -> None:
        self.origin(link).frame_received(link, frame)

    receive = received = granted = submit

    def cancel(self, link: Any, number: int) -> None:
        self.origin(link).frame_received(link, Cancel(number))

    def forget(self, link: Any) -> None:
        self.origin(link).link_lost(link, None)
        del self._origins[link]

    def run(self) -> None:
        """All that one read has brought has been told."""
        self.executor.calls_done()

    def refuse_waiting(self) -> None:
        self.executor.give_back()

    @property
    def outstanding(self) -> int:
        return self.executor.outstanding

    @property
    def busy_since(self) -> float:
        return self.executor.busy_since

    @property
    def is_idle(self) -> bool:
        return not self.executor.outstanding and not list(self.calls)

    def close(self) -> None:
        self.executor.close()


class Bench:
    """Makes executors, and what they are given. Use it inside `run`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.idle = 0
        self.debug = False
        self._served: list[Served] = []

    def executor(
        self,
        target: Any,
        *,
        slots: int = 1,
        streams: bool = False,
        adapter: RequestAdapter | None = None,
        counts_idle: bool = True,
        **more: Any,
    ) -> Served:
        handlers, adapter = Handlers(Target(target)), adapter or (Streaming() if streams else Plain())
        links = DataLinks(bytes(32), "r1")
        handler_calls = HandlerCalls("b", more.pop("replica", ""), adapter, self.debug, self.clock)
        executor = Executor(handlers, handler_calls, links, slots=slots, **more)
        if counts_idle:
            executor.calls.check = self._idle  # type: ignore[method-assign]
        served = Served(executor)
        self._served.append(served)
        return served

    def _idle(self) -> None:
        self.idle += 1

    def link(self) -> Any:
        return CallsLink()

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

    def run_uncollected(self, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """As `run`, where nothing may be held in a cycle."""
        gc.disable()
        try:
            self.run(test)
        finally:
            gc.enable()

    def run(self, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def run() -> None:
            try:
                await test()
            finally:
                for served in self._served:
                    served.close()

        asyncio.run(run())

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the loop go on until ``condition()`` is true."""
        await until_async(condition)


@pytest.fixture
def bench() -> Bench:
    return Bench(Clock())

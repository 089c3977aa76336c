"""The way to an adapter that `is_async`."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from servekit.interfaces import Request, RequestAdapter, Response
from servekit.replica.render import aclose_body, is_async
from servekit.testing.conformance.adapter_claims import AdapterClaims
from servekit.testing.conformance.exchanges import NOTHING
from servekit.testing.conformance.ways import Direct
from servekit.wire.streams import Incoming


class OnLoop(Direct):
    """By ``call_async``, on the loop of the adapter's life."""

    read_by = "the core reads them on the event loop, in the task of the call"

    def __init__(self, tests: AdapterClaims, adapter: RequestAdapter) -> None:
        super().__init__(tests, adapter)
        self.name = "by call_async()"
        self.takes_pieces = True

    def incoming(self, first: bytes, more: Sequence[bytes], broken: str | None) -> Incoming:
        """A body of which more comes while the call is under way."""
        arriving = Incoming(lambda size_bytes: None, first)

        async def feed() -> None:
            for piece in more:
                await asyncio.sleep(0)
                arriving.feed(piece)
            arriving.end(ConnectionError(broken) if broken else None)

        asyncio.run_coroutine_threadsafe(feed(), self.life.loop)
        return arriving

    def call(self, request: Request) -> Response:
        call = self.begin(request)
        response: Response = call.came()
        if isinstance(response, Response) and is_async(response.body):
            return Response(response.status, response.headers, call)
        return response

    def begin(self, request: Request) -> Call:
        """A call that is under way."""
        self.start()
        return Call(self, request)


class Call:
    """A call and the reading of its answer, in one task as in a replica. Here it is the answer's body, to be read in
    another thread.
    """

    def __init__(self, way: OnLoop, request: Request) -> None:
        self._way = way
        self._came: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._wanted = asyncio.Semaphore(0)
        self._ended = threading.Event()
        self._task = asyncio.run_coroutine_threadsafe(self._run(request), way.life.loop)

    def came(self) -> Any:
        """What `call_async` returns; after that each piece that was asked for. Raises what comes out."""
        __tracebackhide__ = True
        try:
            came = self._came.get(timeout=self._way.life.limit_s)
        except queue.Empty:
            self._way.life.hang("nothing came of call_async(), or of its answer,")
        if isinstance(came, BaseException):
            raise came
        return came

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._way.life.loop.call_soon_threadsafe(self._wanted.release)
        piece = self.came()
        if piece is NOTHING:
            raise StopIteration
        return piece

    def close(self) -> None:
        """Nobody waits any more: a call or an answer that has not ended is cancelled."""
        __tracebackhide__ = True
        self._task.cancel()
        if not self._ended.wait(self._way.life.limit_s):
            self._way.life.hang("a call that was cancelled, or the aclose of its answer, had not ended")
        while not self._came.empty():
            came = self._came.get()
            if isinstance(came, Exception):
                raise came

    async def _run(self, request: Request) -> None:
        try:
            response = await self._way.adapter.call_async(self._way.handler, request)
            self._came.put(response)
            if isinstance(response, Response) and is_async(response.body):
                await self._read(response.body)
        except BaseException as error:  # SystemExit too: the loop must go on.
            self._came.put(error)
        finally:
            self._ended.set()

    async def _read(self, body: Any) -> None:
        try:
            pieces = aiter(body)
            while True:
                await self._wanted.acquire()
                piece = await anext(pieces, NOTHING)
                self._came.put(piece)
                if piece is NOTHING:
                    break
        finally:
            await aclose_body(body)

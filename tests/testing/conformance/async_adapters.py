"""Adapters that are async: one that is right, and others that are each wrong in one thing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

from tests.testing.conformance.broken_adapters import Asked, Right

from servekit.interfaces import Handler, Request, Response


class RightAsync(Right):
    """Reads bodies as they come, and passes on async iterators. The broken ones differ from it in one thing each."""

    is_async = True

    async def call_async(self, handler: Handler, request: Request) -> Response:
        return self.encode(await handler(await self.asked(request)))

    async def asked(self, request: Request) -> Asked:
        asked = self.decode(request)
        asked.data = b"".join([piece async for piece in request.pieces()])
        return asked


# -- bodies ------------------------------------------------------------------------------------------------------------


class ReadsTheFirstPart(Right):
    is_async = True


class TakesWhatCame(RightAsync):
    async def asked(self, request: Request) -> Asked:
        asked = self.decode(request)
        try:
            return await super().asked(request)
        except ConnectionError:
            return asked


class Collects(RightAsync):
    async def call_async(self, handler: Handler, request: Request) -> Response:
        response: Any = await super().call_async(handler, request)
        if not isinstance(response.body, bytes):
            body = response.body
            response.body = b"".join([piece async for piece in body])
            await body.aclose()
        return response


class ClosesIfBegun(RightAsync):
    """An async generator that was not begun runs no ``finally``."""

    def encode(self, result: Any) -> Response:
        response = super().encode(result)
        if not isinstance(response.body, bytes):
            response.body = self.pieces(response.body)
        return response

    async def pieces(self, body: Any) -> AsyncIterator[bytes]:
        try:
            async for piece in body:
                yield piece
        finally:
            await body.aclose()


class EndsQuietly(ClosesIfBegun):
    async def pieces(self, body: Any) -> AsyncIterator[bytes]:
        try:
            async for piece in super().pieces(body):
                yield piece
        except Exception:
            return


# -- calls -------------------------------------------------------------------------------------------------------------


class WrapsExceptions(RightAsync):
    async def call_async(self, handler: Handler, request: Request) -> Response:
        try:
            return await super().call_async(handler, request)
        except Exception as error:
            raise RuntimeError("the handler failed") from error


class AnswersTheLast(RightAsync):
    async def call_async(self, handler: Handler, request: Request) -> Response:
        self.last = await self.asked(request)
        response = self.encode(await handler(self.last))
        if isinstance(response.body, bytes) and response.body:
            response.body = self.last.data
        return response


class OneAtATime(RightAsync):
    def __init__(self) -> None:
        self.lock = asyncio.Lock()

    async def call_async(self, handler: Handler, request: Request) -> Response:
        async with self.lock:
            return await super().call_async(handler, request)


class BlocksTheLoop(RightAsync):
    def __init__(self) -> None:
        self.lock = threading.Lock()

    async def call_async(self, handler: Handler, request: Request) -> Response:
        with self.lock:
            return await super().call_async(handler, request)


class NeverAnswers(RightAsync):
    async def call_async(self, handler: Handler, request: Request) -> Response:
        await super().call_async(handler, request)
        return await asyncio.get_running_loop().create_future()


class Shields(RightAsync):
    async def call_async(self, handler: Handler, request: Request) -> Response:
        return await asyncio.shield(asyncio.ensure_future(super().call_async(handler, request)))


class IsNotCancelled(RightAsync):
    async def call_async(self, handler: Handler, request: Request) -> Response:
        while True:
            try:
                return await super().call_async(handler, request)
            except asyncio.CancelledError:
                await asyncio.sleep(30)


# -- from its start to its end -----------------------------------------------------------------------------------------


class NeedsMore(RightAsync):
    async def start(self, handler: Handler) -> None:
        raise RuntimeError("no such model")


class CancelsWhenDrained(RightAsync):
    def __init__(self) -> None:
        self.tasks: set[Any] = set()

    async def call_async(self, handler: Handler, request: Request) -> Response:
        self.tasks.add(asyncio.current_task())
        try:
            return await super().call_async(handler, request)
        finally:
            self.tasks.discard(asyncio.current_task())

    def drain(self) -> None:
        for task in self.tasks:
            task.cancel()


class StopsWhatItNeverBegan(RightAsync):
    calls: Any = None

    async def call_async(self, handler: Handler, request: Request) -> Response:
        self.calls = set()
        return await super().call_async(handler, request)

    def drain(self) -> None:
        self.calls.clear()


class NeverStops(RightAsync):
    async def stop(self) -> None:
        await asyncio.Event().wait()


class ClosesOnTheLoop(RightAsync):
    def close(self) -> None:
        asyncio.get_running_loop()


class StopsTheClass(RightAsync):
    stopped = False

    async def call_async(self, handler: Handler, request: Request) -> Response:
        if self.stopped:
            raise RuntimeError("stopped")
        return await super().call_async(handler, request)

    async def stop(self) -> None:
        type(self).stopped = True

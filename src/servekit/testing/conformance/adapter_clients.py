"""Clients that send requests to a request adapter: by its methods, on an event loop, and over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from typing import Any, NoReturn
from urllib.parse import quote

import httpx

from servekit.interfaces import Handler, Request, RequestAdapter, Response
from servekit.replica.render import aclose_body, close_body, is_async, render
from servekit.testing.conformance.exchanges import (
    NOTHING,
    Answer,
    AsyncIteratorBody,
    Got,
    HandlerScript,
    IteratorBody,
    KitError,
    Sent,
    StreamedBody,
    same_each_time,
)
from servekit.testing.conformance.helpers import described, fail
from servekit.wire.loop_thread import LoopThread
from servekit.wire.streams import Incoming

_STEPS = {"start": "before the replica is ready", "drain": "as it begins to leave", "stop": "after its last answer"}


class AdapterClient:
    """Sends requests to one adapter, which calls one handler."""

    name: str
    """The way of the requests to the adapter, for failures: ``over HTTP``."""
    takes_pieces: bool
    """True where a body may arrive in pieces."""
    slots: int = 1

    def __init__(
        self, adapter: RequestAdapter, make_handler: Callable[[Answer], Handler], content_type: str, patience_s: float
    ) -> None:
        self.adapter = adapter
        self.content_type = content_type
        self.patience_s = patience_s
        self.script = HandlerScript()
        around = self.script.around_async if adapter.is_async else self.script.around
        self.handler = around(make_handler(self.script))

    def start(self) -> None:
        """Get ready for the first request. Does nothing where that was done."""

    def ask(self, sent: Sent, answer: Answer) -> Got:
        """Send a request, which the handler answers by ``answer``; the whole answer. What the call raises is raised."""
        raise NotImplementedError

    def streamed(self, sent: Sent, answer: Answer) -> contextlib.AbstractContextManager[Iterator[bytes]]:
        """Send a request; the pieces of the answer. Where the context ends, the rest of the answer is given up."""
        raise NotImplementedError

    def streamed_body(
        self, pieces: list[bytes], *, held_until: threading.Event | None = None, fails: bool = False
    ) -> StreamedBody:
        """The body of a streamed answer, of the kind that the adapter's handlers make."""
        kind = AsyncIteratorBody if self.adapter.is_async else IteratorBody
        return kind(pieces, held_until, fails, self.patience_s)

    def close(self) -> None:
        """End the adapter's life, where it has not ended."""

    def fail(self, what: str, contract: str, error: BaseException | None = None) -> NoReturn:
        __tracebackhide__ = True
        fail(f"{type(self.adapter).__name__} {self.name}: {what}", contract, error)


class MethodClient(AdapterClient):
    """Calls ``call``, or ``decode`` and ``encode``, in the current thread; and the methods of the adapter's life on an
    event loop in a thread of its own, as a replica does.
    """

    read_by = "the core reads them after the call, in its thread and its context"

    def __init__(self, *arguments: Any, by_parts: bool = False) -> None:
        super().__init__(*arguments)
        self.adapter, self.handler = self.adapter.fit(self.handler, batches=False)
        self._by_parts = by_parts
        self.name = "by decode() and encode()" if by_parts else "by call()"
        self.takes_pieces = self.adapter.streams_body
        self._loop_thread = LoopThread("replica")
        self.loop = self._loop_thread.loop
        self._started = self._drained = self._ended = self._hangs = False

    def request(self, sent: Sent) -> Request:
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in sent.headers]
        head = [(b"host", b"kit"), (b"content-type", self.content_type.encode())]
        if not sent.piece_bytes:
            head.append((b"content-length", b"%d" % len(sent.body)))
        body, incoming = sent.body, None
        if sent.piece_bytes:
            body, *more = sent.pieces or [b""]
            error = ConnectionError("the client is gone") if sent.breaks_off else None
            incoming = self.incoming(body, more[: len(more) // 2] if error else more, error)
        return Request(
            sent.method, sent.path, sent.query, head + headers, body, "kit", "/kit", "request-1", "127.0.0.1",
            mount=True, incoming=incoming,
        )  # fmt: skip

    def incoming(self, first: bytes, more: Sequence[bytes], error: Exception | None) -> Any:
        """A body whose first piece is there, and of which ``more`` follows; ``error`` breaks it off."""
        arriving = Incoming(lambda size_bytes: None, first)
        for piece in more:
            arriving.feed(piece)
        arriving.end(error)
        return arriving.as_file()

    def call(self, request: Request) -> Response:
        if self._by_parts:
            return self.adapter.encode(self.handler(self.adapter.decode(request)))
        return self.adapter.call(self.handler, request)

    @contextlib.contextmanager
    def exchange(self, request: Request, answer: Answer) -> Iterator[tuple[Response, Iterator[bytes]]]:
        """The adapter's answer, its form checked, and its pieces. At the end the body is closed, as the core does."""
        __tracebackhide__ = True
        self.start()
        self.script.answer = answer
        context = contextvars.copy_context()
        response = context.run(self.call, request)
        contract = "an answer is a servekit.interfaces.Response: status, headers of str, a body of bytes or an iterable"
        if not isinstance(response, Response):
            self.fail(f"the answer is {response!r}", contract)
        try:
            render(response)
        except (TypeError, ValueError, AttributeError) as error:
            self.fail(f"the core cannot send the answer ({error})", contract)
        body: Any = response.body
        if isinstance(body, (bytes, bytearray, memoryview)):
            yield response, iter([bytes(body)])
            return
        try:
            yield response, self._pieces(context, context.run(iter, body))
        finally:
            context.run(close_body, body)

    def _pieces(self, context: contextvars.Context, pieces: Iterator[Any]) -> Iterator[bytes]:
        while True:
            try:
                piece = context.run(next, pieces, NOTHING)
            except (KitError, AssertionError):
                raise
            except Exception as error:
                self.fail(f"the pieces of a streamed answer raised {described(error)}", self.read_by, error)
            if piece is NOTHING:
                return
            if not isinstance(piece, (bytes, bytearray, memoryview)):
                self.fail(f"a streamed answer has the piece {piece!r}", "pieces are bytes")
            yield bytes(piece)

    def ask(self, sent: Sent, answer: Answer) -> Got:
        __tracebackhide__ = True
        already = len(self.script.calls)
        with self.exchange(self.request(sent), answer) as (response, pieces):
            body = b"".join(pieces)
        headers = [(name.lower(), value) for name, value in response.headers]
        return Got(response.status, headers, body, self.script.calls[already:])

    @contextlib.contextmanager
    def streamed(self, sent: Sent, answer: Answer) -> Iterator[Iterator[bytes]]:
        with self.exchange(self.request(sent), answer) as (_, pieces):
            yield pieces

    # -- the adapter's life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        if not self._started:
            self._started = True
            self._step("start", self.handler)

    def drain(self) -> None:
        if not self._drained:
            self._drained = True
            self._step("drain")

    def end(self) -> None:
        """Let the replica leave: the adapter is drained and stopped, the loop ends, and the adapter is closed."""
        __tracebackhide__ = True
        self._ended = True
        try:
            if self._started and not self._hangs:
                self.drain()
                self._step("stop")
        finally:
            if not self._hangs:
                self._loop_thread.close()
        try:
            self.adapter.close()
        except Exception as error:
            contract = "it is called once, as the replica ends, and does not raise"
            self.fail(f"close() raised {described(error)}", contract, error)

    def close(self) -> None:
        if not self._ended:
            with contextlib.suppress(AssertionError):  # A test of its own shows whether an adapter can end.
                self.end()

    @property
    def limit_s(self) -> float:
        """The time that a step on the loop may take; the handler in it may wait for ``patience_s``."""
        return 2 * self.patience_s

    def hang(self, what: str) -> NoReturn:
        """Fail since ``what`` has not ended in time. The loop may be blocked, and is left behind."""
        __tracebackhide__ = True
        self._hangs = True
        self.fail(
            f"{what} after {self.limit_s:g} s", "nothing blocks the event loop, and what was begun comes to an end"
        )

    def _step(self, name: str, *arguments: Any) -> None:
        """Call the adapter's method ``name`` on the loop."""
        __tracebackhide__ = True

        async def call() -> None:
            result = getattr(self.adapter, name)(*arguments)
            if inspect.isawaitable(result):
                await result

        future = asyncio.run_coroutine_threadsafe(call(), self.loop)
        if not wait([future], self.limit_s).done:
            self.hang(f"{name}() had not returned")
        error = future.exception()
        if isinstance(error, Exception):
            contract = f"it is called once, on the event loop, {_STEPS[name]}, and where nothing is wrong it returns"
            self.fail(f"{name}() raised {described(error)}", contract, error)


class LoopClient(MethodClient):
    """Calls ``call_async`` on the event loop."""

    read_by = "the core reads them on the event loop, in the task of the call"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.name = "by call_async()"
        self.takes_pieces = True

    def incoming(self, first: bytes, more: Sequence[bytes], error: Exception | None) -> Incoming:
        """A body of which ``more`` arrives while the call is under way."""
        arriving = Incoming(lambda size_bytes: None, first)

        async def feed() -> None:
            for piece in more:
                await asyncio.sleep(0)
                arriving.feed(piece)
            arriving.end(error)

        asyncio.run_coroutine_threadsafe(feed(), self.loop)
        return arriving

    def call(self, request: Request) -> Response:
        call = self.begin(request)
        response: Response = call.result()
        if isinstance(response, Response) and is_async(response.body):
            return Response(response.status, response.headers, call)
        return response

    def begin(self, request: Request) -> AsyncCall:
        """Begin a call, and return at once."""
        self.start()
        return AsyncCall(self, request)


class AsyncCall:
    """One call of ``call_async``, and the reading of the answer's body, in one task as in a replica.

    As an iterable in another thread, an object of this class is that body.
    """

    def __init__(self, client: LoopClient, request: Request) -> None:
        self._client = client
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._wanted = asyncio.Semaphore(0)
        self._ended = threading.Event()
        self._task = asyncio.run_coroutine_threadsafe(self._run(request), client.loop)

    def result(self) -> Any:
        """The response, at the first call; after that each piece that was asked for. Raises what the task raises."""
        __tracebackhide__ = True
        try:
            result = self._results.get(timeout=self._client.limit_s)
        except queue.Empty:
            self._client.hang("nothing came of call_async(), or of its answer,")
        if isinstance(result, BaseException):
            raise result
        return result

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._client.loop.call_soon_threadsafe(self._wanted.release)
        piece = self.result()
        if piece is NOTHING:
            raise StopIteration
        return piece

    def close(self) -> None:
        """Cancel the call, or the reading of its answer, and wait until it has ended."""
        __tracebackhide__ = True
        self._task.cancel()
        if not self._ended.wait(self._client.limit_s):
            self._client.hang("a call that was cancelled, or the aclose of its answer, had not ended")
        while not self._results.empty():
            result = self._results.get()
            if isinstance(result, Exception):
                raise result

    async def _run(self, request: Request) -> None:
        try:
            response = await self._client.adapter.call_async(self._client.handler, request)
            self._results.put(response)
            if isinstance(response, Response) and is_async(response.body):
                await self._read(response.body)
        except BaseException as error:  # SystemExit too: the loop must go on.
            self._results.put(error)
        finally:
            self._ended.set()

    async def _read(self, body: Any) -> None:
        try:
            pieces = aiter(body)
            while True:
                await self._wanted.acquire()
                piece = await anext(pieces, NOTHING)
                self._results.put(piece)
                if piece is NOTHING:
                    break
        finally:
            await aclose_body(body)


class HttpClient(AdapterClient):
    """Sends requests over HTTP to an instance in process: ``served`` is the fixture `serve_instance`."""

    name = "over HTTP"
    takes_pieces = True

    def __init__(self, served: Any, *arguments: Any) -> None:
        super().__init__(*arguments)
        if self.adapter.streams_body:
            self.slots = 2  # With one slot, each body is whole when the adapter is called.
        self._served = served
        self._started = False

    def start(self) -> None:
        if not self._started:
            self._started = True
            config = {"max_concurrent_queries": self.slots}
            self._served.create_backend("kit", self.handler, adapter=self.adapter, config=config)
            self._served.create_endpoint("kit", "/kit", backend="kit", mount=True)

    def ask(self, sent: Sent, answer: Answer) -> Got:
        already = len(self.script.calls)
        with self._response(sent, answer) as response:
            body = response.read()
        pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers.raw]
        return Got(response.status_code, same_each_time(pairs), body, self.script.calls[already:])

    @contextlib.contextmanager
    def streamed(self, sent: Sent, answer: Answer) -> Iterator[Iterator[bytes]]:
        with self._response(sent, answer) as response:
            yield response.iter_raw()

    def _response(self, sent: Sent, answer: Answer) -> contextlib.AbstractContextManager[httpx.Response]:
        self.start()
        self.script.answer = answer
        self._served.client.cookies.clear()
        headers = [(name.encode(), value.encode("latin-1")) for name, value in sent.headers]
        headers.append((b"content-type", self.content_type.encode()))
        url = quote(sent.path) + (f"?{sent.query.decode('latin-1')}" if sent.query else "")
        content: Any = iter(sent.pieces) if sent.piece_bytes else sent.body
        stream: contextlib.AbstractContextManager[httpx.Response] = self._served.client.stream(
            sent.method, url, headers=headers, content=content
        )
        return stream

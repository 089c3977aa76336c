"""Ways to an adapter: by its methods, and over HTTP."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn
from urllib.parse import quote

import httpx
import pytest

from servekit.inprocess import InProcessInstance
from servekit.interfaces import Request, RequestAdapter, Response
from servekit.replica.render import close_body, render
from servekit.testing.conformance.adapter_claims import AdapterClaims
from servekit.testing.conformance.adapter_life import Life
from servekit.testing.conformance.exchanges import (
    NOTHING,
    Act,
    Answer,
    Fault,
    Got,
    Sent,
    lasting,
    named,
    watched,
    watched_async,
)
from servekit.testing.conformance.sources import AsyncSource, Source, SyncSource
from servekit.wire.streams import Incoming


def made(tests: AdapterClaims) -> RequestAdapter:
    """A new adapter of the author's."""
    adapter = tests.make_adapter()
    if not isinstance(adapter, RequestAdapter):
        raise AssertionError(f"make_adapter returned {adapter!r}, no servekit.interfaces.RequestAdapter")  # noqa: TRY004
    return adapter


class Way:
    """An adapter, a handler, and a way for requests to them."""

    name: str
    takes_pieces: bool
    slots: int = 1

    def __init__(self, tests: AdapterClaims, adapter: RequestAdapter) -> None:
        self.adapter = adapter
        self.tests = tests
        self.act = Act()
        self.handler = (watched_async if adapter.is_async else watched)(self.act, tests.handler(self.act))

    @property
    def reads(self) -> str:
        """How the adapter gets at a body that is still arriving."""
        return "Request.pieces" if self.adapter.is_async else "Request.stream"

    def start(self) -> None:
        """Make everything ready for the first request."""

    def ask(self, sent: Sent, answer: Answer) -> Got:
        """The whole answer. Raises what comes out."""
        raise NotImplementedError

    def streamed(self, sent: Sent, answer: Answer) -> contextlib.AbstractContextManager[Iterator[bytes]]:
        """The pieces of an answer; what has not been read when the context ends is given up."""
        raise NotImplementedError

    def source(self, pieces: list[bytes], *, waits_for: threading.Event | None = None, fails: bool = False) -> Source:
        """The body of a streamed answer, of the kind that the adapter's handlers make."""
        kind = AsyncSource if self.adapter.is_async else SyncSource
        return kind(pieces, waits_for=waits_for, fails=fails)

    def close(self) -> None:
        """No more requests."""

    def fail(self, what: str, contract: str, error: Exception | None = None) -> NoReturn:
        __tracebackhide__ = True
        raise AssertionError(f"{type(self.adapter).__name__} {self.name}: {what}. The contract: {contract}.") from error


class Direct(Way):
    """By the methods of the adapter."""

    read_by = "the core reads them in a thread of its own, after the call"

    def __init__(self, tests: AdapterClaims, adapter: RequestAdapter, parts: bool = False) -> None:
        super().__init__(tests, adapter)
        self._parts = parts
        self.name = "by decode() and encode()" if parts else "by call()"
        self.takes_pieces = adapter.streams_body
        self.life = Life(adapter, self.fail)

    def start(self) -> None:
        self.life.start(self.handler)

    def close(self) -> None:
        self.life.close()

    def request(self, sent: Sent) -> Request:
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in sent.headers]
        head = [(b"host", b"kit"), (b"content-type", self.tests.content_type.encode())]
        if not sent.piece_bytes:
            head.append((b"content-length", b"%d" % len(sent.body)))
        body, incoming = sent.body, None
        if sent.piece_bytes:
            body, *more = sent.pieces or [b""]
            broken = "the client is gone" if sent.breaks_off else None
            incoming = self.incoming(body, more[: len(more) // 2] if broken else more, broken)
        return Request(
            sent.method, sent.path, sent.query, head + headers, body, "kit", "/kit", "request-1", "127.0.0.1",
            mount=True, incoming=incoming,
        )  # fmt: skip

    def incoming(self, first: bytes, more: Sequence[bytes], broken: str | None) -> Any:
        arriving = Incoming(lambda size_bytes: None, first)
        for piece in more:
            arriving.feed(piece)
        arriving.end(ConnectionError(broken) if broken else None)
        return arriving.as_file()

    def respond(self, request: Request, answer: Answer) -> Response:
        """What the adapter answers, its form checked."""
        __tracebackhide__ = True
        self.start()
        self.act.answer = answer
        response = self.call(request)
        contract = "an answer is a servekit.interfaces.Response: status, headers of str, a body of bytes or an iterable"
        if not isinstance(response, Response):
            self.fail(f"the answer is {response!r}", contract)
        try:
            render(response)
        except (TypeError, ValueError, AttributeError) as error:
            self.fail(f"the core cannot send the answer ({error})", contract)
        return response

    def call(self, request: Request) -> Response:
        if self._parts:
            return self.adapter.encode(self.handler(self.adapter.decode(request)))
        return self.adapter.call(self.handler, request)

    def ask(self, sent: Sent, answer: Answer) -> Got:
        __tracebackhide__ = True
        already = len(self.act.calls)
        response = self.respond(self.request(sent), answer)
        with self._pieces(response) as pieces:
            body = b"".join(pieces)
        headers = [(name.lower(), value) for name, value in response.headers]
        return Got(response.status, headers, body, self.act.calls[already:])

    @contextlib.contextmanager
    def streamed(self, sent: Sent, answer: Answer) -> Iterator[Iterator[bytes]]:
        with self._pieces(self.respond(self.request(sent), answer)) as pieces:
            yield pieces

    @contextlib.contextmanager
    def _pieces(self, response: Response) -> Iterator[Iterator[bytes]]:
        """As the core reads them: in another thread than that of the call, where it also closes what it read."""
        body: Any = response.body
        if isinstance(body, (bytes, bytearray, memoryview)):
            yield iter([bytes(body)])
            return
        with ThreadPoolExecutor(1) as thread:
            try:
                yield self._checked(thread, iter(body))
            finally:
                thread.submit(close_body, body).result()

    def _checked(self, thread: ThreadPoolExecutor, pieces: Iterator[Any]) -> Iterator[bytes]:
        while True:
            try:
                piece = thread.submit(next, pieces, NOTHING).result()
            except (Fault, AssertionError):
                raise
            except Exception as error:
                self.fail(f"the pieces of a streamed answer raised {named(error)}", self.read_by, error)
            if piece is NOTHING:
                return
            if not isinstance(piece, (bytes, bytearray, memoryview)):
                self.fail(f"a streamed answer has the piece {piece!r}", "pieces are bytes")
            yield bytes(piece)


class Http(Way):
    """Through an instance in process."""

    name = "over HTTP"
    takes_pieces = True

    def __init__(self, tests: AdapterClaims, served: Any) -> None:
        if not isinstance(served.instance, InProcessInstance):
            pytest.skip("the kit gives the adapter by instance, and looks at the handler: in process only")
        super().__init__(tests, made(tests))
        if self.adapter.streams_body:
            self.slots = 2  # With one, each body is whole when the adapter is called.
        self._served = served
        self._started = False

    def start(self) -> None:
        if not self._started:
            self._started = True
            config = {"max_concurrent_queries": self.slots}
            self._served.create_backend("kit", self.handler, adapter=self.adapter, config=config)
            self._served.create_endpoint("kit", "/kit", backend="kit", mount=True)

    def ask(self, sent: Sent, answer: Answer) -> Got:
        already = len(self.act.calls)
        with self._response(sent, answer) as response:
            body = response.read()
        pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers.raw]
        return Got(response.status_code, lasting(pairs), body, self.act.calls[already:])

    @contextlib.contextmanager
    def streamed(self, sent: Sent, answer: Answer) -> Iterator[Iterator[bytes]]:
        with self._response(sent, answer) as response:
            yield response.iter_raw()

    def _response(self, sent: Sent, answer: Answer) -> contextlib.AbstractContextManager[httpx.Response]:
        self.start()
        self.act.answer = answer
        self._served.client.cookies.clear()
        headers = [(name.encode(), value.encode("latin-1")) for name, value in sent.headers]
        headers.append((b"content-type", self.tests.content_type.encode()))
        url = quote(sent.path) + (f"?{sent.query.decode('latin-1')}" if sent.query else "")
        content: Any = iter(sent.pieces) if sent.piece_bytes else sent.body
        stream: contextlib.AbstractContextManager[httpx.Response] = self._served.client.stream(
            sent.method, url, headers=headers, content=content
        )
        return stream

"""Ways to an adapter: by its methods, and over HTTP."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn
from urllib.parse import quote

import httpx
import pytest

from servekit.inprocess import InProcessInstance
from servekit.interfaces import Request, RequestAdapter, Response
from servekit.replica.incoming import IncomingStream
from servekit.replica.render import close_body, render
from servekit.testing.conformance.adapter_claims import AdapterClaims
from servekit.testing.conformance.exchanges import NOTHING, Act, Answer, Fault, Got, Sent, lasting, named


class Way:
    """An adapter, a handler, and a way for requests to them."""

    name: str
    takes_pieces: bool
    slots: int = 1

    def __init__(self, tests: AdapterClaims) -> None:
        self.adapter = tests.make_adapter()
        if not isinstance(self.adapter, RequestAdapter):
            raise AssertionError(f"make_adapter returned {self.adapter!r}, no servekit.interfaces.RequestAdapter")  # noqa: TRY004
        self.act = act = Act()
        self.tests = tests
        handler = tests.handler(act)

        @functools.wraps(handler)
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            act.before()
            result = handler(*arguments, **keywords)
            return result if act.instead is NOTHING else act.instead

        self.handler = wrapped

    def start(self) -> None:
        """Make everything ready for the first request."""

    def ask(self, sent: Sent, answer: Answer) -> Got:
        """The whole answer. Raises what comes out."""
        raise NotImplementedError

    def streamed(self, sent: Sent, answer: Answer) -> contextlib.AbstractContextManager[Iterator[bytes]]:
        """The pieces of an answer; what has not been read when the context ends is given up."""
        raise NotImplementedError

    def fail(self, what: str, contract: str, error: Exception | None = None) -> NoReturn:
        __tracebackhide__ = True
        raise AssertionError(f"{type(self.adapter).__name__} {self.name}: {what}. The contract: {contract}.") from error


class Direct(Way):
    """By the methods of the adapter."""

    def __init__(self, tests: AdapterClaims, parts: bool) -> None:
        super().__init__(tests)
        self._parts = parts
        self.name = "by decode() and encode()" if parts else "by call()"
        self.takes_pieces = self.adapter.streams_body

    def request(self, sent: Sent) -> Request:
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in sent.headers]
        head = [(b"host", b"kit"), (b"content-type", self.tests.content_type.encode())]
        if not sent.piece_bytes:
            head.append((b"content-length", b"%d" % len(sent.body)))
        body, incoming = sent.body, None
        if sent.piece_bytes:
            body, *more = sent.pieces or [b""]
            arriving = IncomingStream(body, lambda size_bytes: None)
            for piece in more[: len(more) // 2] if sent.breaks_off else more:
                arriving.feed(piece)
            arriving.end("the client is gone" if sent.breaks_off else None)
            incoming = arriving.as_file()
        return Request(
            sent.method, sent.path, sent.query, head + headers, body, "kit", "/kit", "request-1", "127.0.0.1",
            mount=True, incoming=incoming,
        )  # fmt: skip

    def respond(self, request: Request, answer: Answer) -> Response:
        """What the adapter answers, its form checked."""
        __tracebackhide__ = True
        self.act.answer = answer
        if self._parts:
            response = self.adapter.encode(self.handler(self.adapter.decode(request)))
        else:
            response = self.adapter.call(self.handler, request)
        contract = "an answer is a servekit.interfaces.Response: status, headers of str, a body of bytes or an iterable"
        if not isinstance(response, Response):
            self.fail(f"the answer is {response!r}", contract)
        try:
            render(response)
        except (TypeError, ValueError, AttributeError) as error:
            self.fail(f"the core cannot send the answer ({error})", contract)
        return response

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
            except Fault:
                raise
            except Exception as error:
                contract = "the core reads them in a thread of its own, after the call"
                self.fail(f"the pieces of a streamed answer raised {named(error)}", contract, error)
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
        super().__init__(tests)
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

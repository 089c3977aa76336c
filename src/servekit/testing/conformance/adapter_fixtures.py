"""The claims about a request adapter, and the fixtures and checks that the tests of adapters share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from servekit.inprocess import InProcessInstance
from servekit.interfaces import Handler, RequestAdapter, Response
from servekit.testing.conformance.adapter_clients import AdapterClient, HttpClient, LoopClient, MethodClient
from servekit.testing.conformance.exchanges import Answer, Got, Seen, Sent, StreamedBody, echo
from servekit.testing.conformance.helpers import described, for_all


class AdapterFixtures:
    """The base class of `RequestAdapterTests`: its attributes and first methods are for the author of an adapter."""

    content_type: str = "application/octet-stream"
    """The content type of the kit's requests."""
    sets_status: bool = True
    """A handler's result can carry a status."""
    sets_headers: bool = True
    """A handler's result can carry headers."""
    streams: bool = True
    """A handler's result can carry an iterable of bytes, which goes out piece by piece."""
    only_call: bool = False
    """``call`` is overridden, and ``decode`` and ``encode`` do nothing without it."""
    unanswerable: Sequence[Any] = (object(),)
    """Results that the adapter has no answer for."""
    max_examples: int = 25
    """The number of examples that hypothesis tries in each test that uses it."""
    patience_s: float = 10.0
    """The time that a test waits for what must happen, before it fails."""

    def make_adapter(self) -> RequestAdapter:
        """A new adapter, as the core makes one for each replica."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make_adapter that returns a new adapter")

    def body_of(self, argument: Any) -> bytes:
        """The data of the request's body, as the handler finds it in its argument."""
        raise NotImplementedError(f"{type(self).__name__} needs a method body_of: the bytes that a handler received")

    def headers_of(self, argument: Any) -> Iterable[tuple[str, str]] | None:
        """The request's headers, as the handler finds them in its argument: names in any case, repeated headers one by
        one or joined by commas. None: the handler cannot see them, and they are not tested.
        """
        return None

    def path_of(self, argument: Any) -> str | None:
        """The request's path, percent-decoded, as the handler finds it in its argument; None: it cannot see it."""
        return None

    def query_of(self, argument: Any) -> bytes | str | None:
        """The query string as it was sent, as the handler finds it in its argument; None: it cannot see it."""
        return None

    def result(self, answer: Response) -> Any:
        """The result that a handler returns to answer with ``answer``.

        ``answer.body`` is bytes or, where ``streams`` is True, an iterator of bytes with a ``close``; an async iterator
        with an ``aclose`` where the adapter ``is_async``. Where ``sets_status`` or ``sets_headers`` is False, the
        status or the headers do not matter.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method result: what a handler returns")

    def request_body(self, data: bytes) -> bytes:
        """The body of a request that brings ``data`` to a handler. Override this method where a body cannot be any
        bytes: it may be JSON with ``data`` in a field.
        """
        return data

    def answered_data(self, body: bytes) -> bytes:
        """The data in the body of an answer: the reverse of `request_body`."""
        return body

    def handler(self, act: Answer) -> Handler:
        """A handler that calls ``act`` with what it sees of the request, and answers with the response that ``act``
        returns. Override this method where a handler is no plain function of one argument. For an adapter that
        ``is_async`` the handler may be an ``async def``; the kit turns any other into one.
        """

        def handler(argument: Any) -> Any:
            body = self.body_of(argument)
            seen = Seen(body, self.headers_of(argument), self.path_of(argument), self.query_of(argument))
            return self.result(act(seen))

        return handler

    @pytest.fixture(params=["call", "decode_encode", "http"])
    def client(self, request: pytest.FixtureRequest) -> Iterator[AdapterClient]:
        """Sends requests to the adapter, in one of three ways."""
        if request.param == "http":
            yield self._http_client(request.getfixturevalue("serve_instance"))
            return
        with contextlib.closing(self._method_client(by_parts=request.param == "decode_encode")) as client:
            yield client

    @pytest.fixture(params=["call", "decode_encode"])
    def method_client(self, request: pytest.FixtureRequest) -> Iterator[MethodClient]:
        """Sends requests to the adapter by its methods alone."""
        with contextlib.closing(self._method_client(by_parts=request.param == "decode_encode")) as client:
            yield client

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _made(self) -> RequestAdapter:
        adapter: object = self.make_adapter()
        if isinstance(adapter, RequestAdapter):
            return adapter
        raise AssertionError(f"make_adapter returned {adapter!r}, no servekit.interfaces.RequestAdapter")

    def _method_client(self, by_parts: bool = False) -> MethodClient:
        if by_parts and self.only_call:
            pytest.skip("only_call: decode and encode do nothing without call")
        adapter = self._made()
        arguments = adapter, self.handler, self.content_type, self.patience_s
        if not adapter.is_async:
            return MethodClient(*arguments, by_parts=by_parts)
        if by_parts:
            adapter.close()
            pytest.skip("is_async: the adapter is called by call_async alone")
        return LoopClient(*arguments)

    def _http_client(self, served: Any) -> HttpClient:
        if not isinstance(served.instance, InProcessInstance):
            pytest.skip("the kit gives the adapter by instance, and looks at the handler: in process only")
        return HttpClient(served, self._made(), self.handler, self.content_type, self.patience_s)

    def _needs(self, claim: str) -> None:
        if not getattr(self, claim):
            pytest.skip(f"the adapter does not claim {claim}")

    def _for_all(self, check: Callable[..., None], *strategies: Any) -> None:
        for_all(check, *strategies, max_examples=self.max_examples)

    def _answer(self, client: AdapterClient, sent: Sent, answer: Answer | None = None) -> Got:
        """The answer to ``sent``, whose body is made by `request_body`. The call must raise nothing, and call the
        handler once. Without ``answer``, the handler answers with the data that it receives.
        """
        __tracebackhide__ = True
        try:
            got = client.ask(replace(sent, body=self.request_body(sent.body)), answer or echo)
        except (AssertionError, NotImplementedError):
            raise
        except Exception as error:
            contract = "where the handler does not fail, nor does the call"
            client.fail(f"{described(error)} came out, for {sent}", contract, error)
        if len(got.calls) != 1:
            client.fail(
                f"the handler was called {len(got.calls)} times, for {sent}; the answer: {got.status} {got.body!r:.70}",
                "the handler is called once for a request (does request_body give what the adapter takes?)",
            )
        if not isinstance(got.seen.body, bytes):
            client.fail(f"the handler received {got.seen.body!r:.80}: not bytes", "body_of gives the bytes that came")
        if answer is None and got.status != 200:
            client.fail(f"{sent} was answered with {got.status}: {got.body[:80]!r}", "what goes well is a 200")
        return got

    def _data_in(self, client: AdapterClient, got: Got) -> bytes:
        """The data in the body of an answer."""
        __tracebackhide__ = True
        try:
            return self.answered_data(got.body)
        except Exception as error:
            what = f"answered_data cannot read {got.body[:80]!r}: {described(error)}"
            client.fail(what, "an answer's body is all there", error)

    def _check_body(self, client: AdapterClient, data: bytes, piece_bytes: int) -> None:
        """A handler receives ``data``, and an answer with ``data`` comes back."""
        __tracebackhide__ = True
        got = self._answer(client, Sent(data, piece_bytes=piece_bytes))
        self._check_data(client, "a request", data, got.seen.body)
        self._check_data(client, "an answer", data, self._data_in(client, got))

    def _check_data(self, client: AdapterClient, whose: str, sent: bytes, came: bytes) -> None:
        """``came`` is the same as ``sent``, the data in the body of ``whose``: "a request" or "an answer"."""
        __tracebackhide__ = True
        if sent == came:
            return
        differs = next((n for n, pair in enumerate(zip(sent, came, strict=False)) if pair[0] != pair[1]), None)
        where = f"the first {len(came)}" if differs is None else f"{len(came)}, other ones from byte {differs} on"
        is_async = client.adapter.is_async
        hint = " (streams_body: is Request.stream read?)" if client.adapter.streams_body else ""
        hint = " (is_async: is Request.pieces read?)" if is_async else hint
        client.fail(
            f"of the {len(sent)} bytes in the body of {whose} came {where}",
            f"every body passes whole, whatever bytes it has{hint if whose == 'a request' else ''}",
        )

    def _check_status(self, client: AdapterClient, got: Got, status: int) -> None:
        if got.status != status:
            client.fail(f"the handler answered {status}, and {got.status} came out", "the status is the handler's")

    def _check_same(self, client: AdapterClient, plain: Got, when: str) -> None:
        """A request like the one with the answer ``plain`` is answered so again."""
        __tracebackhide__ = True
        got = self._answer(client, Sent(b"plain"))
        for what, now, then in (
            ("the handler saw", got.seen, plain.seen),
            ("the answer was", (got.status, got.headers, got.body), (plain.status, plain.headers, plain.body)),
        ):
            if now != then:
                client.fail(
                    f"{when}, the same request as before was another: {what} {now}, and before {then}",
                    "an adapter keeps nothing of a request for the next one",
                )

    def _check_closed(self, client: AdapterClient, body: StreamedBody, after: str) -> None:
        """The body of a streamed answer was closed once; ``after``: how much of it was read."""
        __tracebackhide__ = True
        is_async = client.adapter.is_async
        body.was_closed.wait(self.patience_s if is_async or isinstance(client, HttpClient) else 0)
        if body.times_closed != 1:
            client.fail(
                f"a streamed answer that ended after {after} was closed {body.times_closed} times",
                f"the body of the Response has {'an aclose' if is_async else 'a close'} that closes what the handler "
                "gave, once, read to its end or not",
            )

    def __reduce__(self) -> Any:
        """Handlers are pickled on their way to a replica, and refer to this object. In process the original runs."""
        return object, ()

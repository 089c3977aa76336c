"""The conformance kit for request adapters."""

from __future__ import annotations

import contextlib
import copy
import functools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import httpx
import pytest

from servekit.interfaces import Request, Response
from servekit.testing.conformance import exchanges
from servekit.testing.conformance.adapter_clients import AdapterClient, HttpClient, LoopClient, MethodClient
from servekit.testing.conformance.adapter_fixtures import AdapterFixtures
from servekit.testing.conformance.exchanges import NOTHING, Got, KitError, Seen, Sent, echo
from servekit.testing.conformance.helpers import described, hypothesis

_STREAMED = "an iterable body stays one, of the same bytes: each piece goes out as it is made"
AT_ONCE = 4


class RequestAdapterTests(AdapterFixtures):
    """The tests that every request adapter must pass. Derive a class from this one in a module of tests, and say how to
    make the adapter and what its handlers look like::

        class TestMine(RequestAdapterTests):
            def make_adapter(self):
                return Mine()

            def body_of(self, argument):
                return argument.data

            def result(self, answer):
                return MyAnswer(answer.status, answer.headers, answer.body)

    Most tests run three times: by ``call``, by ``decode`` and ``encode``, and over HTTP on an instance in process. The
    attributes of `AdapterFixtures` are claims about the adapter. A test is skipped where it needs a claim that is
    False, or a method that is not overridden.

    An adapter that ``is_async`` is called by ``call_async``, on an event loop, in the place of the first two; its
    handlers are awaited, and a streamed answer is an async iterator. WebSockets (``Request.upgrade``) are not tested.
    """

    # -- requests ----------------------------------------------------------------------------------------------------

    def test_bodies_arrive_whole_and_come_back(self, client: AdapterClient) -> None:
        for data in exchanges.BODIES:
            for size in exchanges.PIECE_SIZES if client.takes_pieces else (0,):
                self._check_body(client, data, size)

    def test_any_body_comes_back(self, client: AdapterClient) -> None:
        st = hypothesis().strategies
        sizes = st.integers(0, 300) if client.takes_pieces else st.just(0)
        self._for_all(lambda data, size: self._check_body(client, data, size), exchanges.any_body(), sizes)

    def test_a_body_that_breaks_off_is_not_taken_for_a_whole_one(self, method_client: MethodClient) -> None:
        if not method_client.takes_pieces:
            pytest.skip("the adapter does not claim streams_body: it is called when all of a body is there")
        try:
            got = method_client.ask(Sent(self.request_body(b"z" * 100_000), piece_bytes=1000, breaks_off=True), echo)
        except AssertionError:
            raise
        except Exception:
            return
        if got.status < 400:
            reads = "Request.pieces" if method_client.adapter.is_async else "Request.stream"
            method_client.fail(
                f"a body broke off in the middle, and it answered {got.status}",
                f"what {reads} raises (ConnectionError) must come out, or become an error's status",
            )

    def test_headers_arrive(self, client: AdapterClient) -> None:
        def check(headers: Sequence[tuple[str, str]]) -> None:
            seen = self._answer(client, Sent(b"", headers)).seen.headers
            if seen is None:
                pytest.skip("headers_of is not overridden: handlers do not see them")
            came = list(seen)
            for name in dict.fromkeys(name.lower() for name, _ in headers):
                values, found = ([v for n, v in given if n.lower() == name] for given in (headers, came))
                parts = [part.strip(" \t") for value in found for part in value.split(",")]
                if parts != values:
                    client.fail(
                        f"of the request's header {name!r}, sent as {values!r}, the handler saw {found!r}",
                        "handlers see every value of a header, decoded as latin-1, in the order they were sent in",
                    )

        check(exchanges.HEADERS)
        self._for_all(check, exchanges.any_headers())

    def test_query_strings_arrive(self, client: AdapterClient) -> None:
        for query in exchanges.QUERIES:
            seen = self._answer(client, Sent(query=query)).seen.query
            if seen is None:
                pytest.skip("query_of is not overridden: handlers do not see it")
            if (seen.encode("latin-1") if isinstance(seen, str) else seen) != query:
                client.fail(f"of the query string {query!r} the handler saw {seen!r}", "handlers get it as it was sent")

    def test_paths_arrive(self, client: AdapterClient) -> None:
        for path in (f"/kit{rest}" for rest in exchanges.PATHS):
            seen = self._answer(client, Sent(path=path)).seen.path
            if seen is None:
                pytest.skip("path_of is not overridden: handlers do not see it")
            if seen != path:
                client.fail(
                    f"of the path {path!r} the handler saw {seen!r}",
                    "Request.path is decoded already, to text; it is neither decoded nor quoted again",
                )

    def test_the_request_is_left_as_it_was(self, method_client: MethodClient) -> None:
        names = [name for name in Request.__struct_fields__ if name != "incoming"]
        for answer in (echo, functools.partial(_raise, KitError("for the kit"))):
            request = method_client.request(Sent(self.request_body(b"data"), exchanges.HEADERS, query=b"a=1"))
            before = {name: copy.deepcopy(getattr(request, name)) for name in names}
            with contextlib.suppress(KitError), method_client.exchange(request, answer):
                pass
            for name in names:
                if (value := getattr(request, name)) != before[name]:
                    method_client.fail(
                        f"it changed the request's {name}: {before[name]!r} to {value!r}",
                        "requests are read, not written",
                    )

    # -- answers -----------------------------------------------------------------------------------------------------

    def test_statuses(self, client: AdapterClient) -> None:
        self._needs("sets_status")
        for status in exchanges.STATUSES:
            got = self._answer(client, Sent(), lambda seen, status=status: Response(status, [], b"data"))  # type: ignore[misc]
            self._check_status(client, got, status)
            self._check_data(client, "an answer", b"data", self._data_in(client, got))

    def test_a_204_and_a_304_have_no_body(self, client: AdapterClient) -> None:
        self._needs("sets_status")
        for status in (204, 304):
            got = self._answer(client, Sent(), lambda seen, status=status: Response(status, [], b""))  # type: ignore[misc]
            self._check_status(client, got, status)
            if got.body:
                client.fail(f"a {status} has the body {got.body[:50]!r}", "an answer with status 204 or 304 has none")
            self._check_body(client, b"the next one", 0)

    def test_headers_of_answers(self, client: AdapterClient) -> None:
        self._needs("sets_headers")

        def check(headers: Sequence[tuple[str, str]]) -> None:
            got = self._answer(client, Sent(), lambda seen: Response(200, list(headers), b""))
            given = [(name.lower(), value) for name, value in headers]
            came = [(name, value) for name, value in got.headers if name in dict(given)]
            if came != given:
                client.fail(
                    f"of an answer's headers {given!r} came {came!r}",
                    "the headers of an answer are the handler's, in its order, repeated ones each on its own",
                )

        check(exchanges.ANSWERED)
        check(exchanges.CODED)
        self._for_all(check, exchanges.any_headers())

    def test_what_is_no_answer_is_a_type_error(self, client: AdapterClient) -> None:
        if not self.unanswerable:
            pytest.skip("unanswerable is empty: the adapter has an answer for everything")
        contract = "encode raises TypeError for what it has no answer for, and the core answers 500"
        for result in self.unanswerable:
            client.script.instead = result
            try:
                got = client.ask(Sent(self.request_body(b"")), echo)
            except TypeError:
                continue
            except Exception as error:
                client.fail(f"of the result {result!r} it raised {described(error)}", contract)
            finally:
                client.script.instead = NOTHING
            if not (isinstance(client, HttpClient) and got.status == 500):
                client.fail(f"of the result {result!r} it made an answer: {got.status}, {got.body[:50]!r}", contract)

    # -- answers piece by piece --------------------------------------------------------------------------------------

    def test_a_streamed_answer_goes_out_as_it_is_made(self, client: AdapterClient) -> None:
        self._needs("streams")
        first_came = threading.Event()
        body = client.streamed_body([b"one", b"two", bytes(range(256)) * 300, b""], held_until=first_came)
        pieces = []
        with client.streamed(Sent(self.request_body(b"")), lambda seen: Response(200, [], body)) as stream:
            for piece in stream:
                if piece:
                    first_came.set()
                pieces.append(piece)
        if body.waited_in_vain:
            client.fail("it made all of a streamed answer before the first piece went out", _STREAMED)
        if b"".join(pieces) != b"".join(body.pieces):
            client.fail(f"a streamed answer came out as {len(pieces)} other pieces: {pieces[:3]!r}", _STREAMED)
        self._check_closed(client, body, "its end")

    def test_a_streamed_answer_that_nobody_wants_is_closed(self, client: AdapterClient) -> None:
        self._needs("streams")
        for method in ("POST", "HEAD"):  # Of an answer to HEAD nothing is read at all.
            body = client.streamed_body([b"z" * 4096] * 100_000)
            sent = Sent(self.request_body(b""), method=method)
            with client.streamed(sent, lambda seen, body=body: Response(200, [], body)) as stream:  # type: ignore[misc]
                if method == "POST":
                    next(stream, None)
            self._check_closed(client, body, "its first piece" if method == "POST" else "no piece at all (HEAD)")

    def test_a_streamed_answer_that_fails_is_not_taken_for_a_whole_one(self, client: AdapterClient) -> None:
        self._needs("streams")
        body = client.streamed_body([b"one", b"two"], fails=True)
        try:
            with client.streamed(Sent(self.request_body(b"")), lambda seen: Response(200, [], body)) as stream:
                for _ in stream:
                    pass
        except (KitError, httpx.TransportError):
            self._check_closed(client, body, "its failure")
        else:
            client.fail(
                "a streamed answer whose iterable raised ended as if it were whole", "the exception must come out"
            )

    # -- several requests, and the adapter's life --------------------------------------------------------------------

    def test_what_a_handler_raises_comes_out(self, client: AdapterClient) -> None:
        plain = self._answer(client, Sent(b"plain"))
        for error in (KitError("for the kit"), ValueError("kit"), TypeError("kit"), KeyError("kit"), SystemExit(3)):
            contract = "what a handler raises comes out of the call; the core logs it and answers 500"
            try:
                got = client.ask(Sent(self.request_body(b"odd"), exchanges.HEADERS), functools.partial(_raise, error))
            except BaseException as raised:
                if raised is not error:
                    client.fail(f"the handler raised {described(error)}, and {described(raised)} came out", contract)
            else:
                if not (isinstance(client, HttpClient) and got.status == 500 and b"failed on this request" in got.body):
                    client.fail(f"the handler raised {described(error)}, and the answer is {got.status}", contract)
            self._check_same(client, plain, f"after a handler that raised {described(error)}")

    def test_a_request_leaves_nothing_behind(self, client: AdapterClient) -> None:
        plain = self._answer(client, Sent(b"plain"))
        self._answer(client, Sent(exchanges.BODIES[-1], exchanges.HEADERS, "/kit/other", b"a=1"))
        self._check_same(client, plain, "after a request with headers, a query string and a long body")
        if self.sets_status and self.sets_headers:
            self._answer(client, Sent(), lambda seen: Response(404, list(exchanges.ANSWERED), b"no"))
            self._check_same(client, plain, "after an answer with a status and headers")
        if self.streams:
            body = client.streamed_body([b"one", b"two"])
            with client.streamed(Sent(self.request_body(b"")), lambda seen: Response(200, [], body)) as stream:
                if isinstance(client, MethodClient):  # Another call, in another thread as in a replica.
                    with ThreadPoolExecutor(1) as thread:
                        thread.submit(self._check_same, client, plain, "while an answer was streamed").result()
                list(stream)
            self._check_same(client, plain, "after an answer was streamed")

    def test_requests_at_once_do_not_mix(self, client: AdapterClient) -> None:
        client.slots = AT_ONCE
        meeting = threading.Barrier(AT_ONCE, timeout=self.patience_s)
        seen_by: list[Seen] = []

        def answer(seen: Seen) -> Response:
            seen_by.append(seen)
            headers = [("X-Kit-Who", seen.body.decode("latin-1"))] if self.sets_headers else []
            return Response(200, headers, seen.body)

        def ask(who: int) -> Got:
            data = b"%d" % who
            return client.ask(Sent(self.request_body(data), [("x-kit-who", str(who))], query=data), answer)

        contract = "an adapter answers several requests at once, and keeps nothing of them in itself"
        with ThreadPoolExecutor(AT_ONCE) as threads:
            client.start()
            client.script.before = client.script.after = meeting.wait
            try:
                answers = list(threads.map(ask, range(AT_ONCE)))
            except threading.BrokenBarrierError:
                answers = []
            finally:
                client.script.before = client.script.after = None
        if meeting.broken:
            client.fail(f"{AT_ONCE} calls at once were never in their handlers together (is there a lock?)", contract)
        for who, got in enumerate(answers):
            if self._data_in(client, got) != b"%d" % who or got.header("x-kit-who") not in (None, str(who)):
                client.fail(f"of {AT_ONCE} requests at once, number {who} got the answer of another", contract)
        for seen in seen_by:
            names = {value for name, value in seen.headers or () if name.lower() == "x-kit-who"}
            if seen.query not in (None, seen.body, seen.body.decode()) or names - {seen.body.decode()}:
                client.fail(f"of {AT_ONCE} requests at once, a handler saw parts of two: {seen}", contract)

    def test_a_call_that_nobody_waits_for_ends(self, method_client: MethodClient) -> None:
        if not isinstance(method_client, LoopClient):
            pytest.skip("the adapter is not is_async: a call in a thread cannot be cancelled")
        plain = self._answer(method_client, Sent(b"plain"))
        with _held(method_client):
            call = method_client.begin(method_client.request(Sent(self.request_body(b"odd"), exchanges.HEADERS)))
            method_client.script.began.wait(self.patience_s)
            method_client.script.ended.clear()
            call.close()
            if not method_client.script.ended.wait(self.patience_s):
                what = "a call was cancelled, and has ended; but its handler goes on"
                method_client.fail(
                    what, "call_async is cancelled when nobody waits for the answer, and ends the handler too"
                )
        self._check_same(method_client, plain, "after a call that was cancelled")

    def test_what_is_under_way_is_answered_while_the_replica_leaves(self, method_client: MethodClient) -> None:
        with ThreadPoolExecutor(1) as thread:
            with _held(method_client):
                asked = thread.submit(method_client.ask, Sent(self.request_body(b"data")), echo)
                method_client.script.began.wait(self.patience_s)
                method_client.drain()
            error = asked.exception()
        if error is not None:
            what = f"{described(error)} came out of a call that was under way when drain() was called"
            method_client.fail(what, "a call that has begun is answered before the replica ends")
        self._check_data(method_client, "an answer", b"data", self._data_in(method_client, asked.result()))

    def test_it_is_closed_once(self) -> None:
        """An adapter is closed after requests, in a replica that has had none, and in one that never got ready."""
        with contextlib.ExitStack() as stack:
            used, unused, unready = (stack.enter_context(contextlib.closing(self._method_client())) for _ in range(3))
            if used.adapter is unused.adapter:
                used.fail("make_adapter returned the same object twice", "each replica has an adapter of its own")
            self._check_body(used, b"data", 0)
            unused.start()
            for client in (used, unused, unready):
                client.end()
        with contextlib.closing(self._method_client()) as another:
            self._check_body(another, b"data", 0)


def _raise(error: BaseException, seen: Seen) -> NoReturn:
    """An `Answer` that fails."""
    raise error


@contextlib.contextmanager
def _held(client: AdapterClient) -> Iterator[None]:
    """A context in which handlers that have begun go no further."""
    let_go = threading.Event()

    def hold() -> None:
        client.script.began.set()
        let_go.wait(4 * client.patience_s)

    client.start()
    client.script.before = hold
    try:
        yield
    finally:
        client.script.before = None
        let_go.set()

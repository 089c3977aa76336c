"""The conformance kit for request adapters."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import httpx
import pytest

from servekit.interfaces import Response
from servekit.testing.conformance import adapter_samples as samples
from servekit.testing.conformance import exchanges
from servekit.testing.conformance.adapter_checks import (
    answer_to,
    check_body,
    check_closed,
    check_data,
    check_headers_answered,
    check_headers_arrive,
    check_same,
    check_status,
    check_unchanged,
    data_in,
    fields_of,
)
from servekit.testing.conformance.adapter_claims import AdapterClaims
from servekit.testing.conformance.drawing import for_all, hypothesis
from servekit.testing.conformance.exchanges import NOTHING, Fault, Got, Seen, Sent, Source, echo, named
from servekit.testing.conformance.ways import Direct, Http, Way

AT_ONCE = 4
_STREAMED = "an iterable body stays one, of the same bytes: each piece goes out as it is made"


class RequestAdapterTests(AdapterClaims):
    """What every request adapter must do. Derive from it in a module of tests, and say what its handlers look like::

        class TestMine(RequestAdapterTests):
            def make_adapter(self):
                return Mine()

            def body_of(self, argument):
                return argument.data

            def result(self, answer):
                return MyAnswer(answer.status, answer.headers, answer.body)

    Most cases run three times: by ``call``, by ``decode`` and ``encode``, and over HTTP on an instance in process.
    The attributes of `AdapterClaims` are what the adapter claims. A case that needs a claim or a method that is not
    there is skipped.
    """

    @pytest.fixture(params=["call", "decode_encode", "http"])
    def way(self, request: pytest.FixtureRequest) -> Way:
        """How the adapter is reached."""
        if request.param == "http":
            return Http(self, request.getfixturevalue("serve_instance"))
        if request.param == "decode_encode" and self.only_call:
            pytest.skip("only_call: decode and encode do nothing without call")
        return Direct(self, parts=request.param == "decode_encode")

    # -- requests ----------------------------------------------------------------------------------------------------

    def test_bodies_arrive_whole_and_come_back(self, way: Way) -> None:
        for data in samples.BODIES:
            for size in samples.PIECE_SIZES if way.takes_pieces else (0,):
                check_body(way, data, size)

    def test_any_body_comes_back(self, way: Way) -> None:
        st = hypothesis().strategies
        sizes = st.integers(0, 300) if way.takes_pieces else st.just(0)
        self._for_all(lambda data, size: check_body(way, data, size), samples.bodies(), sizes)

    def test_a_body_that_breaks_off_is_not_taken_for_a_whole_one(self) -> None:
        for way in self._direct():
            if not way.adapter.streams_body:
                pytest.skip("the adapter does not claim streams_body: it is called when all of a body is there")
            try:
                sent = Sent(self.request_body(b"z" * 100_000), piece_bytes=1000, breaks_off=True)
                got = way.ask(sent, echo)
            except Exception:
                continue
            if got.status < 400:
                way.fail(
                    f"a body broke off in the middle, and it answered {got.status}",
                    "what Request.stream raises (ConnectionError) must come out, or become an error's status",
                )

    def test_headers_arrive(self, way: Way) -> None:
        check_headers_arrive(way, samples.HEADERS)
        self._for_all(lambda headers: check_headers_arrive(way, headers), samples.header_lists())

    def test_query_strings_arrive(self, way: Way) -> None:
        for query in samples.QUERIES:
            seen = answer_to(way, Sent(query=query)).seen.query
            if seen is None:
                pytest.skip("query_of is not overridden: handlers do not see it")
            if (seen.encode("latin-1") if isinstance(seen, str) else seen) != query:
                way.fail(f"of the query string {query!r} the handler saw {seen!r}", "handlers get it as it was sent")

    def test_paths_arrive(self, way: Way) -> None:
        for path in (f"/kit{rest}" for rest in samples.PATHS):
            seen = answer_to(way, Sent(path=path)).seen.path
            if seen is None:
                pytest.skip("path_of is not overridden: handlers do not see it")
            if seen != path:
                way.fail(
                    f"of the path {path!r} the handler saw {seen!r}",
                    "Request.path is decoded already, to text; it is neither decoded nor quoted again",
                )

    def test_the_request_is_left_as_it_was(self) -> None:
        for way in self._direct():
            for answer in (echo, functools.partial(_raise, Fault("for the kit"))):
                request = way.request(Sent(self.request_body(b"data"), samples.HEADERS, query=b"a=1"))
                before = fields_of(request)
                with contextlib.suppress(Fault):
                    way.respond(request, answer)
                check_unchanged(way, request, before)

    # -- answers -----------------------------------------------------------------------------------------------------

    def test_statuses(self, way: Way) -> None:
        self._need("sets_status")
        for status in samples.STATUSES:
            got = answer_to(way, Sent(), lambda seen, status=status: Response(status, [], b"data"))  # type: ignore[misc]
            check_status(way, got, status)
            check_data(way, "an answer", b"data", data_in(way, got))

    def test_a_204_and_a_304_have_no_body(self, way: Way) -> None:
        self._need("sets_status")
        for status in (204, 304):
            got = answer_to(way, Sent(), lambda seen, status=status: Response(status, [], b""))  # type: ignore[misc]
            check_status(way, got, status)
            if got.body:
                way.fail(f"a {status} has the body {got.body[:50]!r}", "an answer with status 204 or 304 has none")
            check_body(way, b"the next one", 0)

    def test_headers_of_answers(self, way: Way) -> None:
        self._need("sets_headers")
        for headers in (samples.ANSWERED, samples.CODED):
            check_headers_answered(way, headers)
        self._for_all(lambda headers: check_headers_answered(way, headers), samples.header_lists())

    def test_what_is_no_answer_is_a_type_error(self, way: Way) -> None:
        if not self.unanswerable:
            pytest.skip("unanswerable is empty: the adapter has an answer for everything")
        contract = "encode raises TypeError for what it has no answer for, and the core answers 500"
        for result in self.unanswerable:
            way.act.instead = result
            try:
                got = way.ask(Sent(self.request_body(b"")), echo)
            except TypeError:
                continue
            except Exception as error:
                way.fail(f"of the result {result!r} it raised {named(error)}", contract)
            finally:
                way.act.instead = NOTHING
            if not (isinstance(way, Http) and got.status == 500):
                way.fail(f"of the result {result!r} it made an answer: {got.status}, {got.body[:50]!r}", contract)

    # -- answers piece by piece --------------------------------------------------------------------------------------

    def test_a_streamed_answer_goes_out_as_it_is_made(self, way: Way) -> None:
        self._need("streams")
        first_came = threading.Event()
        source = Source([b"one", b"two", bytes(range(256)) * 300, b""], waits_for=first_came)
        pieces = []
        with way.streamed(Sent(self.request_body(b"")), lambda seen: Response(200, [], source)) as stream:
            for piece in stream:
                if piece:
                    first_came.set()
                pieces.append(piece)
        if source.waited_in_vain:
            way.fail("it made all of a streamed answer before the first piece went out", _STREAMED)
        if b"".join(pieces) != b"".join(source.pieces):
            way.fail(f"a streamed answer came out as {len(pieces)} other pieces: {pieces[:3]!r}", _STREAMED)
        check_closed(way, source, "its end")

    def test_a_streamed_answer_that_nobody_wants_is_closed(self, way: Way) -> None:
        self._need("streams")
        for method in ("POST", "HEAD"):  # Of an answer to HEAD nothing is read at all.
            source = Source([b"z" * 4096] * 100_000)
            sent = Sent(self.request_body(b""), method=method)
            with way.streamed(sent, lambda seen, source=source: Response(200, [], source)) as stream:  # type: ignore[misc]
                if method == "POST":
                    next(stream, None)
            check_closed(way, source, "its first piece" if method == "POST" else "no piece at all (HEAD)")

    def test_a_streamed_answer_that_fails_is_not_taken_for_a_whole_one(self, way: Way) -> None:
        self._need("streams")
        source = Source([b"one", b"two"], fails=True)
        try:
            with way.streamed(Sent(self.request_body(b"")), lambda seen: Response(200, [], source)) as stream:
                for _ in stream:
                    pass
        except (Fault, httpx.TransportError):
            check_closed(way, source, "its failure")
        else:
            way.fail("a streamed answer whose iterable raised ended as if it were whole", "the exception must come out")

    # -- one request after another, and beside others ----------------------------------------------------------------

    def test_what_a_handler_raises_comes_out(self, way: Way) -> None:
        plain = answer_to(way, Sent(b"plain"))
        for error in (Fault("for the kit"), ValueError("kit"), TypeError("kit"), KeyError("kit"), SystemExit(3)):
            contract = "what a handler raises comes out of call; the core logs it and answers 500"
            try:
                got = way.ask(Sent(self.request_body(b"odd"), samples.HEADERS), functools.partial(_raise, error))
            except BaseException as raised:
                if raised is not error:
                    way.fail(f"the handler raised {named(error)}, and {named(raised)} came out", contract)
            else:
                if not (isinstance(way, Http) and got.status == 500 and b"failed on this request" in got.body):
                    way.fail(f"the handler raised {named(error)}, and the answer is {got.status}", contract)
            check_same(way, plain, f"after a handler that raised {named(error)}")

    def test_a_request_leaves_nothing_behind(self, way: Way) -> None:
        plain = answer_to(way, Sent(b"plain"))
        answer_to(way, Sent(samples.BODIES[-1], samples.HEADERS, "/kit/other", b"a=1"))
        check_same(way, plain, "after a request with headers, a query string and a long body")
        if self.sets_status and self.sets_headers:
            answer_to(way, Sent(), lambda seen: Response(404, list(samples.ANSWERED), b"no"))
            check_same(way, plain, "after an answer with a status and headers")
        if self.streams:
            source = Source([b"one", b"two"])
            with way.streamed(Sent(self.request_body(b"")), lambda seen: Response(200, [], source)) as stream:
                if isinstance(way, Direct):  # Another call while this one's answer is still going out.
                    check_same(way, plain, "while an answer was streamed")
                list(stream)
            check_same(way, plain, "after an answer was streamed")

    def test_requests_at_once_do_not_mix(self, way: Way) -> None:
        way.slots = AT_ONCE
        meeting = threading.Barrier(AT_ONCE, timeout=exchanges.PATIENCE_S)
        seen_by: list[Seen] = []

        def answer(seen: Seen) -> Response:
            meeting.wait()
            seen_by.append(seen)
            headers = [("X-Kit-Who", seen.body.decode("latin-1"))] if self.sets_headers else []
            return Response(200, headers, seen.body)

        def ask(who: int) -> Got:
            data = b"%d" % who
            return way.ask(Sent(self.request_body(data), [("x-kit-who", str(who))], query=data), answer)

        contract = "an adapter answers several requests at once, each in a thread, and keeps nothing of them in itself"
        with ThreadPoolExecutor(AT_ONCE) as threads:
            way.start()
            way.act.before = meeting.wait
            try:
                answers = list(threads.map(ask, range(AT_ONCE)))
            except threading.BrokenBarrierError:
                answers = []
        if meeting.broken:
            way.fail(f"{AT_ONCE} calls at once were never in their handlers together (is there a lock?)", contract)
        for who, got in enumerate(answers):
            if data_in(way, got) != b"%d" % who or got.header("x-kit-who") not in (None, str(who)):
                way.fail(f"of {AT_ONCE} requests at once, number {who} got the answer of another", contract)
        for seen in seen_by:
            names = {value for name, value in seen.headers or () if name.lower() == "x-kit-who"}
            if seen.query not in (None, seen.body, seen.body.decode()) or names - {seen.body.decode()}:
                way.fail(f"of {AT_ONCE} requests at once, a handler saw parts of two: {seen}", contract)

    def test_it_is_closed_once(self) -> None:
        """After requests, and in a replica that has had none."""
        used, unused = Direct(self, parts=False), Direct(self, parts=False)
        if used.adapter is unused.adapter:
            used.fail("make_adapter returned the same object twice", "each replica has an adapter of its own")
        check_body(used, b"data", 0)
        for way in (used, unused):
            try:
                way.adapter.close()
            except Exception as error:
                way.fail(f"close() raised {named(error)}", "it is called once, as the replica ends, and does not raise")
        check_body(Direct(self, parts=False), b"data", 0)

    # -- means -------------------------------------------------------------------------------------------------------

    def _direct(self) -> list[Direct]:
        return [Direct(self, parts) for parts in ((False,) if self.only_call else (False, True))]

    def _need(self, claim: str) -> None:
        if not getattr(self, claim):
            pytest.skip(f"the adapter does not claim {claim}")

    def _for_all(self, check: Callable[..., None], *strategies: Any) -> None:
        for_all(check, *strategies, max_examples=self.max_examples)


def _raise(error: BaseException, seen: Seen) -> NoReturn:
    raise error

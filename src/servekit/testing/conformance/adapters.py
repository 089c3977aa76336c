"""The conformance kit for request adapters."""

from __future__ import annotations

import contextlib
import functools
import threading

import httpx
import pytest

from servekit.interfaces import Response
from servekit.testing.conformance import adapter_samples as samples
from servekit.testing.conformance.adapter_cases import fails
from servekit.testing.conformance.adapter_checks import (
    answer_to,
    check_body,
    check_closed,
    check_data,
    check_headers_answered,
    check_headers_arrive,
    check_status,
    check_unchanged,
    data_in,
    fields_of,
)
from servekit.testing.conformance.adapter_over_time import OverTimeTests
from servekit.testing.conformance.drawing import hypothesis
from servekit.testing.conformance.exchanges import NOTHING, Fault, Sent, echo, named
from servekit.testing.conformance.ways import Direct, Http, Way

_STREAMED = "an iterable body stays one, of the same bytes: each piece goes out as it is made"


class RequestAdapterTests(OverTimeTests):
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

    An adapter that ``is_async`` is called by ``call_async``, on an event loop, in the place of the first two; its
    handlers are awaited, and what they stream is an async iterator. WebSockets (``Request.upgrade``) are left out.
    """

    # -- requests ----------------------------------------------------------------------------------------------------

    def test_bodies_arrive_whole_and_come_back(self, way: Way) -> None:
        for data in samples.BODIES:
            for size in samples.PIECE_SIZES if way.takes_pieces else (0,):
                check_body(way, data, size)

    def test_any_body_comes_back(self, way: Way) -> None:
        st = hypothesis().strategies
        sizes = st.integers(0, 300) if way.takes_pieces else st.just(0)
        self._for_all(lambda data, size: check_body(way, data, size), samples.bodies(), sizes)

    def test_a_body_that_breaks_off_is_not_taken_for_a_whole_one(self, direct: Direct) -> None:
        if not direct.takes_pieces:
            pytest.skip("the adapter does not claim streams_body: it is called when all of a body is there")
        try:
            got = direct.ask(Sent(self.request_body(b"z" * 100_000), piece_bytes=1000, breaks_off=True), echo)
        except AssertionError:
            raise
        except Exception:
            return
        if got.status < 400:
            direct.fail(
                f"a body broke off in the middle, and it answered {got.status}",
                f"what {direct.reads} raises (ConnectionError) must come out, or become an error's status",
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

    def test_the_request_is_left_as_it_was(self, direct: Direct) -> None:
        for answer in (echo, functools.partial(fails, Fault("for the kit"))):
            request = direct.request(Sent(self.request_body(b"data"), samples.HEADERS, query=b"a=1"))
            before = fields_of(request)
            with contextlib.suppress(Fault):
                direct.respond(request, answer)
            check_unchanged(direct, request, before)

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
        source = way.source([b"one", b"two", bytes(range(256)) * 300, b""], waits_for=first_came)
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
            source = way.source([b"z" * 4096] * 100_000)
            sent = Sent(self.request_body(b""), method=method)
            with way.streamed(sent, lambda seen, source=source: Response(200, [], source)) as stream:  # type: ignore[misc]
                if method == "POST":
                    next(stream, None)
            check_closed(way, source, "its first piece" if method == "POST" else "no piece at all (HEAD)")

    def test_a_streamed_answer_that_fails_is_not_taken_for_a_whole_one(self, way: Way) -> None:
        self._need("streams")
        source = way.source([b"one", b"two"], fails=True)
        try:
            with way.streamed(Sent(self.request_body(b"")), lambda seen: Response(200, [], source)) as stream:
                for _ in stream:
                    pass
        except (Fault, httpx.TransportError):
            check_closed(way, source, "its failure")
        else:
            way.fail("a streamed answer whose iterable raised ended as if it were whole", "the exception must come out")

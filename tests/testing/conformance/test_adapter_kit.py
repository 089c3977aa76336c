"""The kit for request adapters fails what is broken, and says what is wrong with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.testing.conformance import broken_adapters as broken
from tests.testing.conformance.adapter_kit import (
    ANSWERED_HEADERS,
    ANY_BODY,
    AS_IT_WAS,
    AT_ONCE,
    BODIES,
    BROKEN_OFF,
    CLOSED,
    DRAINED,
    FAILING,
    GIVEN_UP,
    HEADERS,
    NO_ANSWER,
    NO_BODY,
    NOTHING_BEHIND,
    PATHS,
    QUERIES,
    RAISED,
    STATUSES,
    STREAMED,
    UNWANTED,
    Kit,
    failure_of,
    failure_over_http,
    kit_for,
    run_case,
)
from tests.testing.conformance.broken_adapters import (
    Right,
    RightStreaming,
    RightText,
    RightWsgi,
    StaysInItsThread,
    Streams,
)

from servekit.interfaces import RequestAdapter, Response
from servekit.testing.conformance import RequestAdapterTests, Seen

pytestmark = pytest.mark.usefixtures("impatient")


class TestRight(Kit):
    factory = Right


class TestRightStreaming(Kit):
    factory = RightStreaming


class TestRightWithPieces(Kit):
    factory = Streams


class TestInTheThreadOfTheHandler(Kit):
    """Pieces are read, and closed, in the thread and the context of their handler."""

    factory = StaysInItsThread


class TestText(RequestAdapterTests):
    """Of text and nothing else, any bytes can be made."""

    sets_status = sets_headers = streams = False

    def make_adapter(self) -> RequestAdapter:
        return RightText()

    def body_of(self, argument: str) -> bytes:
        return argument.encode("latin-1")

    def result(self, answer: Response) -> str:
        assert isinstance(answer.body, bytes)
        return answer.body.decode("latin-1")

    def request_body(self, data: bytes) -> bytes:
        return data.decode("latin-1").encode()

    def answered_data(self, body: bytes) -> bytes:
        return body.decode().encode("latin-1")


class TestWsgi(RequestAdapterTests):
    """Handlers are no functions of one argument."""

    only_call = True
    unanswerable = ()

    def make_adapter(self) -> RequestAdapter:
        return RightWsgi()

    def handler(self, act: Callable[[Seen], Response]) -> Callable[..., Any]:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            answer = act(Seen(environ["wsgi.input"].read(), path=environ["PATH_INFO"]))
            start_response(f"{answer.status} OK", answer.headers)
            return [answer.body] if isinstance(answer.body, bytes) else answer.body

        return application


ONLY_ONE = Right()
SAID = [
    (broken.Reads64KiB, BODIES, "of the 1048576 bytes in the body of a request came the first 65536. The contract: ev"),
    (broken.ReadsOnce, BODIES, "came the first 100000"),
    (broken.ReadsTheFirstPart, BODIES, "came the first 1000. The contract: every body passes whole, whatever bytes it"),
    (broken.ReadsTheFirstPart, BODIES, "(streams_body: is Request.stream read?)"),
    (broken.StripsBodies, BODIES, "of the 14 bytes in the body of a request came 10, other ones from byte 0 on"),
    (broken.LosesZeros, ANY_BODY, "of the 1 bytes in the body of a request came the first 0"),
    (broken.NeedsText, BODIES, "UnicodeDecodeError: 'utf-8' codec can't decode byte 0x80 in position 128: invalid sta"),
    (broken.ReceivesText, BODIES, "the handler received '': not bytes. The contract: body_of gives the bytes that cam"),
    (broken.TakesWhatCame, BROKEN_OFF, "a body broke off in the middle, and it answered 200. The contract: what Reque"),
    (broken.LosesRepeatedHeaders, HEADERS, "header 'x-kit-a', sent as ['1', '3', '2'], the handler saw ['2']"),
    (broken.ReadsHeadersAsUtf8, HEADERS, "header 'x-kit-b', sent as ['grün'], the handler saw ['gr\ufffdn']"),
    (broken.UnquotesAgain, PATHS, "of the path '/kit/%41' the handler saw '/kit/A'. The contract: Request.path is dec"),
    (broken.RewritesQueries, QUERIES, "of the query string b'a=1&a=2&b=' the handler saw 'a=1&a=2'"),
    (broken.SortsTheHeaders, AS_IT_WAS, "it changed the request's headers: [("),
    (broken.TakesTheBody, AS_IT_WAS, "it changed the request's body: b'data' to b''. The contract: requests are read,"),
    (broken.CallsTwice, BODIES, "the handler was called 2 times, for POST /kit with 0 bytes and headers []; the answ"),
    (broken.NeverCalls, BODIES, "the handler was called 0 times, for POST /kit with 0 bytes and headers []; the answ"),
    (broken.NeverCalls, BODIES, "does request_body give what the adapter takes?"),
    (broken.AnswersStr, BODIES, "(a response's body is bytes or an iterable of bytes, not str). The contract: an answ"),
    (broken.AnswersNoResponse, BODIES, "the answer is b''. The contract: an answer is a servekit.interfaces.Response"),
    (broken.HeadersOfBytes, ANSWERED_HEADERS, "the core cannot send the answer ("),
    (broken.Always200, STATUSES, "the handler answered 201, and 200 came out. The contract: the status is the handler"),
    (broken.NullIsABody, NO_BODY, "a 204 has the body b'null'. The contract: an answer with status 204 or 304 has non"),
    (broken.JoinsHeaders, ANSWERED_HEADERS, "of an answer's headers [('x-kit-b', 'größer'), ('x-kit-a', '2'), ('set-c"),
    (broken.HeadersByName, ANSWERED_HEADERS, "in its order, repeated ones each on its own"),
    (broken.TakesAnything, NO_ANSWER, "it made an answer: 200, b'<object object"),
    (broken.RefusesByValueError, NO_ANSWER, "it raised ValueError: what is that?. The contract: encode raises TypeErr"),
    (broken.Collects, STREAMED, "it made all of a streamed answer before the first piece went out. The contract: an i"),
    (broken.PiecesOfText, STREAMED, "a streamed answer has the piece 'one'. The contract: pieces are bytes"),
    (broken.OwnPieces, STREAMED, "a streamed answer came out as 4 other pieces: [b'one\\n', b'two\\n'"),
    (broken.RaisesAmidPieces, STREAMED, "the pieces of a streamed answer raised AttributeError"),
    (broken.NeverCloses, STREAMED, "a streamed answer that ended after its end was closed 0 times"),
    (broken.NeverCloses, UNWANTED, "a streamed answer that ended after its first piece was closed 0 times. The contra"),
    (broken.ClosesIfBegun, UNWANTED, "a streamed answer that ended after no piece at all (HEAD) was closed 0 times"),
    (broken.ClosesTwice, STREAMED, "a streamed answer that ended after its end was closed 2 times"),
    (broken.EndsQuietly, FAILING, "a streamed answer whose iterable raised ended as if it were whole"),
    (broken.NeverCloses, FAILING, "a streamed answer that ended after its failure was closed 0 times"),
    (broken.SwallowsExceptions, RAISED, "the handler raised KitError: for the kit, and the answer is 500. The contr"),
    (broken.WrapsExceptions, RAISED, "the handler raised KitError: for the kit, and RuntimeError: the handler failed"),
    (broken.CleansUpAfterSuccess, RAISED, "after a handler that raised KitError: for the kit, the same request as bef"),
    (broken.ForgetsNoHeader, NOTHING_BEHIND, "after a request with headers, a query string and a long body, the same"),
    (broken.KeepsHeadersOfAnswers, NOTHING_BEHIND, "after an answer with a status and headers, the same request as be"),
    (broken.AnswersTheLast, AT_ONCE, "got the answer of another. The contract: an adapter answers several requests at"),
    (broken.OneArgument, AT_ONCE, "of 4 requests at once, "),
    (broken.OneListOfHeaders, AT_ONCE, "of 4 requests at once, a handler saw parts of two: Seen(body=b'"),
    (broken.OneAtATime, AT_ONCE, "4 calls at once were never in their handlers together (is there a lock?)"),
    (broken.ClosesWhatItNeverOpened, CLOSED, "close() raised TypeError: 'NoneType' object is not iterable. The contra"),
    (broken.ClosesTheClass, CLOSED, "RuntimeError: closed came out"),
    (lambda: ONLY_ONE, CLOSED, "make_adapter returned the same object twice. The contract: each replica has an"),
    (lambda: "flask", BODIES, "make_adapter returned 'flask', no servekit.interfaces.RequestAdapter"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("factory", "case", "said"),
    [pytest.param(*row, id=f"{getattr(row[0], '__name__', '')}-{row[1]}") for row in SAID],
)
def test_a_broken_adapter_fails_with_what_is_wrong(factory: Callable[[], Any], case: str, said: str) -> None:
    assert said in failure_of(kit_for(factory, max_examples=200), case)


def test_an_answer_that_cannot_be_read_is_shown() -> None:
    kit = kit_for(Right, answered_data=lambda self, body: body.decode("ascii").encode())
    assert "answered_data cannot read b'gr\\xc3\\xb6\\xc3\\x9fer" in failure_of(kit, BODIES)


def test_every_case_fails_something() -> None:
    cases = {case for _, case, _ in SAID} | {GIVEN_UP, DRAINED}  # See `test_async_adapter_kit`.
    assert cases == {name for name in dir(RequestAdapterTests) if name.startswith("test_")}


BY_DECODE = [
    (broken.Reads64KiB, BODIES),
    (broken.LosesRepeatedHeaders, HEADERS),
    (broken.AnswersStr, BODIES),
    (broken.NeverCloses, UNWANTED),
    (broken.AnswersTheLast, AT_ONCE),
    (broken.TakesAnything, NO_ANSWER),
]


@pytest.mark.parametrize(("factory", "case"), BY_DECODE)
def test_decode_and_encode_are_held_to_it_as_well(factory: Callable[[], Any], case: str) -> None:
    said = failure_of(kit_for(factory), case, by_parts=True)
    assert said.startswith(f"{factory.__name__} by decode() and encode(): ")  # type: ignore[attr-defined]


OVER_HTTP = [
    (broken.Reads64KiB, BODIES, "of the 1048576 bytes in the body of a request came the first 65536"),
    (broken.ReadsTheFirstPart, BODIES, "(streams_body: is Request.stream read?)"),
    (broken.LosesRepeatedHeaders, HEADERS, "the handler saw ['2']"),
    (broken.UnquotesAgain, PATHS, "of the path '/kit/%41' the handler saw '/kit/A'"),
    (broken.AnswersStr, BODIES, "was answered with 500: b\"Internal Server Error"),
    (broken.Always200, STATUSES, "the handler answered 201, and 200 came out"),
    (broken.JoinsHeaders, ANSWERED_HEADERS, "of an answer's headers"),
    (broken.TakesAnything, NO_ANSWER, "it made an answer: 200"),
    (broken.Collects, STREAMED, "it made all of a streamed answer before the first piece went out"),
    (broken.NeverCloses, UNWANTED, "a streamed answer that ended after its first piece was closed 0 times"),
    (broken.ClosesIfBegun, UNWANTED, "after no piece at all (HEAD) was closed 0 times"),
    (broken.EndsQuietly, FAILING, "ended as if it were whole"),
    (broken.SwallowsExceptions, RAISED, "the handler raised KitError: for the kit, and the answer is 500"),
    (broken.ForgetsNoHeader, NOTHING_BEHIND, "the same request as before was another"),
    (broken.AnswersTheLast, AT_ONCE, "got the answer of another"),
    (broken.OneAtATime, AT_ONCE, "(is there a lock?)"),
]  # fmt: skip


@pytest.mark.parametrize(("factory", "case", "said"), OVER_HTTP)
def test_a_broken_adapter_fails_over_http_too(
    factory: Callable[[], Any], case: str, said: str, serve_instance: Any
) -> None:
    found = failure_over_http(kit_for(factory), case, serve_instance)
    assert found.startswith(f"{factory.__name__} over HTTP: ")  # type: ignore[attr-defined]
    assert said in found


@pytest.mark.parametrize(
    ("claim", "case"),
    [("sets_status", STATUSES), ("sets_status", NO_BODY), ("sets_headers", ANSWERED_HEADERS), ("streams", STREAMED)],
)
def test_what_is_not_claimed_is_not_tested(claim: str, case: str) -> None:
    with pytest.raises(pytest.skip.Exception, match=f"does not claim {claim}"):
        run_case(kit_for(broken.AnswersStr, **{claim: False}), case)


@pytest.mark.parametrize(
    ("method", "case"),
    [("headers_of", HEADERS), ("path_of", PATHS), ("query_of", QUERIES), ("unanswerable", NO_ANSWER)],
)
def test_what_handlers_do_not_see_is_not_tested(method: str, case: str) -> None:
    left_out = {"unanswerable": ()} if method == "unanswerable" else {method: lambda self, argument: None}
    with pytest.raises(pytest.skip.Exception, match=f"{method} is"):
        run_case(kit_for(broken.LosesRepeatedHeaders, **left_out), case)


@pytest.mark.parametrize("method", ["make_adapter", "body_of", "result"])
def test_what_an_author_must_write_is_asked_for(method: str) -> None:
    lacking = {method: getattr(RequestAdapterTests, method)}
    with pytest.raises(NotImplementedError, match=f"TheKit needs a method {method}"):
        run_case(kit_for(Right, **lacking), BODIES)


# -- as authors use it -------------------------------------------------------------------------------------------------

MODULE = """
from servekit.interfaces import RequestAdapter, Response
from servekit.testing.conformance import RequestAdapterTests

class Bytes(RequestAdapter):
    def decode(self, request):
        return request.body[:1000]

    def encode(self, result):
        return Response(200, [], result)

class TestBytes(RequestAdapterTests):
    sets_status = sets_headers = streams = False
    unanswerable = ()

    def make_adapter(self):
        return Bytes()

    def body_of(self, argument):
        return argument

    def result(self, answer):
        return answer.body
"""


def test_under_pytest_each_case_and_way_is_a_test(tmp_path: Path) -> None:
    (tmp_path / "test_bytes.py").write_text(MODULE)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert "3 failed, " in done.stdout, done.stdout
    for way in ("call", "decode_encode", "http"):
        assert f"FAILED test_bytes.py::TestBytes::{BODIES}[{way}]" in done.stdout
    assert "Bytes over HTTP: of the 1048576 bytes in the body of a request came the first 1000" in done.stdout


def test_on_real_workers_the_kit_says_that_it_runs_in_process(tmp_path: Path) -> None:
    class Served:
        instance = object()

    with pytest.raises(pytest.skip.Exception, match="in process only"):
        kit_for(Right)._http_client(Served())

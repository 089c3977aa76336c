"""The adapter ``wsgi``: PEP 3333, checked by the standard library's own validator."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

import flask
import pytest

from servekit.interfaces import Request, Response
from servekit_flask import create_wsgi_adapter

HEADERS = [("Content-Type", "text/plain")]


def request(path: str = "/", method: str = "GET", body: bytes = b"", route: str = "/", **more: Any) -> Request:
    headers = more.pop("headers", [(b"host", b"example.org:8080")])
    query = more.pop("query", b"")
    return Request(method, path, query, headers, body, "e", route, "id-1", "127.0.0.1", **more)


def answer(app: Any, asked: Request | None = None, **options: Any) -> Response:
    """What the adapter answers, with its body read and closed as the core does."""
    adapter = create_wsgi_adapter(**options)
    asyncio.run(adapter.start(app))
    response = adapter.call(app, asked or request())
    body: Any = response.body
    if not isinstance(body, bytes):
        response.body = b"".join(body)
        body.close()
    return response


def plain(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", HEADERS)
    return [b"one", b"two"]


@pytest.mark.parametrize("mounted", [None, "/app", "/app/", "/"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_the_validator_finds_nothing(mounted: str | None, method: str) -> None:
    seen = {}

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.update(environ)
        environ["wsgi.input"].read(10)
        start_response("200 OK", HEADERS)
        return [b"" if method == "HEAD" else b"body"]

    route = mounted or "/app/x"
    headers = [(b"host", b"h"), (b"content-type", b"text/plain"), (b"content-length", b"4"), (b"x-a", b"1")]
    asked = request("/app/x", method, b"data", route, mount=mounted is not None, headers=headers, query=b"a=%20")
    response = answer(validator(app), asked)
    assert (response.status, response.headers) == (200, HEADERS)
    prefix = (mounted or "").rstrip("/")
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == (prefix, "/app/x"[len(prefix) :])
    assert (seen["QUERY_STRING"], seen["CONTENT_LENGTH"], seen["HTTP_X_A"]) == ("a=%20", "4", "1")
    assert seen["wsgi.input_terminated"] is True


@pytest.mark.parametrize(("path", "rest"), [("/app", ""), ("/app/", "/"), ("/app/ä b", "/ä b")])
def test_what_follows_the_prefix(path: str, rest: str) -> None:
    adapter: Any = create_wsgi_adapter()
    environ = adapter.decode(request(path, route="/app", mount=True))
    assert environ["SCRIPT_NAME"] == "/app"
    assert environ["PATH_INFO"] == rest.encode().decode("latin-1")


@pytest.mark.parametrize(
    ("sent", "text", "path_info"),
    [
        (b"/app/%E9", "/app/\ufffd", "/\xe9"),
        (b"/app/%C3%A9?q=%E9", "/app/é", "/\xc3\xa9"),
        (b"/%61pp/a%2Fb%20c?", "/app/a/b c", "/a/b c"),
        (b"http://h/app/%FF%00?x", "/app/\ufffd\x00", "/\xff\x00"),
        (None, "/app/x", "/x"),
    ],
)
def test_a_path_has_the_bytes_that_were_sent(sent: bytes | None, text: str, path_info: str) -> None:
    adapter: Any = create_wsgi_adapter()
    query = b"" if sent is None else sent.partition(b"?")[2]
    environ = adapter.decode(request(text, route="/app", mount=True, query=query, sent_target=sent))
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/app", path_info)
    assert environ["RAW_URI"] == environ["REQUEST_URI"] == (sent or b"/app/x").decode()
    assert environ["QUERY_STRING"] == query.decode()


def test_a_prefix_that_is_not_ascii() -> None:
    adapter: Any = create_wsgi_adapter()
    environ = adapter.decode(request("/ä/ö", route="/ä", mount=True))
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/\xc3\xa4", "/\xc3\xb6")


def test_headers_of_proxies_come_as_they_were_sent_and_no_length_is_made_up() -> None:
    adapter: Any = create_wsgi_adapter()
    headers = [(b"x-forwarded-for", b"10.0.0.1"), (b"x-forwarded-prefix", b"/p"), (b"transfer-encoding", b"chunked")]
    environ = adapter.decode(request(body=b"data", headers=headers))
    assert (environ["HTTP_X_FORWARDED_FOR"], environ["HTTP_X_FORWARDED_PREFIX"]) == ("10.0.0.1", "/p")
    assert "CONTENT_LENGTH" not in environ
    assert environ["wsgi.input"].read() == b"data"


def test_wsgi_multithread_is_what_the_replica_does() -> None:
    async def calls() -> list[bool]:
        adapter: Any = create_wsgi_adapter()
        await adapter.start(plain)
        on_loop = adapter.decode(request())
        in_thread = await asyncio.to_thread(adapter.decode, request())
        return [on_loop["wsgi.multithread"], in_thread["wsgi.multithread"]]

    assert asyncio.run(calls()) == [False, True]


def test_url_for_of_a_mounted_flask_app_has_the_prefix() -> None:
    app = flask.Flask("mounted")

    @app.route("/page/<int:number>")
    def page(number: int) -> str:
        return flask.url_for("page", number=number + 1, _external=True)

    response = answer(app, request("/app/page/1", route="/app", mount=True))
    assert response.body == b"http://example.org:8080/app/page/2"
    assert answer(app, request("/page/1")).body == b"http://example.org:8080/page/2"


def test_a_flask_answer_comes_in_one_piece_and_teardown_has_run() -> None:
    app = flask.Flask("whole")
    torn: list[Any] = []
    app.get("/")(lambda: "hello")
    app.teardown_request(torn.append)
    adapter = create_wsgi_adapter()
    response = adapter.call(app, request())
    assert (response.body, torn) == (b"hello", [None])


def test_head_keeps_the_length_that_the_application_promised() -> None:
    app = flask.Flask("head")
    app.get("/")(lambda: "hello")
    response = answer(app, request(method="HEAD"))
    assert (dict(response.headers)["Content-Length"], response.body) == ("5", b"")


class Streamed:
    """An iterable that notes what becomes of it."""

    def __init__(self, pieces: list[bytes], fails: bool = False) -> None:
        self.pieces = pieces
        self.fails = fails
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces
        if self.fails:
            raise ValueError("broke")

    def close(self) -> None:
        self.closed += 1


def test_a_generator_goes_out_as_it_is_made_and_is_closed_once() -> None:
    source = Streamed([b"", b"one", b"two"])

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", HEADERS)
        return source

    response = create_wsgi_adapter().call(app, request())
    body: Any = response.body
    assert list(body) == [b"one", b"two"]
    assert source.closed == 0
    body.close()
    body.close()
    assert source.closed == 1
    unread: Any = create_wsgi_adapter().call(app, request()).body
    unread.close()
    assert source.closed == 2


@pytest.mark.parametrize("taken", [1, 2, 3])
def test_a_context_variable_is_set_and_reset_within_one_generator(taken: int) -> None:
    """Where each piece is asked for in the context of the call, as the core does; read to its end or closed early."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", HEADERS)
        token = variable.set(0)
        try:
            for _ in range(3):
                variable.set(variable.get() + 1)
                yield b"%d" % variable.get()
        finally:
            variable.reset(token)

    context = contextvars.copy_context()
    body: Any = context.run(create_wsgi_adapter().call, app, request()).body
    pieces = context.run(iter, body)
    assert [context.run(next, pieces) for _ in range(taken)] == [b"1", b"2", b"3"][:taken]
    context.run(body.close)
    assert variable not in context


def test_an_application_that_is_itself_a_generator() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("201 Created", HEADERS)
        yield b"one"
        yield b"two"

    response = answer(validator(app))
    assert (response.status, response.body) == (201, b"onetwo")


def test_what_is_written_comes_before_what_is_returned() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        write = start_response("200 OK", HEADERS)
        write(b"one ")
        write(b"two ")
        return [b"three"]

    assert answer(app).body == b"one two three"


def test_exc_info_replaces_an_answer_that_has_not_gone_out() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", HEADERS)
        try:
            raise ValueError("too bad")
        except ValueError:
            start_response("500 Oh", [("X-Error", "1")], sys.exc_info())
        yield b"sorry"

    response = answer(app)
    assert (response.status, response.headers, response.body) == (500, [("X-Error", "1")], b"sorry")


def test_exc_info_is_raised_once_the_answer_has_gone_out() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", HEADERS)
        yield b"one"
        try:
            raise ValueError("too late")
        except ValueError:
            start_response("500 Oh", [], sys.exc_info())

    with pytest.raises(ValueError, match="too late"):
        answer(app)


def test_an_error_before_the_first_piece_comes_out_and_closes() -> None:
    source = Streamed([], fails=True)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", HEADERS)
        return source

    with pytest.raises(ValueError, match="broke"):
        answer(app)
    assert source.closed == 1


def test_a_promised_length_is_kept() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "3")])
        while True:
            yield b"abcdef"

    adapter = create_wsgi_adapter()
    assert adapter.call(app, request()).body == b"abc"


@pytest.mark.parametrize(
    ("statuses", "message"),
    [
        ([], "never called start_response"),
        (["200 OK", "200 OK"], "a second time"),
        (["2000 OK"], "three digits"),
        (["OK"], "three digits"),
    ],
)
def test_what_breaks_the_protocol_is_said(statuses: list[str], message: str) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        for status in statuses:
            start_response(status, HEADERS)
        return [b"x"]

    with pytest.raises((AssertionError, ValueError), match=message):
        answer(app)


def test_a_factory_makes_the_application_once() -> None:
    made = []

    def make() -> Any:
        made.append(1)
        return plain

    adapter = create_wsgi_adapter(factory=True)
    asyncio.run(adapter.start(make))
    assert [adapter.call(make, request()).body for _ in range(3)] == [b"onetwo"] * 3
    assert made == [1]


def test_a_factory_may_be_an_async_def() -> None:
    async def make() -> Any:
        return plain

    adapter = create_wsgi_adapter(factory=True)
    asyncio.run(adapter.start(make))
    assert adapter.call(make, request()).body == b"onetwo"


def test_what_is_no_wsgi_application_is_refused_at_the_start() -> None:
    async def asgi(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(TypeError, match='adapter="asgi"'):
        asyncio.run(create_wsgi_adapter().start(asgi))
    with pytest.raises(TypeError, match="an object of NoneType"):
        asyncio.run(create_wsgi_adapter(factory=True).start(lambda: None))


def test_results_cannot_be_encoded_by_themselves() -> None:
    with pytest.raises(TypeError, match="`call` alone"):
        create_wsgi_adapter().encode("x")


def test_what_could_pass_for_something_else_is_not_in_the_environ() -> None:
    """``HTTP_PROXY`` is where programs that a handler runs would look for their proxy (CVE-2016-5385)."""
    seen: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.update(environ)
        return plain(environ, start_response)

    sent = [b"host", b"proxy", b"content_length", b"x_user", b"x-user", b"proxy-authorization"]
    answer(app, request(headers=[(name, b"1") for name in sent]))
    assert {key for key in seen if key.startswith(("HTTP_", "CONTENT_"))} == {
        "HTTP_HOST",
        "HTTP_X_USER",
        "HTTP_PROXY_AUTHORIZATION",
    }
    assert seen["HTTP_X_USER"] == "1"

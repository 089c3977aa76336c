"""Generators that want the Flask context of their call: pulled as the core does, piece by piece, each by a call of its
own in the `contextvars.Context` of the handler. A handler of the adapter ``flask`` and a view of a whole Flask
application, under ``wsgi``, behave alike."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import flask
import pytest
from flask.globals import _cv_app, _cv_request
from werkzeug.test import EnvironBuilder

from servekit.interfaces import Request, RequestAdapter, Response
from servekit_flask import create_adapter, create_wsgi_adapter

View = Callable[[], Any]


def a_request(name: str = "ada", **more: Any) -> Request:
    headers = more.pop("headers", [(b"host", b"localhost")])
    body = more.pop("body", b"")
    method = "POST" if body else "GET"
    return Request(method, "/x", f"name={name}".encode(), headers, body, "e", "/x", f"id-{name}", "127.0.0.1")


class Server:
    """One adapter, with one view behind it."""

    def __init__(self, kind: str, view: View) -> None:
        self.adapter: RequestAdapter
        self.app: flask.Flask
        self._handler: Any
        if kind == "flask":
            adapter: Any = create_adapter(secret_key="s")
            self.adapter, self.app, self._handler = adapter, adapter.app, lambda request: view()
        else:
            self.app = self._handler = flask.Flask("whole")
            self.app.secret_key = "s"
            self.app.add_url_rule("/x", view_func=view, endpoint="e", methods=["GET", "POST"])
            self.adapter = create_wsgi_adapter()

    def call(self, request: Request | None = None) -> Call:
        return Call(self.adapter, self._handler, request or a_request())


class Call:
    """One call, whose every step is in the same context."""

    def __init__(self, adapter: RequestAdapter, handler: Any, request: Request) -> None:
        self.context = contextvars.copy_context()
        self.response: Response = self.context.run(adapter.call, handler, request)
        self._body: Any = self.response.body
        self._pieces = self.context.run(iter, self._body)

    def next(self) -> str:
        piece: Any = self.context.run(next, self._pieces)
        return piece.decode()

    def rest(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.next())
            except StopIteration:
                self.close()
                return found

    def close(self) -> None:
        self.context.run(self._body.close)

    @property
    def is_clean(self) -> bool:
        """Nothing of Flask's is pushed, in the context of the call or here."""
        inside = self.context.get(_cv_request), self.context.get(_cv_app)
        return (*inside, _cv_request.get(None), _cv_app.get(None)) == (None,) * 4


@pytest.fixture(params=["flask", "wsgi"])
def server(request: pytest.FixtureRequest) -> Callable[[View], Server]:
    return lambda view: Server(request.param, view)


def streams(*pieces: Callable[[], str], ended: list[str] | None = None) -> View:
    """A view that notes something in ``g`` and in the session, and whose answer is what ``pieces`` return."""

    def view() -> Any:
        flask.g.name = flask.request.args["name"]
        flask.session["name"] = flask.request.args["name"]

        def generate() -> Iterator[str]:
            try:
                for piece in pieces:
                    yield piece()
            finally:
                if ended is not None:
                    ended.append(f"{flask.request.args['name']} {flask.g.name}")

        return flask.stream_with_context(generate())

    return view


def read_all() -> str:
    return f"{flask.request.args['name']} {flask.g.name} {flask.session['name']} {flask.current_app.name != ''}"


def test_every_piece_has_request_g_and_session(server: Any) -> None:
    call = server(streams(read_all, read_all, read_all)).call()
    assert call.next() == "ada ada ada True"
    assert _cv_request.get(None) is _cv_app.get(None) is None
    assert call.rest() == ["ada ada ada True"] * 2
    assert call.is_clean


def test_nothing_is_pushed_between_the_handler_and_the_first_piece() -> None:
    assert Server("flask", streams(read_all)).call().is_clean


@pytest.mark.parametrize("taken", [1, 2, 3])
def test_a_client_that_leaves_early_leaves_nothing_pushed(server: Any, taken: int) -> None:
    ended: list[str] = []
    call = server(streams(read_all, read_all, read_all, ended=ended)).call()
    for _ in range(taken):
        call.next()
    call.close()
    assert ended == ["ada ada"]
    assert call.is_clean


def test_a_stream_of_which_nothing_was_taken_is_closed() -> None:
    ended: list[str] = []
    call = Server("flask", streams(read_all, ended=ended)).call()
    call.close()
    assert ended == []  # It never began.
    assert call.is_clean


def test_a_generator_that_fails_leaves_nothing_pushed(server: Any) -> None:
    def fails() -> str:
        raise LookupError("mine")

    call = server(streams(read_all, fails)).call()
    call.next()
    with pytest.raises(LookupError, match="mine"):
        call.next()
    call.close()
    assert call.is_clean


def test_streams_in_turns_have_each_its_own(server: Any) -> None:
    one = server(streams(read_all, read_all, read_all))
    calls = [one.call(a_request(name)) for name in ("ada", "bob", "eve")]
    for _ in range(3):
        assert [call.next().split()[0:3] for call in calls] == [["ada"] * 3, ["bob"] * 3, ["eve"] * 3]
    for call in reversed(calls):
        assert call.rest() == []
        assert call.is_clean


def test_a_session_that_only_the_generator_reads(server: Any) -> None:
    def view() -> Any:
        @flask.stream_with_context
        def generate() -> Iterator[str]:
            yield str(flask.session.get("n"))
            yield flask.request.args["name"]

        return generate()

    call = server(view).call()
    assert call.rest() == ["None", "ada"]
    assert call.is_clean


def test_g_lasts_from_piece_to_piece(server: Any) -> None:
    def count() -> str:
        flask.g.n = flask.g.get("n", 0) + 1
        return str(flask.g.n)

    assert server(streams(count, count, count)).call().rest() == ["1", "2", "3"]


def test_an_application_context_that_the_handler_has_made_is_that_of_its_stream(server: Any) -> None:
    def view() -> Any:
        flask.g.name = "outer"
        with flask.current_app.app_context():
            flask.g.name = "inner"
            pieces = flask.stream_with_context(flask.g.name for _ in range(2))
        assert flask.g.name == "outer"
        return pieces

    call = server(view).call()
    assert call.rest() == ["inner", "inner"]
    assert call.is_clean


def test_a_generator_without_its_context_has_none(server: Any) -> None:
    def view() -> Any:
        return ("yes" if flask.has_request_context() else "no" for _ in range(2))

    call = server(view).call()
    assert call.rest()[-1] == "no"
    assert call.is_clean


def test_a_copied_context_in_the_handler_and_in_its_generator(server: Any) -> None:
    """A copy has a ``g`` of its own in another thread, in each call; where its handler runs, it has that one's."""

    def seen() -> str:
        before = flask.g.get("name")
        flask.g.name = flask.g.get("name", "new")
        return f"{flask.request.args['name']} {flask.session['name']} {before}"

    def pieces() -> Iterator[str]:
        work = flask.copy_current_request_context(seen)
        yield work()
        with ThreadPoolExecutor(1) as pool:
            yield pool.submit(work).result(10)
            yield pool.submit(work).result(10)

        async def to_thread() -> str:
            return await asyncio.to_thread(work)

        yield asyncio.run(to_thread())
        yield read_all()

    def view() -> Any:
        flask.g.name = flask.session["name"] = flask.request.args["name"]
        return flask.stream_with_context([*pieces(), *pieces()] if "all" in flask.request.args else pieces())

    call = server(view).call()
    expected = ["ada ada ada", "ada ada None", "ada ada None", "ada ada ada", "ada ada ada True"]
    assert call.rest() == expected
    assert call.is_clean
    within = a_request()
    within.query_string += b"&all=1"
    assert server(view).call(within).rest() == expected * 2


@pytest.mark.parametrize("writes", [True, False])
def test_what_a_copied_context_writes_to_the_session_is_saved(server: Any, writes: bool) -> None:
    def view() -> Any:
        @flask.copy_current_request_context
        def work() -> None:
            if writes:
                flask.session["n"] = 1

        work()
        return "x"

    names = [name for name, _ in server(view).call().response.headers]
    assert ("Set-Cookie" in names, "Vary" in names) == (writes, writes)


@pytest.mark.parametrize("how", ["read", "closed early"])
def test_teardown_functions_and_signals_are_told_as_flask_tells_them(how: str) -> None:
    def told(kind: str) -> list[str]:
        server = Server(kind, streams(read_all, read_all))
        found: list[str] = []
        server.app.teardown_request(lambda error: found.append(f"request {error} {flask.g.name}"))
        server.app.teardown_appcontext(lambda error: found.append(f"app {error} {flask.g.name}"))

        def popped(sender: Any, **_: Any) -> None:
            found.append("popped")

        with flask.appcontext_popped.connected_to(popped, server.app):
            call = server.call()
            call.next()
            if how == "read":
                call.rest()
            else:
                call.close()
        assert call.is_clean
        return sorted(found)  # A WSGI application is asked for its first piece before its view is left.

    assert told("flask") == told("wsgi") != []


def test_uploads_stay_open_until_the_handler_has_returned(server: Any) -> None:
    builder = EnvironBuilder(method="POST", data={"image": (BytesIO(b"pixels"), "a.png")})
    environ = builder.get_environ()
    files: list[Any] = []

    def view() -> Any:
        files.append(flask.request.files["image"])
        assert list(flask.stream_with_context(iter(["a", "b"]))) == ["a", "b"]
        return iter([flask.request.files["image"].read()])

    asked = a_request(headers=[(b"content-type", environ["CONTENT_TYPE"].encode())], body=environ["wsgi.input"].read())
    assert server(view).call(asked).rest() == ["pixels"]
    assert files[0].stream.closed


def test_a_stream_within_another_call_has_its_own_g() -> None:
    inner = Server("flask", streams(read_all, read_all))

    def view() -> str:
        flask.g.name = "outer"
        response = inner.adapter.call(lambda request: streams(read_all, read_all)(), a_request("bob"))
        body: Any = response.body
        pieces = [piece.decode() for piece in body]
        body.close()
        return f"{pieces} {flask.g.name} {flask.request.args['name']}"

    response = inner.adapter.call(lambda request: view(), a_request())
    assert response.body == b"['bob bob bob True', 'bob bob bob True'] outer ada"
    assert _cv_request.get(None) is _cv_app.get(None) is None


def test_a_stream_of_an_async_def() -> None:
    """Its pieces come in a copy of its task's context, once the handler has returned."""
    adapter: Any = create_adapter(secret_key="s")

    async def handler(request: flask.Request) -> Any:
        await asyncio.sleep(0)
        return streams(read_all, read_all)()

    async def answer() -> tuple[Response, contextvars.Context]:
        response = await adapter.call_async(handler, a_request())
        return response, contextvars.copy_context()

    response, context = asyncio.run(answer())
    body: Any = response.body
    pieces = iter(body)
    assert context.run(next, pieces) == b"ada ada ada True"
    context.run(body.close)
    assert (context.get(_cv_request), context.get(_cv_app)) == (None, None)

"""The adapter flask around an ``async def``, and around a batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import flask
import pytest
from flask.globals import _cv_app, _cv_request
from werkzeug.exceptions import Conflict

from servekit.interfaces import Request, Response
from servekit_flask.adapter import FlaskAdapter


def a_request(name: str = "a") -> Request:
    query = f"name={name}".encode()
    return Request("GET", "/x", query, [(b"host", b"localhost")], b"", "e", "/x", f"id-{name}", "127.0.0.1")


def answer(handler: Any) -> Response:
    async def call() -> Response:
        return await FlaskAdapter().call_async(handler, a_request())

    return asyncio.run(call())


def test_each_task_has_its_own_request_across_every_await() -> None:
    async def handler(request: flask.Request) -> Any:
        flask.g.name = request.args["name"]
        for _ in range(5):
            await asyncio.sleep(0)
            assert flask.request.args["name"] == flask.g.name == request.args["name"]
        return flask.jsonify(flask.request.args["name"])

    async def test() -> None:
        adapter = FlaskAdapter()
        names = [f"n{number}" for number in range(50)]
        found = await asyncio.gather(*(adapter.call_async(handler, a_request(name)) for name in names))
        assert [response.body for response in found] == [f'"{name}"\n'.encode() for name in names]
        assert (_cv_request.get(None), _cv_app.get(None)) == (None, None)

    asyncio.run(test())


async def aborts(request: flask.Request) -> Any:
    flask.abort(418)


async def raises_conflict(request: flask.Request) -> Any:
    raise Conflict("taken")


async def sets_a_header(request: flask.Request) -> Any:
    @flask.after_this_request
    def add(response: flask.Response) -> flask.Response:
        response.headers["X-Own"] = "yes"
        return response

    return "text", 201


@pytest.mark.parametrize(("handler", "status"), [(aborts, 418), (raises_conflict, 409), (sets_a_header, 201)])
def test_flask_conventions(handler: Any, status: int) -> None:
    response = answer(handler)
    assert response.status == status
    assert (("X-Own", "yes") in response.headers) is (handler is sets_a_header)


@pytest.mark.parametrize("fault", [LookupError("mine"), asyncio.CancelledError()])
def test_what_it_raises_comes_through_and_the_context_is_left(fault: BaseException) -> None:
    async def handler(request: flask.Request) -> Any:
        await asyncio.sleep(0)
        raise fault

    async def test() -> None:
        with pytest.raises(type(fault)):
            await FlaskAdapter().call_async(handler, a_request())
        assert (_cv_request.get(None), _cv_app.get(None)) == (None, None)

    asyncio.run(test())


def test_an_async_iterator_is_closed_with_its_answer() -> None:
    ended: list[str] = []

    async def pieces() -> AsyncIterator[str]:
        try:
            yield "one"
            yield "two"
        finally:
            await asyncio.sleep(0)
            ended.append("yes")

    async def handler(request: flask.Request) -> Any:
        return pieces()

    async def test() -> None:
        made: Any = (await FlaskAdapter().call_async(handler, a_request())).body
        assert await anext(made) == b"one"
        await made.aclose()
        assert ended == ["yes"]

    asyncio.run(test())


def test_a_batch_has_an_application_and_no_request() -> None:
    adapter = FlaskAdapter()
    with adapter.batch_context():
        assert flask.current_app.name == adapter.app.name
        assert flask.jsonify(a=1).get_json() == {"a": 1}
        flask.g.x = 1
        with pytest.raises(RuntimeError, match="request context"):
            flask.request.args.get("name")
    assert _cv_app.get(None) is None

"""A handler called by a handle: with objects, within its adapter, and answered with an object."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import flask
import pytest

from servekit.errors import HandlerError, InvalidInputError
from servekit.handles import answers
from servekit.handles.answers import RecordKind, RecordReader
from servekit.handles.failures import unpack_failure
from servekit.handles.payload import pack, unpack
from servekit.interfaces import Request, RequestAdapter, Response
from servekit.replica import invocations
from servekit.replica.flow import run, run_async
from servekit.replica.invocations import Tell
from servekit_flask.adapter import FlaskAdapter


def request(*args: Any, **kwargs: Any) -> Request:
    return Request("POST", "/x", b"", [(b"x-request-id", b"i")], pack((args, kwargs)), "e", "/x", "i", "", chain=())


class Plain(RequestAdapter):
    """Hands the request over as it is, and can make nothing of a result."""

    def __init__(self) -> None:
        self.ended: list[BaseException | None] = []

    def decode(self, request: Request) -> Any:
        return request

    def encode(self, result: Any) -> Response:
        raise TypeError("nothing")

    def call(self, handler: Any, request: Request) -> Response:
        try:
            response = super().call(handler, request)
        except BaseException as error:
            self.ended.append(error)
            raise
        self.ended.append(None)
        return response


def value_of(response: Response) -> Any:
    assert response.headers == [("content-type", answers.VALUE)]
    assert response.status == 200
    assert isinstance(response.body, bytes)
    return unpack(response.body)


def error_of(response: Response) -> Exception:
    assert response.headers == [("content-type", answers.FAILURE)]
    assert response.status == 500
    assert isinstance(response.body, bytes)
    return unpack_failure(response.body)


def answer(adapter: RequestAdapter, handler: Any, asked: Request, tell: Tell = id) -> Response:
    return run(invocations.answering(adapter, handler, asked, tell, on_loop=False))


async def answer_async(adapter: RequestAdapter, handler: Any, asked: Request, tell: Tell = id) -> Response:
    return await run_async(invocations.answering(adapter, handler, asked, tell, on_loop=True))


def call(handler: Any, *args: Any, adapter: RequestAdapter | None = None, **kwargs: Any) -> Response:
    return answer(adapter or FlaskAdapter(), handler, request(*args, **kwargs))


def call_async(handler: Any, *args: Any, adapter: RequestAdapter | None = None, **kwargs: Any) -> Response:
    return asyncio.run(answer_async(adapter or FlaskAdapter(), handler, request(*args, **kwargs)))


ways: Any = pytest.mark.parametrize("way", [call, call_async])
Way = Callable[..., Response]


# -- results -----------------------------------------------------------------------------------------------------------


@ways
def test_the_handler_gets_the_arguments_behind_its_request(way: Way) -> None:
    def handler(decoded: flask.Request, one: Any, *, two: Any) -> Any:
        assert flask.request._get_current_object() is decoded  # type: ignore[attr-defined]
        return decoded.method, decoded.path, decoded.headers["X-Request-ID"], decoded.get_data(), one, two

    async def handler_async(decoded: flask.Request, one: Any, *, two: Any) -> Any:
        await asyncio.sleep(0)
        return handler(decoded, one, two=two)

    found = way(handler if way is call else handler_async, {1: 2}, two=object)
    assert value_of(found) == ("POST", "/x", "i", b"", {1: 2}, object)


@ways
@pytest.mark.parametrize("result", [None, 3, {"a": (1,)}, b"x", {1, 2}])
def test_a_result_goes_back_as_it_is_whatever_the_adapter_would_make_of_it(way: Way, result: Any) -> None:
    def handler(decoded: Any) -> Any:
        return result

    async def handler_async(decoded: Any) -> Any:
        return result

    for adapter in (FlaskAdapter(), Plain()):
        assert value_of(way(handler if way is call else handler_async, adapter=adapter)) == result


def test_a_response_of_flask_is_told_in_words_or_pickled() -> None:
    response = call(lambda decoded: flask.jsonify(a=1))
    if response.status == 200:
        assert value_of(response).get_json() == {"a": 1}
    else:
        assert "cannot be pickled" in str(error_of(response))


def test_a_body_that_is_still_arriving_is_read_to_its_end() -> None:
    asked = request(b"long" * 1000)
    whole = asked.body
    asked.body, asked.incoming = whole[:10], io.BytesIO(whole)
    assert value_of(answer(FlaskAdapter(), lambda decoded, data: len(data), asked)) == 4000


def test_on_the_loop_too() -> None:
    asked = request(b"long" * 1000)
    whole = asked.body

    class Incoming:
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield whole[:10]
            yield whole[10:]

    async def handler(decoded: Any, data: bytes) -> int:
        return len(data)

    asked.body, asked.incoming = whole[:10], Incoming()
    assert value_of(asyncio.run(answer_async(FlaskAdapter(), handler, asked))) == 4000


def test_arguments_and_answers_one_by_one_for_batches() -> None:
    asked = request(1, b=2)
    assert run(invocations.arguments(asked)) == ((1,), {"b": 2})
    assert asked.body == b""
    assert value_of(invocations.response_of([1], id)) == [1]
    assert isinstance(error_of(invocations.failure_of(KeyError("k"))), KeyError)


# -- failures ----------------------------------------------------------------------------------------------------------


def fail(decoded: Any, error: BaseException) -> Any:
    raise error


async def fail_async(decoded: Any, error: BaseException) -> Any:
    raise error


@ways
def test_what_the_handler_raises_is_the_answer_and_the_adapter_sees_it(way: Way) -> None:
    adapter = Plain()
    found = error_of(way(fail if way is call else fail_async, ZeroDivisionError("oh"), adapter=adapter))
    assert isinstance(found, ZeroDivisionError)
    assert "in fail" in str(found.__cause__)
    if way is call:
        assert isinstance(adapter.ended[0], ZeroDivisionError)


@ways
def test_an_http_exception_is_raised_at_the_caller_and_not_made_a_page(way: Way) -> None:
    async def handler_async(decoded: Any) -> None:
        flask.abort(418)

    def handler(decoded: Any) -> None:
        flask.abort(418)

    assert getattr(error_of(way(handler if way is call else handler_async)), "code", None) == 418


@ways
def test_a_result_that_cannot_be_pickled_is_told(way: Way) -> None:
    async def handler_async(decoded: Any) -> Any:
        return threading.Thread()

    found = error_of(way(handler_async if way is call_async else lambda decoded: threading.Thread()))
    assert type(found) is HandlerError
    assert "its result, a Thread, cannot be pickled" in str(found)


@ways
def test_arguments_that_cannot_be_unpickled_are_told(way: Way) -> None:
    asked = request(1)
    asked.body = asked.body.replace(b"\x80\x05", b"\x80\x7f")
    run: Any = answer if way is call else lambda *given: asyncio.run(answer_async(*given))
    assert isinstance(error_of(run(FlaskAdapter(), fail, asked)), ValueError)


@ways
def test_what_a_request_by_http_would_have_failed_with_is_told(way: Way) -> None:
    def told(handler: Any, adapter: RequestAdapter, **broken: bytes) -> list[BaseException]:
        async def handler_async(decoded: Any) -> Any:
            return handler(decoded)

        found: list[BaseException] = []
        asked = request()
        asked.body = broken.get("body", asked.body)
        if way is call:
            read_all(answer(adapter, handler, asked, found.append))
        else:
            read_all(asyncio.run(answer_async(adapter, handler_async, asked, found.append)))
        return found

    error = KeyError("k")
    assert told(lambda decoded: raising(error), Plain()) == [error]
    assert told(lambda decoded: raising(error), FlaskAdapter()) == [error]
    assert told(lambda decoded: Source().items(decoded, 1, error=error), FlaskAdapter()) == [error]
    assert ["cannot be pickled" in str(each) for each in told(lambda decoded: threading.Thread(), Plain())] == [True]
    assert told(lambda decoded: Source().items(decoded, 1), FlaskAdapter()) == []
    assert told(lambda decoded: flask.abort(404), FlaskAdapter()) == []
    assert told(lambda decoded: 1, Plain()) == []
    assert told(lambda decoded: 1, Plain(), body=b"no pickle") == []


def raising(error: Exception) -> None:
    raise error


def read_all(response: Response) -> None:
    if isinstance(response.body, Iterator):
        assert list(response.body)


@ways
def test_a_whole_application_cannot_be_called(way: Way) -> None:
    class Application(Plain):
        whole_application = True

    found = error_of(way(fail, adapter=Application()))
    assert isinstance(found, InvalidInputError)
    assert "use HTTP" in str(found)


@ways
def test_an_adapter_that_answers_itself_is_quoted(way: Way) -> None:
    class Strict(Plain):
        def call(self, handler: Any, request: Request) -> Response:
            return Response(422, [], b"no body")

        async def call_async(self, handler: Any, request: Request) -> Response:
            return self.call(handler, request)

    assert "answered 422 in the place of the handler: no body" in str(error_of(way(fail, adapter=Strict())))


def test_a_cancelled_call_is_cancelled() -> None:
    async def run() -> None:
        started = asyncio.Event()

        async def handler(decoded: Any) -> None:
            started.set()
            await asyncio.sleep(3600)

        task = asyncio.ensure_future(answer_async(FlaskAdapter(), handler, request()))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


# -- generators --------------------------------------------------------------------------------------------------------


class Source:
    """Generators that tell whether they were ended."""

    def __init__(self) -> None:
        self.over = False

    def items(self, decoded: Any, *items: Any, error: Exception | None = None) -> Iterator[Any]:
        try:
            yield from items
            if error is not None:
                raise error
        finally:
            self.over = True

    async def items_async(self, decoded: Any, *items: Any, error: Exception | None = None) -> AsyncIterator[Any]:
        try:
            for item in items:
                yield item
            if error is not None:
                raise error
        finally:
            self.over = True


def read(response: Response) -> list[tuple[RecordKind, Any]]:
    assert response.headers == [("content-type", answers.STREAM)]
    reader, found = RecordReader(), []
    body: Any = response.body

    async def pieces() -> list[bytes]:
        return [piece async for piece in body]

    for piece in list(body) if isinstance(body, Iterator) else asyncio.run(pieces()):
        reader.feed(piece)
        while (each := reader.next()) is not None:
            kind, payload = each
            value = (
                None
                if kind is RecordKind.DONE
                else unpack_failure(payload)
                if kind is RecordKind.FAILURE
                else unpack(payload)
            )
            found.append((kind, value))
    return found


def stream(way: Way, source: Source, *items: Any, **kwargs: Any) -> Response:
    return way(source.items if way is call else source.items_async, *items, **kwargs)


@ways
def test_a_generator_is_a_stream_of_its_items(way: Way) -> None:
    source = Source()
    assert read(stream(way, source, 1, {"two": 2})) == [
        (RecordKind.ITEM, 1),
        (RecordKind.ITEM, {"two": 2}),
        (RecordKind.DONE, None),
    ]
    assert source.over
    assert read(stream(way, Source())) == [(RecordKind.DONE, None)]


@ways
def test_a_generator_that_raises_ends_with_that(way: Way) -> None:
    (kind, _), (last, error) = read(stream(way, Source(), 1, error=KeyError("k")))
    assert (kind, last) == (RecordKind.ITEM, RecordKind.FAILURE)
    assert isinstance(error, KeyError)
    assert "in items" in str(error.__cause__)


@ways
def test_an_item_that_cannot_be_pickled_ends_the_stream_and_the_generator(way: Way) -> None:
    source = Source()
    found = read(way(_threads(source, call is way)))
    assert [kind for kind, _ in found] == [RecordKind.ITEM, RecordKind.FAILURE]
    assert "an item of its stream, a Thread, cannot be pickled" in str(found[1][1])
    assert source.over


def _threads(source: Source, sync: bool) -> Any:
    def handler(decoded: Any) -> Iterator[Any]:
        return source.items(decoded, 1, threading.Thread(), 3)

    def handler_async(decoded: Any) -> AsyncIterator[Any]:
        return source.items_async(decoded, 1, threading.Thread(), 3)

    return handler if sync else handler_async


def test_closed_early_a_stream_ends_its_generator() -> None:
    source = Source()
    body: Any = stream(call, source, 1, 2).body
    next(body)
    assert not source.over
    body.close()
    assert source.over


def test_closed_early_an_async_stream_ends_its_generator() -> None:
    async def run() -> None:
        source = Source()
        body: Any = (await answer_async(FlaskAdapter(), source.items_async, request(1, 2))).body
        await anext(body)
        assert not source.over
        await body.aclose()
        assert source.over

    asyncio.run(run())

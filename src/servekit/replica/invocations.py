"""Calls by a handle: a handler is called with Python objects, and its result goes back as one.

The adapter is around such a call as around any other, with a request that has no body; what it would make of the
result is not used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

from servekit.errors import HandlerError, InvalidInputError
from servekit.handles import answers
from servekit.handles.failures import pack_failure
from servekit.handles.payload import PAYLOAD_BYTES, pack, unpack
from servekit.handles.records import RecordKind, record
from servekit.interfaces import Handler, Request, RequestAdapter, Response
from servekit.replica.flow import Flow, run, run_async
from servekit.replica.render import aclose_body, close_body

_VALUE = [("content-type", answers.VALUE)]
_FAILURE = [("content-type", answers.FAILURE)]
_STREAM = [("content-type", answers.STREAM)]
_STAND_IN = ""
"""What the adapter is given in the place of the result."""


def answering(adapter: RequestAdapter, handler: Handler, request: Request, *, on_loop: bool) -> Flow[Response]:
    """Call a handler; whatever it raises is in the answer, but that it was cancelled is raised.

    ``on_loop``: in a task, for an ``async def`` or an adapter that ``is_async``.
    """
    captured = _Captured(handler)
    try:
        if adapter.whole_application:
            raise InvalidInputError("the backend is a whole application, which handles cannot call; use HTTP")
        captured.args, captured.kwargs = yield from arguments(request)
        if on_loop:
            answered = yield partial(adapter.call_async, captured.call_async, request)
        else:
            answered = yield partial(adapter.call, captured.call, request)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return captured.response or failure_of(error)
    return captured.response or _not_called(answered)


def arguments(request: Request) -> Flow[tuple[tuple[Any, ...], dict[str, Any]]]:
    """``(args, kwargs)``, taken out of the request, which has no body after that. Raises what unpickling raises.

    Of a body that is still arriving it waits for the rest, and raises `ConnectionError` when that will not come.
    """
    payload: bytes = request.body
    if request.incoming is not None:
        on_loop = hasattr(request.incoming, "__aiter__")
        payload = yield partial(_joined, request.pieces()) if on_loop else request.stream.read
    request.body, request.incoming = b"", None
    args, kwargs = unpack(payload)
    return args, kwargs


def response_of(value: Any) -> Response:
    """The answer that carries ``value``; of an iterator or async iterator, what it makes, as it makes it."""
    if isinstance(value, Iterator):
        return Response(200, _STREAM, _records(value))
    if isinstance(value, AsyncIterator):
        return Response(200, _STREAM, _async_records(value))
    try:
        return Response(200, _VALUE, pack(value))
    except Exception as error:
        return failure_of(_unsendable("its result", value, error))


def failure_of(error: BaseException) -> Response:
    """The answer that carries an exception of the handler."""
    return Response(500, _FAILURE, pack_failure(error))


class _Captured:
    """A handler as the adapter sees it. Keeps the answer to its caller."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.response: Response | None = None

    def call(self, decoded: Any) -> Any:
        return run(self._calling(decoded))

    async def call_async(self, decoded: Any) -> Any:
        return await run_async(self._calling(decoded))

    def _calling(self, decoded: Any) -> Flow[str]:
        try:
            value = yield partial(self._handler, decoded, *self.args, **self.kwargs)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.response = failure_of(error)
            raise
        self.response = response_of(value)
        return _STAND_IN


async def _joined(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


def _not_called(answered: Response) -> Response:
    """The adapter answered itself: it found fault with the request, say."""
    body = answered.body
    text = body.decode(errors="replace") if isinstance(body, bytes) else ""
    return failure_of(
        HandlerError(f"the backend's adapter answered {answered.status} in the place of the handler: {text.strip()}")
    )


def _unsendable(what: str, value: Any, error: Exception) -> HandlerError:
    if isinstance(error, InvalidInputError):
        return HandlerError(f"{what} is too long to be sent to the caller (at most {PAYLOAD_BYTES:,} bytes)")
    found = HandlerError(
        f"{what}, a {type(value).__qualname__}, cannot be pickled and so cannot be sent to the caller: "
        f"{type(error).__name__}: {error}"
    )
    found.__cause__ = error
    return found


# -- generators ------------------------------------------------------------------------------------------------------


def _records(items: Iterator[Any]) -> Iterator[bytes]:
    """Closed early, it closes ``items``, whose ``finally`` then runs."""
    kind = RecordKind.ITEM
    try:
        while kind is RecordKind.ITEM:
            try:
                kind, piece = _record(next(items))
            except BaseException as error:
                kind, piece = _last(error)
            yield piece
    finally:
        close_body(items)


async def _async_records(items: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    kind = RecordKind.ITEM
    try:
        while kind is RecordKind.ITEM:
            try:
                kind, piece = _record(await anext(items))
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                kind, piece = _last(error)
            yield piece
    finally:
        await aclose_body(items)


def _last(error: BaseException) -> tuple[RecordKind, bytes]:
    """The record in the place of an item that did not come."""
    if isinstance(error, (StopIteration, StopAsyncIteration)):
        return RecordKind.DONE, record(RecordKind.DONE)
    return RecordKind.FAILURE, record(RecordKind.FAILURE, pack_failure(error))


def _record(item: Any) -> tuple[RecordKind, bytes]:
    try:
        return RecordKind.ITEM, record(RecordKind.ITEM, pack(item))
    except Exception as error:
        return RecordKind.FAILURE, record(
            RecordKind.FAILURE, pack_failure(_unsendable("an item of its stream", item, error))
        )

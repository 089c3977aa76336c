"""Calls by a handle: a handler is called with Python objects, and its result goes back as a Python object.

The adapter is around such a call as around any other, with a request that has no body. The response that the adapter
makes is not used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

from servekit.errors import HandlerError, InvalidInputError
from servekit.handles import answers
from servekit.handles.answers import RecordKind, record
from servekit.handles.failures import pack_failure
from servekit.handles.payload import PAYLOAD_BYTES, pack, unpack
from servekit.interfaces import Handler, Request, RequestAdapter, Response
from servekit.replica.flow import Flow, run, run_async
from servekit.replica.render import aclose_body, close_body

Tell: TypeAlias = Callable[[BaseException], object]
"""Is told of each error that a request by HTTP would have failed with."""

_VALUE = [("content-type", answers.VALUE)]
_FAILURE = [("content-type", answers.FAILURE)]
_STREAM = [("content-type", answers.STREAM)]
_STAND_IN = ""
"""The adapter is given this in the place of the result."""


def answering(
    adapter: RequestAdapter, handler: Handler, request: Request, tell: Tell, *, on_loop: bool
) -> Flow[Response]:
    """Call a handler. An exception of the handler is in the answer; `asyncio.CancelledError` alone is raised.

    ``on_loop``: in a task, for an ``async def`` or an adapter that ``is_async``.
    """
    captured = _Captured(handler, tell)
    try:
        if adapter.whole_application:
            raise InvalidInputError("the backend is a whole application, which handles cannot call; use HTTP")
        captured.args, captured.kwargs = yield from arguments(request)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return failure_of(error)  # The caller's fault: nothing has been called.
    try:
        if on_loop:
            answered = yield partial(adapter.call_async, captured.call_async, request)
        else:
            answered = yield partial(adapter.call, captured.call, request)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        if captured.response is None or captured.raised:
            tell(error)
        return captured.response or failure_of(error)
    return captured.response or _not_called(answered)


def arguments(request: Request) -> Flow[tuple[tuple[Any, ...], dict[str, Any]]]:
    """``(args, kwargs)``, taken out of the request, which has no body after that. Raises any error of unpickling.

    The flow waits for the rest of a body that is still arriving, and raises `ConnectionError` when that will not come.
    """
    payload: bytes = request.body
    if request.incoming is not None:
        on_loop = hasattr(request.incoming, "__aiter__")
        payload = yield partial(_joined, request.pieces()) if on_loop else request.stream.read
    request.body, request.incoming = b"", None
    args, kwargs = unpack(payload)
    return args, kwargs


def response_of(value: Any, tell: Tell) -> Response:
    """The answer that carries ``value``; for an iterator, async or not, the items as they are made."""
    if isinstance(value, Iterator):
        return Response(200, _STREAM, _records(value, tell))
    if isinstance(value, AsyncIterator):
        return Response(200, _STREAM, _async_records(value, tell))
    try:
        return Response(200, _VALUE, pack(value))
    except Exception as error:
        unsendable = _unsendable("its result", value, error)
        tell(unsendable)
        return failure_of(unsendable)


def failure_of(error: BaseException) -> Response:
    """The answer that carries an exception of the handler."""
    return Response(500, _FAILURE, pack_failure(error))


class _Captured:
    """The handler that the adapter is given. Keeps the answer to the caller."""

    def __init__(self, handler: Handler, tell: Tell) -> None:
        self._handler = handler
        self._tell = tell
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.response: Response | None = None
        self.raised = False
        """The handler has raised an error. It fails the call where the adapter has no answer for it, as of an HTTP
        error."""

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
            self.response, self.raised = failure_of(error), True
            raise
        self.response = response_of(value, self._tell)
        return _STAND_IN


async def _joined(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


def _not_called(answered: Response) -> Response:
    """The adapter answered without calling the handler: the adapter found fault with the request, say."""
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


def _records(items: Iterator[Any], tell: Tell) -> Iterator[bytes]:
    """The records of ``items``. Closing this generator early closes ``items``, whose ``finally`` then runs."""
    more = True
    try:
        while more:
            try:
                piece, more = _record(next(items), tell)
            except BaseException as error:
                piece, more = _last_record(error, tell), False
            yield piece
    finally:
        close_body(items)


async def _async_records(items: AsyncIterator[Any], tell: Tell) -> AsyncIterator[bytes]:
    more = True
    try:
        while more:
            try:
                piece, more = _record(await anext(items), tell)
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                piece, more = _last_record(error, tell), False
            yield piece
    finally:
        await aclose_body(items)


def _record(item: Any, tell: Tell) -> tuple[bytes, bool]:
    """The record of an item, and whether another may follow."""
    try:
        return record(RecordKind.ITEM, pack(item)), True
    except Exception as error:
        return _last_record(_unsendable("an item of its stream", item, error), tell), False


def _last_record(error: BaseException, tell: Tell) -> bytes:
    """The record in the place of an item, where the generator ended or failed."""
    if isinstance(error, (StopIteration, StopAsyncIteration)):
        return record(RecordKind.DONE)
    tell(error)
    return record(RecordKind.FAILURE, pack_failure(error))

"""The adapter."""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncIterator, Iterator
from typing import Any

from servekit import jsonable
from servekit.annotations import is_union, returned
from servekit.error_answers import ErrorAnswer
from servekit.errors import ResultError
from servekit.interfaces import Handler, HandlerTypes, Request, RequestAdapter, Response
from servekit_json.parameters import Parameters, spread
from servekit_json.problems import RefusedError, said

_JSON = ("Content-Type", "application/json")
_LINES = ("Content-Type", "application/x-ndjson")


class JsonAdapter(RequestAdapter):
    """Calls a handler with what the annotations of its parameters say; a request that does not fit is a 422."""

    def __init__(self, *, strict: bool | None = None, max_problems: int = 20) -> None:
        if max_problems < 1:
            raise ValueError(f"max_problems is {max_problems}: at least 1 is needed, or a 422 would say nothing")
        self._strict = strict
        self._max_problems = max_problems
        self._parameters: Parameters | None = None
        """Of the handler that this adapter is fitted to."""
        self._takes_none = self._takes_tuples = False
        """What that handler says that it returns."""

    def fit(self, handler: Handler, *, batches: bool) -> tuple[JsonAdapter, Handler]:
        """Raises `InvalidInputError` for a handler whose parameters no request can give."""
        fitted = JsonAdapter(strict=self._strict, max_problems=self._max_problems)
        fitted._parameters = Parameters(handler, batches=batches, strict=self._strict)
        annotation = returned(handler)
        fitted._takes_none = annotation is None or (is_union(annotation) and type(None) in typing.get_args(annotation))
        fitted._takes_tuples = typing.get_origin(annotation) is tuple
        return fitted, spread(handler, fitted._parameters, batches=batches)

    def types(self) -> HandlerTypes | None:
        return None if self._parameters is None else self._parameters.types()

    def decode(self, request: Request) -> Any:
        """One value for each parameter; None for a call by a handle, which has its own. Raises `RefusedError`."""
        assert self._parameters is not None, "the adapter is to be fitted to a handler first"
        return None if request.chain is not None else self._parameters.values(request)

    def call(self, handler: Handler, request: Request) -> Response:
        # Only `decode` may refuse: an exception of the handler's own, a validation error too, is the handler's fault.
        try:
            values = self.decode(request)
        except RefusedError as refused:
            return self._refusal(refused, request)
        return self.encode(handler(values))

    async def call_async(self, handler: Handler, request: Request) -> Response:
        try:
            values = self.decode(request)
        except RefusedError as refused:
            return self._refusal(refused, request)
        return self.encode(await handler(values))

    def answer_item(self, item: Any, request: Request) -> Response:
        if isinstance(item, RefusedError):
            return self._refusal(item, request)
        if isinstance(item, BaseException):
            raise item
        return self.encode(item)

    def encode(self, result: Any) -> Response:
        """Whatever becomes JSON, a pair with a status, a `Response` as it is, and of an iterator each item as a line of
        JSON. Raises `ResultError`."""
        if isinstance(result, Response):
            return result
        if type(result) is tuple and not self._takes_tuples and len(result) in (2, 3):
            body, status, more = jsonable.parts_of(result)
            response = self.encode(body)
            own = {name.lower() for name, _ in more or ()}
            headers = [header for header in response.headers if header[0].lower() not in own]
            return Response(response.status if status is None else status, [*headers, *(more or ())], response.body)
        if isinstance(result, Iterator):
            return Response(200, [_LINES], _Lines(result))
        if isinstance(result, AsyncIterator):
            return Response(200, [_LINES], _AsyncLines(result))
        if result is None and not self._takes_none:
            raise ResultError(
                "The handler returned None, or ended without a return statement. Where it means JSON's null, its "
                "annotation says so: `-> None`, or `-> Item | None`."
            )
        if inspect.iscoroutine(result):
            result.close()
            raise ResultError("The handler returned a coroutine, which nobody awaits here: make it an async def.")
        if isinstance(result, (bytes, bytearray, memoryview)):
            raise ResultError(
                "The handler returned bytes, which are no JSON. For an answer of another type return a "
                "servekit.interfaces.Response(status, headers, body)."
            )
        return Response(200, [_JSON], jsonable.encode(result))

    def _refusal(self, refused: RefusedError, request: Request) -> Response:
        problems = refused.problems
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        error = ErrorAnswer(refused.type, f"{said(problems[0])}{more}")
        return Response(error.status, [_JSON], error.json(request.id, problems[: self._max_problems]))


class _Lines:
    """Each item as a line of JSON. No generator: one that was never begun would not close ``items``."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return jsonable.encode(next(self._items)) + b"\n"

    def close(self) -> None:
        close = getattr(self._items, "close", None)
        if close is not None:
            close()


class _AsyncLines:
    """The same, of what is awaited."""

    def __init__(self, items: AsyncIterator[Any]) -> None:
        self._items = items

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return jsonable.encode(await anext(self._items)) + b"\n"

    async def aclose(self) -> None:
        close = getattr(self._items, "aclose", None)
        if close is not None:
            await close()

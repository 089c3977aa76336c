"""What a handler returned, as a response: Flask's own conventions, and JSON for whatever becomes JSON."""

from __future__ import annotations

import concurrent.futures
import inspect
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, cast

import flask
from flask.globals import _cv_request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse
from werkzeug.wsgi import ClosingIterator

from servekit.errors import ResultError
from servekit.interfaces import Response
from servekit.jsonable import is_convertible, parts_of
from servekit_flask.context import LeanRequestContext
from servekit_flask.jsonable import HandlerJSON

_HTML = ("Content-Type", "text/html; charset=utf-8")
_JSON = ("Content-Type", "application/json")
_JSON_TYPES = frozenset({dict, list, int, float, bool})
_PLAIN = _JSON_TYPES | {str, bytes}
_ACCEPTED = (
    "str, bytes, int, float, bool, dict, list, a generator, a Response, what else becomes JSON (a numpy value, a "
    "dataclass, a pydantic model) or a tuple that begins so"
)


class HandlerApp(flask.Flask):
    """The application that handlers see as `flask.current_app`; it has no URLs of its own."""

    json_provider_class = HandlerJSON
    json: HandlerJSON

    def make_response(self, rv: Any) -> flask.Response:
        """As Flask's, for more types. Raises `ResultError` for a result that is no answer."""
        body: Any = rv
        rest: tuple[Any, ...] = ()
        if isinstance(rv, tuple) and len(rv) in (2, 3):
            body, status, headers = parts_of(rv)
            rest = (status,) if headers is None else (status, rv[-1])  # Flask reads them in its own way.
        if isinstance(body, AsyncIterator):
            response = self.response_class(iter(()))  # of "" it would have a Content-Length
            response = super().make_response((response, *rest)) if rest else response
            response.response = body  # type: ignore[assignment]  # `wire_response` knows
            return response
        body = self._flask_body(body)
        try:
            return super().make_response((body, *rest) if rest else body)
        except ValueError as error:  # A header with a line break in it, or text that is half of a surrogate pair.
            if callable(body):
                raise  # Flask has called it.
            raise ResultError(f"The handler's result makes no response: {error}") from error

    def _flask_body(self, body: Any) -> Any:
        """``body`` as something that Flask's own ``make_response`` takes."""
        if body is None:
            raise ResultError(
                "The handler did not return a valid response. The function either returned None or ended without a"
                f" return statement. It may return {_ACCEPTED}."
            )
        if isinstance(body, self.response_class | str | bytes | bytearray | dict | list | Iterator):
            return body
        if isinstance(body, int | float) or is_convertible(body):
            return self.json.response(body)
        if isinstance(body, HTTPException):
            body = body.get_response(_environ())
        if isinstance(body, WerkzeugResponse):
            return self.response_class.force_type(body)
        if isinstance(body, concurrent.futures.Future):
            raise TypeError(
                f"The handler returned a {type(body).__name__}, which is what a call will give: return its .result(), "
                "or, in an async def, await it."
            )
        if inspect.iscoroutine(body):
            body.close()
            raise ResultError(
                "The handler returned a coroutine, which nobody awaits here: it is a def that calls an async def, or a "
                "decorator hides that it is an async def. Make it an async def, and await the call in it."
            )
        if callable(body):  # a WSGI application, or so Flask takes it
            return body
        raise ResultError(
            f"The handler returned {type(body).__name__}, which is no response. It may return {_ACCEPTED}."
        )


def encode(app: HandlerApp, result: Any, context: LeanRequestContext | None = None) -> Response:
    """Raises `ResultError` for what is no response.

    ``context``: of the call, whose after-request functions and session then have their part in the response. The core
    has the last word on statuses and headers, whichever adapter made them.
    """
    if context is not None and (
        context._session is not None or context._after_request_functions or app.after_request_funcs
    ):
        return wire_response(context.finish(app.make_response(result)))
    kind = type(result)
    if kind is str:
        try:
            return Response(200, [_HTML], result.encode())
        except UnicodeEncodeError as error:
            raise ResultError(f"The handler's text is no UTF-8: {error}") from error
    if kind in _JSON_TYPES:
        return Response(200, [_JSON], app.json.encode(result))
    if kind is bytes:
        return Response(200, [_HTML], result)
    if kind is tuple and len(result) == 2 and _is_plain(*result):
        response = encode(app, result[0])
        response.status = result[1]
        return response
    return wire_response(app.make_response(result))


def _is_plain(body: Any, status: Any) -> bool:
    """True when a pair needs no werkzeug response. 304 needs one: werkzeug removes Content-Type and the like."""
    return type(status) is int and status != 304 and type(body) in _PLAIN


def wire_response(response: flask.Response) -> Response:
    """A werkzeug response as it would go out of a WSGI server; an iterator stays one."""
    headers = response.get_wsgi_headers(_environ()).to_wsgi_list()
    status, content = response.status_code, cast("Any", response.response)
    if isinstance(content, AsyncIterator):
        return Response(status, headers, _async_pieces(content))
    if not response.is_sequence:
        return Response(status, headers, ClosingIterator(_pieces(content), response.close))
    body = b"".join(_pieces(content))
    response.close()
    return Response(status, headers, body)


def _environ() -> dict[str, Any]:
    """That of the current request; `FlaskAdapter.encode` also works without one."""
    context = _cv_request.get(None)
    return context.request.environ if context is not None else {}


def _bytes(piece: Any) -> bytes:
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, bytes | bytearray | memoryview):
        return bytes(piece)
    raise ResultError(f"a streamed response is made of str and bytes; {type(piece).__name__} came")


def _pieces(content: Iterable[Any]) -> Iterator[bytes]:
    for piece in content:
        yield _bytes(piece)


async def _async_pieces(content: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    try:
        async for piece in content:
            yield _bytes(piece)
    finally:
        close = getattr(content, "aclose", None)
        if close is not None:
            await close()

"""The adapter ``wsgi``: a whole application that speaks PEP 3333, called as its server calls it."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, NoReturn, TypeAlias

from servekit.interfaces import Handler, Request, RequestAdapter, Response
from servekit.loopless import call_loopless
from servekit_flask.environ import environ_of

ExcInfo: TypeAlias = "tuple[type[BaseException], BaseException, TracebackType | None]"
Application: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class WsgiAdapter(RequestAdapter):
    """Calls the backend's target as a WSGI application: a Flask or Django app, or any callable of that kind."""

    whole_application = True
    streams_body = True

    def __init__(self, *, factory: bool = False) -> None:
        """``factory``: the target is no application, but makes one when it is called without arguments. It may be an
        ``async def``."""
        self._factory = factory
        self._made: Application | None = None
        self._loop_thread = 0

    async def start(self, handler: Handler) -> None:
        """Make the application, where the target is a factory. Raises ``TypeError`` for what cannot be one."""
        self._loop_thread = threading.get_ident()
        application: Any = handler
        if self._factory:
            made: Any = call_loopless(asyncio.get_running_loop(), handler)
            application = self._made = await made if inspect.isawaitable(made) else made
        if not callable(application):
            kind = type(application).__name__
            raise TypeError(f"the factory made an object of {kind}, which cannot be called and so is no application")
        call = application if inspect.isroutine(application) else type(application).__call__
        if inspect.iscoroutinefunction(call):
            raise TypeError(f'{application!r} is called with `await`, so it is no WSGI application; try adapter="asgi"')

    def call(self, handler: Handler, request: Request) -> Response:
        application = handler if self._made is None else self._made
        answer = _Answer()
        return answer.take(application(self.decode(request), answer.start_response))

    def decode(self, request: Request) -> dict[str, Any]:
        """The environ. SCRIPT_NAME is the prefix at which the application is mounted, PATH_INFO what follows it."""
        environ = environ_of(request)
        prefix = request.route.rstrip("/") if request.mount else ""
        if prefix:
            environ["SCRIPT_NAME"] = prefix.encode().decode("latin-1")
            environ["PATH_INFO"] = environ["PATH_INFO"][len(environ["SCRIPT_NAME"]) :]
        # On the loop's thread there is one call at a time: a replica that has several slots calls on other threads.
        environ["wsgi.multithread"] = threading.get_ident() != self._loop_thread
        return environ

    def encode(self, result: Any) -> NoReturn:
        raise TypeError("a WSGI application answers through start_response, so the adapter has `call` alone")


class _Answer:
    """One answer: what ``start_response`` was told, and the pieces that the application makes."""

    def __init__(self) -> None:
        self._status = 0
        """0: ``start_response`` has not been called."""
        self._headers: list[tuple[str, str]] = []
        self._written: list[bytes] = []
        self._sent = False

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
    ) -> Callable[[bytes], None]:
        if exc_info is not None:
            try:
                if self._sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # A cycle through the traceback, says PEP 3333.
        elif self._status:
            raise AssertionError("start_response was called a second time, without exc_info")
        self._status = _status_of(status)
        self._headers = list(headers)
        return self._write

    def _write(self, data: bytes) -> None:
        """What is written goes out before what is returned, and with it: until then it is kept."""
        if self._sent:
            raise AssertionError("write() was called after the application had returned")
        self._written.append(data)

    def take(self, result: Iterable[bytes]) -> Response:
        """The response, with all of its body where that is there; ``result`` is closed when it has been read."""
        pieces = _Pieces(result)
        try:
            piece = b"" if self._written else pieces.next_with_content()
            first = b"".join([*self._written, piece])
            if not self._status:
                raise AssertionError("the application returned an answer, but never called start_response")
            self._sent = True
            body = self._whole_body(result, pieces, first)
        except BaseException:
            pieces.close()
            raise
        if body is None:
            pieces.push(first)
            return Response(self._status, self._headers, pieces)
        pieces.close()
        return Response(self._status, self._headers, body)

    def _whole_body(self, result: Iterable[bytes], pieces: _Pieces, first: bytes) -> bytes | None:
        """The body where it is all there; None where it is to go out as it is made."""
        length = self._promised_length()
        if isinstance(result, (list, tuple)):
            return first + b"".join(pieces)
        if length is not None and len(first) >= length:
            return first[:length]
        return None if first or length else b""

    def _promised_length(self) -> int | None:
        for name, value in self._headers:
            if name.lower() == "content-length" and value.isascii() and value.isdecimal():
                return int(value)
        return None


class _Pieces:
    """What an application returned, to be read once and closed once, whether anything was read or not."""

    def __init__(self, result: Iterable[bytes]) -> None:
        self._result: Iterable[bytes] | None = result
        self._iterator = iter(result)
        self._first = b""

    def push(self, first: bytes) -> None:
        self._first = first

    def next_with_content(self) -> bytes:
        """The next piece that is not empty: no head goes out before it (PEP 3333). Empty where there is none."""
        return next((piece for piece in self._iterator if piece), b"")

    # No generator: `yield from` would close an iterator of the application's by itself, and `close` a second time.
    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        return next(self._iterator)

    def close(self) -> None:
        result, self._result = self._result, None
        close = getattr(result, "close", None)
        if close is not None:
            close()


def _status_of(line: str) -> int:
    """``404 Not Found``: the core has the reasons itself."""
    code, _, _ = line.partition(" ")
    if len(code) != 3 or not (code.isascii() and code.isdigit()):
        raise ValueError(f"start_response was given the status {line!r}; it must begin with three digits")
    return int(code)

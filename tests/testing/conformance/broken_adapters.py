"""Request adapters that are right, and many that are each wrong in one thing."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlencode

from servekit.interfaces import Handler, Request, RequestAdapter, Response


@dataclasses.dataclass
class Asked:
    """What handlers of these adapters receive."""

    data: bytes
    headers: list[tuple[str, str]]
    path: str
    query: bytes


@dataclasses.dataclass
class Reply:
    """What they return."""

    status: int
    headers: list[tuple[str, str]]
    data: Any


class Right(RequestAdapter):
    """The broken ones differ from it in one thing each."""

    def decode(self, request: Request) -> Asked:
        headers = [(name.decode(), value.decode("latin-1")) for name, value in request.headers]
        return Asked(request.body, headers, request.path, request.query_string)

    def encode(self, result: Any) -> Response:
        if not isinstance(result, Reply):
            raise TypeError(f"the handler must return a Reply, not {type(result).__name__}")
        return Response(result.status, result.headers, result.data)


class RightStreaming(Right):
    streams_body = True

    def decode(self, request: Request) -> Asked:
        asked = super().decode(request)
        asked.data = request.stream.read()
        return asked


class RightWsgi(RequestAdapter):
    """Handlers are WSGI applications, which give a list or an iterator."""

    def decode(self, request: Request) -> Any:
        raise NotImplementedError("handlers are whole applications")

    def encode(self, result: Any) -> Response:
        raise NotImplementedError("handlers are whole applications")

    def call(self, handler: Handler, request: Request) -> Response:
        environ = {"wsgi.input": request.stream, "PATH_INFO": request.path}
        started: list[Any] = []
        body = handler(environ, lambda status, headers: started.extend([int(status[:3]), headers]))
        return Response(started[0], started[1], body)


class RightText(RequestAdapter):
    """Handlers get text and return it."""

    def decode(self, request: Request) -> str:
        return request.body.decode()

    def encode(self, result: Any) -> Response:
        if not isinstance(result, str):
            raise TypeError("no text")
        return Response(200, [("Content-Type", "text/plain; charset=utf-8")], result.encode())


# -- requests ----------------------------------------------------------------------------------------------------------


class LosesRepeatedHeaders(Right):
    def decode(self, request: Request) -> Asked:
        asked = super().decode(request)
        return dataclasses.replace(asked, headers=list(dict(asked.headers).items()))


class ReadsHeadersAsUtf8(Right):
    def decode(self, request: Request) -> Asked:
        asked = super().decode(request)
        asked.headers = [(name.decode(), value.decode(errors="replace")) for name, value in request.headers]
        return asked


class Reads64KiB(Right):
    def decode(self, request: Request) -> Asked:
        asked = super().decode(request)
        return dataclasses.replace(asked, data=asked.data[: 64 * 1024])


class ReadsOnce(RightStreaming):
    def decode(self, request: Request) -> Asked:
        asked = Right.decode(self, request)
        return dataclasses.replace(asked, data=request.stream.read(100_000))


class ReadsTheFirstPart(Right):
    streams_body = True


class TakesWhatCame(RightStreaming):
    def decode(self, request: Request) -> Asked:
        asked, pieces = Right.decode(self, request), []
        try:
            while piece := request.stream.read(1000):
                pieces.append(piece)
        except ConnectionError:
            pass
        return dataclasses.replace(asked, data=b"".join(pieces))


class StripsBodies(Right):
    def decode(self, request: Request) -> Asked:
        asked = super().decode(request)
        return dataclasses.replace(asked, data=asked.data.strip(b"\r\n"))


class LosesZeros(Right):
    def decode(self, request: Request) -> Asked:
        asked = super().decode(request)
        return dataclasses.replace(asked, data=asked.data.replace(b"\0", b""))


class NeedsText(Right):
    def decode(self, request: Request) -> Asked:
        request.body.decode()
        return super().decode(request)


class ReceivesText(Right):
    def decode(self, request: Request) -> Asked:
        asked = super().decode(request)
        return dataclasses.replace(asked, data=asked.data.decode("latin-1"))  # type: ignore[arg-type]


class UnquotesAgain(Right):
    def decode(self, request: Request) -> Asked:
        asked = super().decode(request)
        return dataclasses.replace(asked, path=unquote(asked.path))


class RewritesQueries(Right):
    def decode(self, request: Request) -> Asked:
        asked = super().decode(request)
        return dataclasses.replace(asked, query=urlencode(parse_qsl(asked.query)))


class SortsTheHeaders(Right):
    def decode(self, request: Request) -> Asked:
        request.headers.sort()
        return super().decode(request)


class TakesTheBody(Right):
    def decode(self, request: Request) -> Asked:
        asked = super().decode(request)
        request.body = b""
        return asked


class CallsTwice(Right):
    def call(self, handler: Handler, request: Request) -> Response:
        super().call(handler, request)
        return super().call(handler, request)


class NeverCalls(Right):
    def call(self, handler: Handler, request: Request) -> Response:
        return Response(422, [], b"that will not do")


# -- answers -----------------------------------------------------------------------------------------------------------


class AnswersStr(Right):
    def encode(self, result: Any) -> Response:
        response = super().encode(result)
        response.body = response.body.decode("latin-1")  # type: ignore[union-attr, assignment]
        return response


class AnswersNoResponse(Right):
    def encode(self, result: Any) -> Any:
        return result.data


class HeadersOfBytes(Right):
    def encode(self, result: Any) -> Response:
        response = super().encode(result)
        response.headers = [(name.encode(), value) for name, value in response.headers]  # type: ignore[misc]
        return response


class Always200(Right):
    def encode(self, result: Any) -> Response:
        return Response(200, result.headers, result.data)


class NullIsABody(Right):
    def encode(self, result: Any) -> Response:
        return Response(result.status, result.headers, result.data or b"null")


class JoinsHeaders(Right):
    def encode(self, result: Any) -> Response:
        joined: dict[str, str] = {}
        for name, value in result.headers:
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        return Response(result.status, list(joined.items()), result.data)


class HeadersByName(Right):
    def encode(self, result: Any) -> Response:
        return Response(result.status, sorted(result.headers), result.data)


class TakesAnything(Right):
    def encode(self, result: Any) -> Response:
        return super().encode(result) if isinstance(result, Reply) else Response(200, [], str(result).encode())


class RefusesByValueError(Right):
    def encode(self, result: Any) -> Response:
        try:
            return super().encode(result)
        except TypeError as error:
            raise ValueError("what is that?") from error


# -- answers piece by piece --------------------------------------------------------------------------------------------


class Streams(Right):
    """Not broken yet: `pieces` is what the others do otherwise."""

    def encode(self, result: Any) -> Response:
        response = super().encode(result)
        if not isinstance(response.body, bytes):
            response.body = self.pieces(response.body)
        return response

    def pieces(self, body: Any) -> Any:
        return body


class Collects(Streams):
    def pieces(self, body: Any) -> Any:
        found = b"".join(body)
        body.close()
        return found


class NeverCloses(Streams):
    def pieces(self, body: Any) -> Any:
        return (piece for piece in body)


class ClosesIfBegun(Streams):
    """A generator that was not begun runs no ``finally``."""

    def pieces(self, body: Any) -> Iterator[bytes]:
        try:
            yield from map(bytes, body)
        finally:
            body.close()


class ClosesTwice(Streams):
    class Pieces:
        def __init__(self, body: Any) -> None:
            self.body = body

        def __iter__(self) -> Iterator[bytes]:
            yield from self.body
            self.body.close()

        def close(self) -> None:
            self.body.close()

    def pieces(self, body: Any) -> Any:
        return self.Pieces(body)


class EndsQuietly(Streams):
    class Pieces(ClosesTwice.Pieces):
        def __iter__(self) -> Iterator[bytes]:
            try:
                yield from self.body
            except Exception:
                return

    def pieces(self, body: Any) -> Any:
        return self.Pieces(body)


class PiecesOfText(Streams):
    class Pieces(ClosesTwice.Pieces):
        def __iter__(self) -> Iterator[Any]:
            return (piece.decode("latin-1") for piece in self.body)

    def pieces(self, body: Any) -> Any:
        return self.Pieces(body)


class OwnPieces(Streams):
    class Pieces(ClosesTwice.Pieces):
        def __iter__(self) -> Iterator[Any]:
            return (piece + b"\n" for piece in self.body)

    def pieces(self, body: Any) -> Any:
        return self.Pieces(body)


class RaisesAmidPieces(Streams):
    class Pieces(ClosesTwice.Pieces):
        def __iter__(self) -> Iterator[Any]:
            yield next(self.body)
            raise AttributeError("no such piece")

    def pieces(self, body: Any) -> Any:
        return self.Pieces(body)


class StaysInItsThread(Right):
    """Right: the pieces of an answer need the thread and the context of their handler."""

    user: ClassVar[ContextVar[str]] = ContextVar("user")

    class Pieces:
        def __init__(self, body: Any, user: ContextVar[str]) -> None:
            self.body, self.user = body, user
            self.made_in = threading.get_ident(), user.get()

        def check(self) -> None:
            assert (threading.get_ident(), self.user.get()) == self.made_in

        def __iter__(self) -> Iterator[bytes]:
            self.check()
            for piece in self.body:
                self.check()
                yield piece

        def close(self) -> None:
            self.check()
            self.body.close()

    def call(self, handler: Handler, request: Request) -> Response:
        assert self.user.get(None) is None, "a call has a context of its own"
        self.user.set(request.id)
        response = super().call(handler, request)
        if not isinstance(response.body, bytes):
            response.body = self.Pieces(response.body, self.user)
        return response


# -- one request after another, and beside others ----------------------------------------------------------------------


class SwallowsExceptions(Right):
    def call(self, handler: Handler, request: Request) -> Response:
        try:
            return super().call(handler, request)
        except Exception as error:
            return Response(500, [], str(error).encode())


class WrapsExceptions(Right):
    def call(self, handler: Handler, request: Request) -> Response:
        try:
            return super().call(handler, request)
        except Exception as error:
            raise RuntimeError("the handler failed") from error


class ForgetsNoHeader(Right):
    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    def decode(self, request: Request) -> Asked:
        asked = super().decode(request)
        self.headers.update(asked.headers)
        return dataclasses.replace(asked, headers=list(self.headers.items()))


class CleansUpAfterSuccess(Right):
    pending: Asked | None = None

    def decode(self, request: Request) -> Asked:
        self.pending = self.pending or super().decode(request)
        return self.pending

    def encode(self, result: Any) -> Response:
        self.pending = None
        return super().encode(result)


class KeepsHeadersOfAnswers(Right):
    headers: ClassVar[list[tuple[str, str]]] = []

    def encode(self, result: Any) -> Response:
        response = super().encode(result)
        self.headers.extend(response.headers)
        response.headers = list(dict.fromkeys(self.headers))
        return response


class AnswersTheLast(Right):
    """The request is kept in the adapter from one method to the other."""

    def decode(self, request: Request) -> Asked:
        self.asked = super().decode(request)
        return self.asked

    def encode(self, result: Any) -> Response:
        response = super().encode(result)
        if isinstance(response.body, bytes) and response.body:
            response.body = self.asked.data
        return response


class OneArgument(Right):
    """Every handler gets the same object, filled anew."""

    def __init__(self) -> None:
        self.asked = Asked(b"", [], "", b"")

    def decode(self, request: Request) -> Asked:
        vars(self.asked).update(vars(super().decode(request)))
        return self.asked


class OneListOfHeaders(Right):
    """Every handler gets the same list, filled anew."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, str]] = []

    def decode(self, request: Request) -> Asked:
        asked = super().decode(request)
        self.headers[:] = asked.headers
        return dataclasses.replace(asked, headers=self.headers)


class OneAtATime(Right):
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def call(self, handler: Handler, request: Request) -> Response:
        with self.lock:
            return super().call(handler, request)


class ClosesWhatItNeverOpened(Right):
    opened: Iterable[Any] | None = None

    def decode(self, request: Request) -> Asked:
        self.opened = [request.id]
        return super().decode(request)

    def close(self) -> None:
        for _ in self.opened:  # type: ignore[union-attr]
            pass


class ClosesTheClass(Right):
    closed = False

    def decode(self, request: Request) -> Asked:
        if self.closed:
            raise RuntimeError("closed")
        return super().decode(request)

    def close(self) -> None:
        type(self).closed = True

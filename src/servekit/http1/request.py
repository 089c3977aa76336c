"""One request with the place for its answer, the connection that both go by, and the app that answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from servekit.http1.body import IncomingBody


class RequestConnection(Protocol):
    """The connection that a request came by, and that its answer goes back by."""

    client: str
    """The peer's IP address; empty when it has none (a Unix socket)."""

    def answer(self, request: HttpRequest, status: int, head: bytes, body: bytes) -> None:
        """See `HttpRequest.respond`."""

    def begin_answer(self, request: HttpRequest, status: int, head: bytes, length: int | None) -> None:
        """See `HttpRequest.begin`."""

    def write_answer(self, data: bytes) -> bool:
        """See `HttpRequest.write`."""

    def end_answer(self, request: HttpRequest, complete: bool) -> None:
        """See `HttpRequest.end`."""

    def body_taken(self) -> None:
        """Bytes of the request's ``incoming`` were taken."""


class HttpRequest:
    """One parsed request and the place for its answer.

    The connection fills the slots in; there is no constructor, because every request would pay for it. Subclasses add
    slots of their own.
    """

    __slots__ = (
        "body",
        "connection",
        "done",
        "fields",
        "incoming",
        "keep_alive",
        "method",
        "path",
        "query",
        "raw_headers",
        "received_at",
        "sent_target",
        "upgrade",
        "version",
    )

    connection: RequestConnection
    method: str
    path: str
    """Percent-decoded, as UTF-8 (what is not, is replaced); ``*`` for ``OPTIONS *``."""
    query: bytes
    """The part behind the ``?``, as sent."""
    sent_target: bytes | None
    """The request target as it was sent, where ``path`` and ``query`` are not all of it: the path has escapes, say."""
    version: str
    """``1.0`` or ``1.1``."""
    raw_headers: list[tuple[bytes, bytes]]
    """Names in lower case, in the order sent."""
    fields: dict[bytes, bytes]
    """The headers by name; of a repeated header, the last value."""
    body: bytes
    """All of it, or, when there is ``incoming``, the first part."""
    incoming: IncomingBody | None
    """The rest of a long body; it may still be arriving."""
    upgrade: bool
    """Whether the request asks for a WebSocket. Once it is answered with 101, both bodies are raw streams: ``incoming``
    has the bytes that the client sends, `write` sends bytes as they are, and `end` closes the connection. So does the
    end of any other answer."""
    keep_alive: bool
    """Whether the connection goes on: at first, whether the client allows it. An app that sets it to False ends the
    connection behind the answer. From the head of the answer on: whether that head said so."""
    done: bool
    """Answered, or the client is gone."""
    received_at: float
    """When the request was handed over, by ``time.monotonic()``."""

    def respond(self, status: int, head: bytes, body: bytes) -> None:
        """Answer. Does nothing when the request was answered before, or when the client is gone.

        ``head`` is rendered header lines, each with its CRLF, without Content-Length, Date, Connection and
        Transfer-Encoding, which the connection adds.
        """
        if not self.done:
            self.done = True
            self.connection.answer(self, status, head, body)

    def begin(self, status: int, head: bytes, length: int | None) -> None:
        """Begin an answer whose body follows by `write`, and is ended by `end`. Status 101 is for an `upgrade`.

        ``length``: of the body, in bytes; None when it is not known before the end. Only when not ``done``, and once.
        """
        self.connection.begin_answer(self, status, head, length)

    def write(self, data: bytes) -> bool:
        """Send a piece of the body; whether the client keeps up. If not, `writable` is called when it does."""
        return self.done or self.connection.write_answer(data)

    def end(self, *, complete: bool) -> None:
        """The body is over. ``complete`` false: it was broken off, and the connection is cut so that clients see it."""
        if not self.done:
            self.done = True
            self.connection.end_answer(self, complete)

    # -- for subclasses to override: called by the connection, and must not raise -----------------------------------

    def writable(self) -> None:
        """The client reads again, after `write` returned False."""

    def abandoned(self) -> None:
        """The client went away before the answer was complete. ``done`` is True."""


class HttpApp(Protocol):
    """Answers the requests of a server. Both methods are called on the server's loop, and must not raise."""

    def new_request(self) -> HttpRequest:
        """A new request, or object of a subclass, for the connection to fill in. Assigning the class will do."""

    def handle(self, request: HttpRequest) -> None:
        """A request has arrived, but for the pieces that its `IncomingBody` still brings. The app answers it, now or
        later, by `HttpRequest.respond`, or by `HttpRequest.begin`, `HttpRequest.write` and `HttpRequest.end`.
        """


def gather(request: HttpRequest, then: Callable[[HttpRequest], None]) -> None:
    """Call ``then(request)`` once all of the body is in ``request.body``; never, when the client goes first."""
    incoming = request.incoming
    if incoming is None:
        then(request)
        return
    pieces = [request.body]

    def take() -> None:
        while (piece := incoming.take()) is not None:
            pieces.append(piece)
        request.connection.body_taken()
        if incoming.ended:
            incoming.wake = None
            request.body = b"".join(pieces)
            then(request)

    incoming.wake = take
    take()

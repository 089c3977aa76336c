"""One request, and the place for its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servekit.http1.body import IncomingBody
    from servekit.http1.connection import HttpConnection


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

    connection: HttpConnection
    method: str
    path: str
    """Percent-decoded, as UTF-8 (what is not, is replaced); ``*`` for ``OPTIONS *``."""
    query: bytes
    """What follows the ``?``, as sent."""
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
    """Whether it asks for a WebSocket. Answered with 101, both bodies are raw streams: ``incoming`` has what the client
    sends, `write` sends as it is, and `end` closes the connection; so does any other answer."""
    keep_alive: bool
    """What the client allows; a connection that drains closes all the same."""
    done: bool
    """Answered, or the client is gone."""
    received_at: float
    """When the request was handed over, by ``time.monotonic()``."""

    @property
    def client(self) -> str:
        """The peer's IP address; empty when it has none (a Unix socket, memory)."""
        return self.connection.client

    def respond(self, status: int, head: bytes, body: bytes, *, close: bool = False) -> None:
        """Answer. Does nothing when the request was answered before, or when the client is gone.

        ``head`` is rendered header lines, each with its CRLF, without Content-Length, Date, Connection and
        Transfer-Encoding, which the connection adds. ``close``: the connection ends with this answer.
        """
        if not self.done:
            self.done = True
            self.connection.answer(self, status, head, body, close)

    def begin(self, status: int, head: bytes, length: int | None) -> None:
        """Begin an answer whose body follows by `write`, and is ended by `end`. Status 101 is for an `upgrade`.

        ``length``: the body's, in bytes; None when it is not known before its end. Only when not ``done``, and once.
        """
        self.connection.begin_answer(self, status, head, length)

    def write(self, data: bytes) -> bool:
        """Send a piece of the body; whether the client keeps up. If not, `HttpApp.writable` is called when it does."""
        return self.done or self.connection.write_answer(data)

    def end(self, *, complete: bool) -> None:
        """The body is over. ``complete`` false: it was broken off, and the connection is cut so that this is seen."""
        if not self.done:
            self.done = True
            self.connection.end_answer(self, complete)

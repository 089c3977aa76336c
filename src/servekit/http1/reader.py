"""From bytes to requests. Knows nothing of transports, answers and time."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from time import monotonic

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from servekit.config import HttpLimits
from servekit.http1.body import BUFFER_BYTES, WHOLE_BYTES, IncomingBody
from servekit.http1.checks import (
    Fault,
    RequestTarget,
    body_too_large,
    check_head,
    check_sizes,
    check_websocket,
    split_target,
    target_too_long,
    too_many_header_bytes,
    wants_websocket,
)
from servekit.http1.request import HttpRequest

FEED_BYTES = 4096
"""The most that may be fed at once, outside a body. It bounds how many requests one `RequestReader.feed` can make."""
PIPELINE_LIMIT = 16
"""Parsed requests waiting behind the one in hand, at which reading pauses."""
_CHUNK_OVERHEAD = 16
"""How many bytes a chunked body may take on the wire for each of its own; more is an attack by chunk extensions."""


class Phase(enum.Enum):
    """What a reader is in the middle of."""

    BETWEEN = "between requests"
    HEAD = "head"
    BODY = "body"


class _RefusedError(Exception):
    """Stops the parser from within a callback; the reader's ``fault`` says why."""


class RequestReader:
    """Parses what one connection sends.

    `feed` appends requests to ``ready``: complete ones, and those whose body is longer than `WHOLE_BYTES`, the rest of
    which comes through their `IncomingBody`. After a fault, or a request that ends the connection, ``ended`` is true
    and nothing more may be fed. A request for a WebSocket ends it, too: what follows is no HTTP.
    """

    __slots__ = (
        "_body",
        "_exact_above",
        "_fed",
        "_head_begun",
        "_headers",
        "_length",
        "_limits",
        "_most_head",
        "_new_request",
        "_parser",
        "_request",
        "_substitute_head",
        "_target",
        "body_size",
        "ended",
        "expects_continue",
        "fault",
        "incoming",
        "messages",
        "ready",
    )

    def __init__(self, new_request: Callable[[], HttpRequest], limits: HttpLimits) -> None:
        self.ready: deque[HttpRequest] = deque()
        self.fault: Fault | None = None
        self.ended = False
        self.expects_continue = False
        """The client waits for ``100 Continue`` before it sends the body."""
        self.messages = 0
        self.body_size = 0
        self.incoming: IncomingBody | None = None
        """The body that is arriving, of a request that is in ``ready`` already, or was."""
        self._new_request = new_request
        self._limits = limits
        self._parser = HttpRequestParser(self)
        self._request: HttpRequest | None = None
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: bytes | bytearray = b""
        self._substitute_head = b""
        self._length = 0
        self._head_begun = False
        # Bytes fed since the last complete request, without those that came in one piece with its end. While they
        # are few, no header can be too large, and none needs to be measured.
        self._fed = 0
        self._exact_above = min(limits.header_bytes, limits.headers_bytes) - FEED_BYTES
        self._most_head = limits.request_line_bytes + limits.headers_bytes + 4 * limits.header_count + FEED_BYTES

    @property
    def phase(self) -> Phase:
        if self._request is not None:
            return Phase.BODY
        return Phase.HEAD if self._head_begun or self._target or self._headers else Phase.BETWEEN

    @property
    def feed_bytes(self) -> int:
        """How many bytes may be fed at once: `FEED_BYTES`, or more of a body, as much as is still to come of it."""
        if self._request is None:
            return FEED_BYTES
        return max(FEED_BYTES, min(self._length - self.body_size, BUFFER_BYTES))

    @property
    def is_full(self) -> bool:
        """Nothing is to be fed until something has been taken: requests, or pieces of a body."""
        return len(self.ready) > PIPELINE_LIMIT or (self.incoming is not None and self.incoming.is_full)

    def feed(self, data: bytes | memoryview) -> None:
        """Parse at most `feed_bytes` more; only while not ``ended``."""
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._go_on_after_upgrade(data, upgrade)
        except HttpParserError as error:
            self._stopped(error)
        if self._fed and not self.ended:
            self._check_progress(data)

    def fail(self, fault: Fault) -> None:
        """What is being read will not be finished."""
        self.fault = fault
        self.ended = True

    def close(self) -> None:
        """Let go of what holds this object in a cycle: the parser, and a request in mid-body by its connection."""
        self._request = self.incoming = None
        del self._parser

    # -- called by the parser ----------------------------------------------------------------------------

    def on_url(self, piece: bytes) -> None:
        if len(piece) + len(self._target) > self._limits.request_line_bytes:
            self._refuse(target_too_long(self._limits))
        self._target = self._target + piece if self._target else piece

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come here too, after on_headers_complete has taken the list: on_message_complete drops them.
        self._headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        if self._request is not None:  # the head that _go_on_after_upgrade made up
            return
        parser, limits, headers, target = self._parser, self._limits, self._headers, self._target
        self._headers = []
        fields = dict(headers)
        method = parser.get_method()
        keep_alive = parser.should_keep_alive()
        # Only 1.1 keeps a connection alive without being asked; asking for the version costs more than all the others.
        version = "1.1" if keep_alive and b"connection" not in fields else parser.get_http_version()
        fault = check_sizes(headers, limits) if self._fed > self._exact_above else None
        fault = fault or check_head(version, headers, fields, limits)
        if fault is not None:
            self._refuse(fault)
        request = self._new_request()
        request.raw_headers = headers
        request.fields = fields
        if target[:1] == b"/" and b"%" not in target and b"#" not in target and method != b"CONNECT":
            path, mark, query = target.partition(b"?")
            request.path = path.decode("ascii")  # llhttp refuses what is not
            request.query = query
            request.sent_target = target if mark and not query else None
        else:
            self._set_target(request, target, split_target(method, target))
        request.method = method.decode("ascii")
        request.version = version
        request.keep_alive = keep_alive
        request.done = False
        request.incoming = None
        request.upgrade = False
        self._request = request
        self._length = int(fields[b"content-length"]) if b"content-length" in fields else 0
        if b"expect" in fields and version == "1.1":
            self.expects_continue = True
        if b"upgrade" in fields and parser.should_upgrade():
            if wants_websocket(method, fields):
                self._prepare_websocket(request)
            else:
                self._prepare_upgrade(fields)

    def on_body(self, piece: bytes) -> None:
        """The one place where pieces of a body arrive."""
        self.expects_continue = False
        self.body_size += len(piece)
        if self.body_size > self._limits.body_bytes:
            self._refuse(body_too_large(self._limits))
        if self.incoming is not None:
            self.incoming.receive(piece)
            return
        if not self._body:
            self._body = piece
        elif isinstance(self._body, bytes):
            self._body = bytearray(self._body + piece)
        else:
            self._body += piece
        if self.body_size > WHOLE_BYTES and self._request is not None:
            request = self._request
            request.incoming = self.incoming = IncomingBody()
            request.received_at = monotonic()
            request.body = bytes(self._body)
            self._body = b""
            self.ready.append(request)

    def on_message_complete(self) -> None:
        request = self._request
        if self._substitute_head or request is None:
            return
        self.body_size = 0
        if self._headers:
            self._headers = []
        self._request = None
        self._target = b""
        self._fed = 0
        self._head_begun = False
        self.expects_continue = False
        self.messages += 1
        if not request.keep_alive:
            self.ended = True
        incoming = self.incoming
        if incoming is None:
            request.received_at = monotonic()
            request.body = bytes(self._body)
            self._body = b""
            self.ready.append(request)
        else:
            self.incoming = None
            incoming.end()

    # -- the uncommon paths -----------------------------------------------------------------------------

    def _refuse(self, fault: Fault) -> None:
        self.fault = fault
        raise _RefusedError

    def _stopped(self, error: HttpParserError) -> None:
        if self.ended:
            return  # data after a request that ends the connection: nobody will read it
        self.ended = True
        if self.fault is None:
            if isinstance(error, HttpParserCallbackError):  # a defect: not the client's
                raise error
            self.fault = Fault(400, f"malformed HTTP: {error}")

    def _set_target(self, request: HttpRequest, sent: bytes, target: RequestTarget | Fault) -> None:
        if isinstance(target, Fault):
            self._refuse(target)
            return
        request.path, request.query = target.path, target.query
        plain = target.path.encode() + (b"?" + target.query if target.query else b"")
        request.sent_target = None if sent == plain else sent
        if target.host is not None:  # RFC 9112, 3.2.2: it takes the place of the Host header
            request.fields[b"host"] = host = target.host
            request.raw_headers[:] = [(name, host if name == b"host" else value) for name, value in request.raw_headers]

    def _prepare_websocket(self, request: HttpRequest) -> None:
        """llhttp stops after the head, and what follows is the client's half of a WebSocket, once that is granted."""
        fault = check_websocket(request.version, request.fields)
        if fault is not None:
            self._refuse(fault)
        request.incoming = IncomingBody()
        request.upgrade = True
        request.keep_alive = False

    def _prepare_upgrade(self, fields: dict[bytes, bytes]) -> None:
        """Other upgrades are declined by ignoring them, but llhttp stops after such a head, without reading the body.

        So a new parser is given a head of the same framing, and then the body. (Java's HttpClient offers h2c with
        every first request, a POST included.)
        """
        for name in (b"content-length", b"transfer-encoding"):
            if name in fields:
                self._substitute_head = b"POST / HTTP/1.1\r\n%b: %b\r\n\r\n" % (name, fields[name])
                self._target = b""

    def _go_on_after_upgrade(self, data: bytes | memoryview, upgrade: HttpParserUpgrade) -> None:
        while not self.ended:
            self._parser = HttpRequestParser(self)
            data = self._substitute_head + bytes(data)[upgrade.args[0] :]
            self._substitute_head = b""
            try:
                self._parser.feed_data(data)
            except HttpParserUpgrade as another:
                upgrade = another
                continue
            except HttpParserError as error:
                self._stopped(error)
            return
        rest = bytes(data)[upgrade.args[0] :]
        incoming = self.ready[-1].incoming if self.ready and self.ready[-1].upgrade else None
        if incoming is not None and rest:
            incoming.receive(rest)

    def _check_progress(self, data: bytes | memoryview) -> None:
        """A request is under way: bound what the parser may be holding back, which no callback sees."""
        if self._request is None:
            if not self._head_begun and bytes(data).strip(b"\r\n"):
                self._head_begun = True
            if self._fed > self._most_head:
                self.fail(too_many_header_bytes(self._limits))
        elif self._fed > _CHUNK_OVERHEAD * self.body_size + 2 * self._most_head:
            self.fail(Fault(400, "chunk extensions or trailers are too large"))

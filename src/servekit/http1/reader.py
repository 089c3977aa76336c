"""Makes requests of the bytes of a connection, without a transport, an answer or a clock."""

from __future__ import annotations

import enum
import re
from collections import deque
from collections.abc import Callable
from time import monotonic

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from servekit.config import HttpLimits
from servekit.http1.body import BUFFER_BYTES, WHOLE_BYTES, IncomingBody
from servekit.http1.checks import (
    Fault,
    Headers,
    RequestTarget,
    body_too_large,
    check_head,
    check_request_line,
    check_sizes,
    check_websocket,
    match_request_line,
    split_target,
    too_many_header_bytes,
    wants_websocket,
)
from servekit.http1.chunks import BadChunkError, ChunkedBody
from servekit.http1.request import HttpRequest

FEED_BYTES = 4096
"""The most that may be fed at once, outside a body. It bounds how many requests one `RequestReader.feed` can make."""
PIPELINE_LIMIT = 16
"""Parsed requests waiting behind the one in hand, at which reading pauses."""
_HEAD_END = b"\r\n\r\n"
_STOPS = (HttpParserError, HttpParserUpgrade)


class Phase(enum.Enum):
    """The part of a request that a reader is in."""

    BETWEEN = "between requests"
    HEAD = "head"
    BODY = "body"


class _RefusedError(Exception):
    """Stops the parser from within a callback; the reader's ``fault`` says why."""


class RequestReader:
    """Parses the bytes that the client of one connection sends.

    `feed` appends requests to ``ready``: complete ones, and those whose body is longer than `WHOLE_BYTES`, the rest of
    which comes through their `IncomingBody`. After a fault, or the last request of the connection, ``ended`` is true
    and nothing more may be fed. A request for a WebSocket is the last, too: the bytes behind it are no HTTP.
    """

    __slots__ = (
        "_body",
        "_body_follows",
        "_chunks",
        "_exact_above",
        "_head",
        "_head_fed",
        "_headers",
        "_length",
        "_limits",
        "_line",
        "_most_head",
        "_new_request",
        "_parser",
        "_request",
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
        """The client will not send the body before ``100 Continue``."""
        self.messages = 0
        self.body_size = 0
        self.incoming: IncomingBody | None = None
        """The body that is arriving, of a request that is in ``ready`` already, or was."""
        self._new_request = new_request
        self._limits = limits
        self._parser = HttpRequestParser(self)
        self._request: HttpRequest | None = None
        self._line: re.Match[bytes] | None = None  # The request line of the head that is being read.
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: bytes | bytearray = b""
        self._length = 0
        self._chunks: ChunkedBody | None = None
        self._body_follows = False  # Behind a head at which llhttp stops, for it asks for an upgrade.
        # A head that did not come as the whole of what was fed: its bytes, and how many of them the parser has had.
        self._head = bytearray()
        self._head_fed = 0
        # In a head that is not longer, nothing can be too long, and nothing needs to be measured.
        self._exact_above = min(limits.request_line_bytes, limits.header_bytes, limits.headers_bytes)
        self._most_head = limits.request_line_bytes + limits.headers_bytes + 4 * limits.header_count + FEED_BYTES

    @property
    def phase(self) -> Phase:
        if self._request is not None:
            return Phase.BODY
        return Phase.HEAD if self._head or self._headers else Phase.BETWEEN

    @property
    def headers(self) -> Headers:
        """Those of the request that is being read, as far as they have come."""
        return self._headers if self._request is None else self._request.raw_headers

    @property
    def feed_bytes(self) -> int:
        """How many bytes may be fed at once: `FEED_BYTES`, or what is left of a body, or of a chunk of one."""
        if self._request is None:
            return FEED_BYTES
        left = self._length - self.body_size if self._chunks is None else self._chunks.left
        return max(FEED_BYTES, min(left, BUFFER_BYTES))

    @property
    def is_full(self) -> bool:
        """Nothing is to be fed until something has been taken: requests, or pieces of a body."""
        return len(self.ready) > PIPELINE_LIMIT or (self.incoming is not None and self.incoming.is_full)

    def feed(self, data: bytes | memoryview) -> None:
        """Parse at most `feed_bytes` more, as bytes where no body is being read; only while not ``ended``."""
        at = 0
        if self._request is not None:
            if self._chunks is None and len(data) <= self._length - self.body_size:
                self._parse(data)
                return
        elif not self._head and len(data) <= self._exact_above and (line := match_request_line(data)) is not None:
            end = data.find(_HEAD_END) + 4  # type: ignore[union-attr]
            if end > 3:
                self._line = line
                try:
                    self._parser.feed_data(data[:end])
                except _STOPS as error:
                    self._stopped(error)
                if end == len(data):
                    return  # One head, and nothing else: nearly all data is that.
                at = end
        self._feed_by_parts(bytes(data), at)

    def fail(self, fault: Fault) -> None:
        """The request that is being read will not be finished."""
        self.fault = fault
        self.ended = True

    def close(self) -> None:
        """Let go of the objects that hold this one in a cycle: the parser, and a request in mid-body."""
        self._request = self.incoming = None
        del self._parser

    # -- called by the parser ----------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        if self._request is not None:  # the head that _stopped made up
            return
        assert self._line is not None
        parser, limits, headers = self._parser, self._limits, self._headers
        method, target, protocol = self._line.groups()
        fields = dict(headers)
        keep_alive = parser.should_keep_alive()
        version = protocol.decode()
        fault = check_sizes(headers, limits) if self._head_fed > self._exact_above else None
        fault = fault or check_head(version, headers, fields, limits)
        if fault is not None:
            self._refuse(fault)
        request = self._new_request()
        request.raw_headers = headers
        request.fields = fields
        if target[:1] == b"/" and b"%" not in target and b"#" not in target and method != b"CONNECT":
            path, mark, query = target.partition(b"?")
            request.path = path.decode("ascii")  # llhttp refuses other bytes
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
        self._headers = []
        self._length = int(fields[b"content-length"]) if b"content-length" in fields else 0
        if b"expect" in fields and version == "1.1":
            self.expects_continue = True
        if b"upgrade" in fields and parser.should_upgrade():
            if wants_websocket(method, fields):
                self._prepare_websocket(request)
            else:
                self._body_follows = self._length > 0 or b"transfer-encoding" in fields

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
        if self._body_follows or request is None:
            return
        self.body_size = 0
        if self._headers:
            self._headers = []
        self._request = self._line = None
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

    def _feed_by_parts(self, data: bytes, at: int) -> None:
        """Feed ``data``, from ``at`` on, that is more than one head, or less: the parser gets no bytes behind a head
        together with it."""
        while at < len(data) and not self.ended:
            if self._request is None:
                at = self._feed_head(data, at)
            elif b"transfer-encoding" in self._request.fields:
                at = self._feed_chunks(data, at)
            else:
                piece = data[at : at + self._length - self.body_size] or data[at:]
                self._parse(piece)
                at += len(piece)
        if at < len(data) and self.ready and self.ready[-1].upgrade:
            incoming = self.ready[-1].incoming
            assert incoming is not None
            incoming.receive(data[at:])

    def _feed_head(self, data: bytes, at: int) -> int:
        """Feed what is of one head in ``data``, from ``at`` on; returns where that ends. What follows from the head is
        the same in whatever pieces it comes: the parser gets the bytes up to the one that a check here stops at."""
        head = self._head
        head += data[at:]
        while not self._head_fed and head.startswith(b"\r\n"):  # RFC 9112, 2.2
            del head[:2]
        if head == b"\r" or not head:
            return len(data)
        found = head.find(_HEAD_END, max(self._head_fed - 3, 0))
        stop = len(head) if found < 0 else found + 4
        fault = None
        if self._line is None:
            line, mark, _ = bytes(head[: self._limits.request_line_bytes + 3]).partition(b"\r\n")
            self._line = match_request_line(line + mark)
            fault = check_request_line(line + mark, self._limits)
            if fault is not None:
                stop = len(line)
        if fault is None and stop > self._most_head:
            fault, stop = too_many_header_bytes(self._limits), self._most_head
        piece = bytes(head[self._head_fed : stop])
        self._head_fed = stop
        rest = len(head) - stop
        self._parse(piece)
        if fault is not None and not self.ended:
            self.fail(fault)
        elif found >= 0:
            self._head = bytearray()
            self._head_fed = 0
        return len(data) - rest

    def _feed_chunks(self, data: bytes, at: int) -> int:
        """Feed what is of a chunked body in ``data``, from ``at`` on; returns where that ends."""
        if self._chunks is None:
            self._chunks = ChunkedBody(self._limits.headers_bytes)
        try:
            at = self._chunks.feed(data, at, self.on_body)
        except BadChunkError as error:
            self.fail(Fault(400, f"malformed HTTP: {error}"))
        except _RefusedError:
            self.ended = True
        else:
            if self._chunks.ended:
                self._chunks = None
                self._parser = HttpRequestParser(self)  # The other one waits for the chunks.
                self.on_message_complete()
        return at

    def _parse(self, data: bytes | memoryview) -> None:
        try:
            self._parser.feed_data(data)
        except _STOPS as error:
            self._stopped(error)

    def _stopped(self, error: Exception) -> None:
        if self.ended:
            return  # data after a request that ends the connection: nobody will read it
        if isinstance(error, HttpParserUpgrade):
            self._go_on_after_upgrade()
            return
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
        """llhttp stops after the head: the bytes behind it are for the WebSocket, once that is granted."""
        fault = check_websocket(request.version, request.fields)
        if fault is not None:
            self._refuse(fault)
        request.incoming = IncomingBody()
        request.upgrade = True
        request.keep_alive = False

    def _go_on_after_upgrade(self) -> None:
        """Upgrades other than to a WebSocket are declined by ignoring them, but llhttp stops after such a head, without
        reading the body. So a new parser is given a head of the same framing, and then the body. (Java's HttpClient
        offers h2c with every first request, a POST included.)
        """
        self._parser = HttpRequestParser(self)
        if self._body_follows:
            self._body_follows = False
            if self._length:
                self._parser.feed_data(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % self._length)

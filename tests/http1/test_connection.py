"""Over a transport in memory, which has nothing but what a connection needs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.config import HttpLimits
from servekit.http1.connection import HttpConnection
from servekit.http1.request import HttpRequest
from servekit.http1.server import HttpServer
from servekit.http1.timeouts import LINGER_S

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class MemoryTransport(asyncio.Transport):
    """Keeps what is written; closing and aborting tell the protocol at once."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True
        self.protocol: HttpConnection | None = None

    def write(self, data: Any) -> None:
        assert self.protocol is not None, "written after close"
        self.written += data

    def close(self) -> None:
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connection_lost(None)

    abort = close

    def is_closing(self) -> bool:
        return self.protocol is None

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


class App:
    """Answers ``/now`` at once, and others when told to."""

    def __init__(self) -> None:
        self.handled: list[HttpRequest] = []
        self.waiting: list[HttpRequest] = []
        self.gone: list[HttpRequest] = []

    def handle(self, request: HttpRequest) -> None:
        assert not self.waiting, "two requests of one connection at a time"
        self.handled.append(request)
        if request.path == "/now":
            request.respond(200, b"", request.query)
        else:
            self.waiting.append(request)

    def new_request(self) -> HttpRequest:
        request = Asked()
        request.app = self
        return request

    def release(self) -> None:
        request = self.waiting.pop()
        request.respond(200, b"", request.query)


class Asked(HttpRequest):
    """A request whose app is told when its client goes."""

    __slots__ = ("app",)

    app: App

    def abandoned(self) -> None:
        self.app.gone.append(self)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def connect(loop: asyncio.AbstractEventLoop) -> tuple[App, HttpConnection, MemoryTransport]:
    app = App()
    connection = HttpServer(app, HttpLimits(), loop).protocol_factory()
    transport = MemoryTransport()
    transport.protocol = connection
    connection.connection_made(transport)
    return app, connection, transport


def bodies(written: bytes) -> list[bytes]:
    found = []
    while written:
        head, _, written = written.partition(b"\r\n\r\n")
        size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        found.append(written[:size])
        written = written[size:]
    return found


@given(st.lists(st.sampled_from(["now", "later"]), min_size=1, max_size=60), st.data())
def test_answers_come_once_and_in_order(loop: asyncio.AbstractEventLoop, kinds: list[str], data: st.DataObject) -> None:
    whole = b"".join(b"GET /%b?%d HTTP/1.1\r\nHost: a\r\n\r\n" % (k.encode(), i) for i, k in enumerate(kinds))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    app, connection, transport = connect(loop)
    for i, j in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        while not transport.reading or (app.waiting and data.draw(st.booleans())):
            app.release()
        if i < j:
            connection.data_received(whole[i:j])
    while app.waiting:
        app.release()
    assert bodies(transport.written) == [b"%d" % i for i in range(len(kinds))]
    assert transport.reading
    assert not transport.is_closing()


@given(st.data(), st.binary(max_size=200), st.integers(0, 2))
def test_what_follows_the_head_of_a_websocket_comes_as_it_was_sent_however_it_is_cut(
    loop: asyncio.AbstractEventLoop, drawn: st.DataObject, tail: bytes, before: int
) -> None:
    """Whenever the 101 comes."""
    data = b"GET /now HTTP/1.1\r\nHost: a\r\n\r\n" * before + HANDSHAKE + tail
    cuts = sorted(drawn.draw(st.sets(st.integers(0, len(data)), max_size=6)))
    app, connection, transport = connect(loop)
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if app.waiting and (not transport.reading or drawn.draw(st.booleans())):
            app.waiting.pop().begin(101, b"", None)
        if start < end:
            assert transport.reading
            connection.data_received(data[start:end])
    if app.waiting:
        app.waiting.pop().begin(101, b"", None)
    *plain, asked = app.handled
    assert [request.upgrade for request in plain] == [False] * before
    assert (asked.upgrade, asked.path, asked.body) == (True, "/ws", b"")
    assert asked.incoming is not None
    assert b"".join(iter(asked.incoming.take, None)) == tail
    assert (transport.reading, transport.is_closing(), asked.incoming.ended) == (True, False, False)


def test_a_refusal_lingers_where_there_is_no_half_close(loop: asyncio.AbstractEventLoop) -> None:
    _, connection, transport = connect(loop)
    connection.data_received(b"NONSENSE\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    written = transport.written
    connection.data_received(b"GET /now HTTP/1.1\r\nHost: a\r\n\r\n")
    connection.sweep(0.0)
    assert not transport.is_closing()
    connection.sweep(100.0)
    assert transport.is_closing()
    assert transport.written == written


def test_behind_the_last_answer_no_body_is_waited_for_but_its_requests(loop: asyncio.AbstractEventLoop) -> None:
    app, connection, transport = connect(loop)
    post = b"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
    connection.data_received(post + bytes(70_000))
    request = app.waiting.pop()
    request.keep_alive = False
    request.respond(200, b"", b"last")
    connection.data_received(bytes(30_000) + post + bytes(90_000))
    connection.sweep(0.0)
    connection.sweep(LINGER_S + 0.1)
    assert transport.is_closing()
    assert (bodies(transport.written), len(app.handled)) == ([b"last"], 1)


def test_a_lost_connection_abandons_what_was_handed_over_only(loop: asyncio.AbstractEventLoop) -> None:
    app, connection, transport = connect(loop)
    connection.data_received(b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
    transport.abort()
    assert app.gone == app.waiting
    assert len(app.gone) == 1
    app.release()
    assert (transport.written, len(app.gone)) == (b"", 1)


def test_writing_waits_for_the_buffer(loop: asyncio.AbstractEventLoop) -> None:
    _, connection, transport = connect(loop)
    connection.pause_writing()
    connection.data_received(b"GET /now?1 HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    assert (transport.written, transport.reading) == (b"", False)
    connection.resume_writing()
    assert bodies(transport.written) == [b"1", b"1"]
    assert transport.reading


def test_an_app_that_raises_does_not_stop_the_connection_from_ending(loop: asyncio.AbstractEventLoop) -> None:
    app, connection, transport = connect(loop)
    app.waiting.append(HttpRequest())  # makes the app's own assertion fail
    with pytest.raises(AssertionError):
        connection.data_received(b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n")
    transport.abort()
    assert len(app.gone) == 1

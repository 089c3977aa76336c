"""A request for a WebSocket: parsed, handed over with the raw stream behind it, and what its answers do."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from servekit.config import HttpLimits
from servekit.http1.body import BUFFER_BYTES
from servekit.http1.reader import RequestReader
from servekit.http1.request import HttpRequest

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"
ASKS = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
HANDSHAKE = b"GET /ws HTTP/1.1\r\nHost: a\r\n" + ASKS + KEY + VERSION + b"\r\n"
PLAIN = b"GET /plain HTTP/1.1\r\nHost: a\r\n\r\n"


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


def read_exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = client.recv(size - len(data))
        assert piece, "the connection ended early"
        data += piece
    return data


def read_head(client: socket.socket) -> list[bytes]:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += read_exactly(client, 1)
    return data.split(b"\r\n")[:-2]


def take_all(request: Any) -> bytes:
    pieces = []
    while (piece := request.incoming.take()) is not None:
        pieces.append(piece)
    request.connection.body_taken()
    return b"".join(pieces)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.0\r\n" + ASKS + KEY + VERSION, 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + ASKS + VERSION, 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + ASKS + VERSION + b"Sec-WebSocket-Key: short\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + ASKS + KEY, 426),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + ASKS + KEY + b"Sec-WebSocket-Version: 8\r\n", 426),
    ],
)
def test_a_bad_handshake_is_refused(echo: Any, head: bytes, status: int) -> None:
    answer = echo.exchange(head + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close\r\n" in answer
    assert (b"sec-websocket-version: 13\r\n" in answer) is (status == 426)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /x HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n" + ASKS + KEY + VERSION,
        b"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n" + ASKS + KEY + VERSION,
    ],
)
def test_what_asks_for_something_else_is_an_ordinary_request(echo: Any, head: bytes) -> None:
    body = b"ab" if b"Length: 2" in head else b""
    answer = echo.exchange(head + b"\r\n" + body + PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert b" /x  " + body in answer


def test_the_names_are_read_in_any_case_and_in_lists() -> None:
    reader = RequestReader(HttpRequest, HttpLimits())
    asks = b"UPGRADE: h2c, WebSocket\r\nconnection: keep-alive, upgrade\r\n"
    reader.feed(b"GET /ws HTTP/1.1\r\nHost: a\r\n" + asks + KEY + VERSION + b"\r\n")
    assert [request.upgrade for request in reader.ready] == [True]


class Tunnel:
    """A client whose request for a WebSocket was handed over, behind another one in the same piece."""

    def __init__(self, desk: Any, eventually: Any, tail: bytes = b"") -> None:
        self.desk = desk
        self.eventually = eventually
        self.client = desk.connect()
        self.client.sendall(HANDSHAKE + tail)
        eventually(lambda: desk.app.requests)
        self.request = desk.app.requests[-1]

    def open(self) -> list[bytes]:
        self.call("begin", 101, b"x-head: 1\r\n", None)
        return read_head(self.client)

    def call(self, method: str, *arguments: Any, **named: Any) -> None:
        """Call this method of the request, on the loop."""
        self.desk.call(lambda: getattr(self.request, method)(*arguments, **named))

    def received(self, size: int) -> bytes:
        """What the client sent, once there are ``size`` bytes of it."""
        data = b""

        def come() -> bool:
            nonlocal data
            data += self.desk.call(take_all, self.request)
            return len(data) >= size

        self.eventually(come)
        return data


@pytest.fixture
def tunnel(start: Any, eventually: Any) -> Iterator[Callable[..., Tunnel]]:
    opened: list[Tunnel] = []

    def open_one(tail: bytes = b"", **limits: Any) -> Tunnel:
        opened.append(Tunnel(start(desk=True, **limits), eventually, tail))
        return opened[-1]

    yield open_one
    for one in opened:
        one.client.close()


def test_a_101_opens_both_directions(tunnel: Any) -> None:
    open_one = tunnel(b"early")
    lines = open_one.open()
    assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
    assert {b"x-head: 1", b"upgrade: websocket", b"connection: upgrade"} <= set(lines)
    assert not [line for line in lines if line.startswith((b"content-length", b"transfer-encoding"))]
    assert open_one.received(5) == b"early"
    for number in range(100):
        open_one.client.sendall(b"up%d" % number)
        assert open_one.received(len(b"up%d" % number)) == b"up%d" % number
        open_one.call("write", b"down%d" % number)
        assert read_exactly(open_one.client, len(b"down%d" % number)) == b"down%d" % number
    open_one.client.sendall(PLAIN)  # No HTTP any more.
    assert open_one.received(len(PLAIN)) == PLAIN
    assert len(open_one.desk.app.requests) == 1
    open_one.call("end", complete=True)
    assert read_all(open_one.client) == b""
    assert open_one.desk.app.gone == []


@pytest.mark.parametrize("complete", [True, False])
def test_the_end_closes_the_connection(tunnel: Any, complete: bool, eventually: Any) -> None:
    open_one = tunnel()
    open_one.open()
    open_one.call("write", b"bye")
    open_one.call("end", complete=complete)
    assert read_all(open_one.client) == b"bye"
    open_one.client.close()
    eventually(lambda: not open_one.desk.server.connections)


def test_an_ordinary_answer_closes_the_connection(tunnel: Any) -> None:
    open_one = tunnel(b"left")
    open_one.call("respond", 403, b"", b"no")
    answer = read_all(open_one.client)
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"connection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\nno")


def test_an_ordinary_answer_in_pieces_closes_the_connection(tunnel: Any) -> None:
    open_one = tunnel()
    open_one.call("begin", 403, b"", None)
    open_one.call("write", b"no")
    open_one.call("end", complete=True)
    answer = read_all(open_one.client)
    assert b"transfer-encoding: chunked\r\n" in answer
    assert answer.endswith(b"\r\n\r\n2\r\nno\r\n0\r\n\r\n")


def test_reading_stops_while_nobody_takes(tunnel: Any, eventually: Any) -> None:
    open_one = tunnel()
    open_one.open()
    incoming = open_one.request.incoming
    data = b"0123456789abcdef" * (BUFFER_BYTES // 4)  # four times what is held
    open_one.client.setblocking(False)
    sent = 0
    while sent < len(data):
        try:
            sent += open_one.client.send(data[sent : sent + 65536])
        except BlockingIOError:
            eventually(lambda: incoming.is_full)
            if open_one.desk.call(lambda: incoming.size) > 2 * BUFFER_BYTES:
                pytest.fail("more was read than is held")
            open_one.desk.call(take_all, open_one.request)


def test_a_client_that_does_not_read_is_heard_all_the_same(tunnel: Any, eventually: Any) -> None:
    open_one = tunnel()
    open_one.open()
    open_one.call("write", bytes(50_000_000))
    connection = open_one.request.connection
    assert not open_one.desk.call(lambda: connection._writable)
    open_one.client.sendall(b"hello")
    assert open_one.received(5) == b"hello"
    sending = threading.Thread(target=open_one.client.sendall, args=(bytes(4 * BUFFER_BYTES),))
    sending.start()
    eventually(lambda: open_one.request.incoming.is_full)
    assert open_one.received(4 * BUFFER_BYTES) == bytes(4 * BUFFER_BYTES)
    sending.join(10)
    assert not sending.is_alive()
    assert not open_one.desk.call(lambda: connection._writable)


def test_a_client_that_half_closes_ends_the_stream_and_may_be_answered(tunnel: Any, eventually: Any) -> None:
    open_one = tunnel()
    open_one.open()
    open_one.client.sendall(b"last")
    open_one.client.shutdown(socket.SHUT_WR)
    assert open_one.received(4) == b"last"
    eventually(lambda: open_one.request.incoming.ended)
    open_one.call("write", b"bye")
    open_one.call("end", complete=True)
    assert read_all(open_one.client) == b"bye"


def test_a_client_that_half_closes_before_the_101_has_ended_the_stream_behind_what_it_sent(
    tunnel: Any, eventually: Any
) -> None:
    open_one = tunnel(b"early")
    open_one.client.sendall(b" and more")
    open_one.client.shutdown(socket.SHUT_WR)
    open_one.open()
    assert open_one.received(14) == b"early and more"
    eventually(lambda: open_one.request.incoming.ended)
    open_one.call("end", complete=True)
    assert read_all(open_one.client) == b""


def test_a_client_that_resets_is_gone(tunnel: Any, eventually: Any) -> None:
    open_one = tunnel()
    open_one.open()
    open_one.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    open_one.client.close()
    eventually(lambda: open_one.desk.app.gone == [open_one.request])


def test_a_silent_tunnel_outlives_every_timeout_of_http(tunnel: Any) -> None:
    open_one = tunnel(header_timeout_s=0.05, body_timeout_s=0.05, idle_timeout_s=0.05)
    open_one.open()
    with open_one.desk.connect() as other:
        assert read_all(other) == b""  # An idle connection was closed meanwhile,
    open_one.client.sendall(b"still here")  # and this one was not.
    assert open_one.received(10) == b"still here"
    assert not open_one.desk.app.gone


def test_a_drain_ends_the_clients_half(tunnel: Any) -> None:
    open_one = tunnel()
    open_one.open()
    (connection,) = open_one.desk.server.connections
    open_one.desk.call(lambda: connection.close_if_idle())
    assert open_one.request.incoming.ended
    open_one.client.sendall(b"too late")
    open_one.call("write", b"bye")
    open_one.call("end", complete=True)
    assert read_all(open_one.client) == b"bye"


def test_a_101_while_the_server_drains_comes_with_the_end_of_the_clients_half(tunnel: Any, eventually: Any) -> None:
    open_one = tunnel()
    (connection,) = open_one.desk.server.connections
    draining = threading.Thread(target=lambda: open_one.desk.run(open_one.desk.server.drain(10)))
    draining.start()
    eventually(lambda: open_one.desk.server.draining)
    open_one.desk.call(lambda: connection.close_if_idle())
    open_one.open()
    eventually(lambda: open_one.request.incoming.ended)
    open_one.call("write", b"bye")
    open_one.call("end", complete=True)
    assert read_all(open_one.client) == b"bye"
    open_one.client.close()
    draining.join(10)
    assert not draining.is_alive()

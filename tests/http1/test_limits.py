"""Limits, deadlines and backpressure."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from servekit.config import HttpLimits
from servekit.http1.chunks import EXTENSIONS_BYTES

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def status(data: bytes) -> int:
    assert b"\r\nconnection: close\r\n" in data
    return int(data[9:12])


LINE, HEADER, HEADERS, COUNT, BODY = 200, 300, 500, 6, 1000
CLOSE = b"Host: a\r\nConnection: close\r\n"
CLOSE_BYTES = len(b"HostaConnectionclose")
AROUND = {"one below": -1, "at": 0, "one above": 1}


def a_line_of(size: int) -> bytes:
    return b"GET /%b HTTP/1.1\r\n%b\r\n" % (b"x" * (size - len("GET / HTTP/1.1")), CLOSE)


def a_query_of(size: int) -> bytes:
    return b"GET /?%b HTTP/1.1\r\n%b\r\n" % (b"x" * (size - len("GET /? HTTP/1.1")), CLOSE)


def one_header_of(size: int) -> bytes:
    return b"GET / HTTP/1.1\r\n%bX: %b\r\n\r\n" % (CLOSE, b"x" * (size - 1))


def one_name_of(size: int) -> bytes:
    return b"GET / HTTP/1.1\r\n%b%b: x\r\n\r\n" % (CLOSE, b"X" * (size - 1))


def headers_of(size: int) -> bytes:
    rest = size - CLOSE_BYTES - 250
    return b"GET / HTTP/1.1\r\n%bX: %b\r\nY: %b\r\n\r\n" % (CLOSE, b"x" * 249, b"y" * (rest - 1))


def so_many_headers(count: int) -> bytes:
    return b"GET / HTTP/1.1\r\n%b%b\r\n" % (CLOSE, b"X: y\r\n" * (count - 2))


def a_body_of(size: int) -> bytes:
    return b"POST / HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (CLOSE, size, b"x" * size)


def chunks_of(size: int, each: int = 10**9) -> bytes:
    body = b"x" * size
    pieces = [body[at : at + each] for at in range(0, size, each)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"POST / HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % (CLOSE, chunks)


def extensions_of(size: int) -> bytes:
    """In two chunks, the second of which is the last."""
    first = b";" + b"a" * (size // 2 - 1)
    second = b";" + b"b" * (size - len(first) - 1)
    chunks = b"1%b\r\nx\r\n0%b\r\n\r\n" % (first, second)
    return b"POST / HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n%b" % (CLOSE, chunks)


def trailers_of(size: int) -> bytes:
    chunks = b"1\r\nx\r\n0\r\nA: %b\r\n\r\n" % (b"a" * (size - len("A: \r\n")))
    return b"POST / HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n%b" % (CLOSE, chunks)


EDGES = {
    "request line": (a_line_of, LINE, 414),
    "request line, by its query": (a_query_of, LINE, 414),
    "one header": (one_header_of, HEADER, 431),
    "one header, by its name": (one_name_of, HEADER, 431),
    "all headers": (headers_of, HEADERS, 431),
    "count of headers": (so_many_headers, COUNT, 431),
    "body": (a_body_of, BODY, 413),
    "body in one chunk": (chunks_of, BODY, 413),
    "body in chunks of seven": (lambda size: chunks_of(size, 7), BODY, 413),
    "chunk extensions": (extensions_of, EXTENSIONS_BYTES, 400),
    "trailers": (trailers_of, HEADERS, 400),
}


@pytest.mark.parametrize("where", AROUND)
@pytest.mark.parametrize("name", EDGES)
def test_each_limit_at_itself_one_below_and_one_above(start: Callable[..., Any], name: str, where: str) -> None:
    small = start(
        request_line_bytes=LINE, header_bytes=HEADER, headers_bytes=HEADERS, header_count=COUNT, body_bytes=BODY
    )
    build, limit, refused = EDGES[name]
    data = build(limit + AROUND[where])
    assert status(small.exchange(data)) == (refused if where == "one above" else 200)
    assert len(small.app.handled) == (where != "one above")


@pytest.mark.parametrize("where", AROUND)
@pytest.mark.parametrize("name", ["request line", "one header", "all headers", "count of headers"])
def test_the_default_limits_of_a_head(echo: Any, name: str, where: str) -> None:
    limits = HttpLimits()
    build, _, refused = EDGES[name]
    if name == "all headers":
        whole = [limits.header_bytes] * (limits.headers_bytes // limits.header_bytes - 1)
        rest = limits.headers_bytes - sum(whole) - CLOSE_BYTES + AROUND[where]
        lines = b"".join(b"X: %b\r\n" % (b"x" * (size - 1)) for size in [*whole, rest])
        data = b"GET / HTTP/1.1\r\n%b%b\r\n" % (CLOSE, lines)
    else:
        limit = {
            "request line": limits.request_line_bytes,
            "one header": limits.header_bytes,
            "count of headers": limits.header_count,
        }[name]
        data = build(limit + AROUND[where])
    assert status(echo.exchange(data)) == (refused if where == "one above" else 200)


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (b"GET /", 414),
        (b"GET / HTTP/1.1\r\nX: ", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000000\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n", 413),
    ],
)
def test_the_refusal_reaches_a_client_that_goes_on_sending(
    start: Callable[..., Any], begin: bytes, expected: int
) -> None:
    server = start(body_bytes=100_000)
    with server.connect() as client:
        client.sendall(begin)
        for _ in range(40):
            client.sendall(b"x" * 65536)
        data = b""
        while piece := client.recv(65536):
            data += piece
    assert status(data) == expected


def test_a_declared_body_is_refused_before_it_is_asked_for(start: Callable[..., Any]) -> None:
    server = start(body_bytes=10)
    data = server.exchange(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n")
    assert status(data) == 413
    assert data.endswith(b"larger than 10 bytes\n")


@pytest.mark.parametrize(
    "begin", [b"G", b"GET / HT", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a", GET + b"GET /"]
)
def test_a_head_that_does_not_end(start: Callable[..., Any], begin: bytes) -> None:
    data = start(header_timeout_s=0.1).exchange(begin)
    assert status(data[data.rindex(b"HTTP/1.1 ") :]) == 408


def test_a_head_in_drips_does_not_gain_time(start: Callable[..., Any], eventually: Any) -> None:
    server = start(header_timeout_s=0.3)
    with server.connect() as client:
        client.settimeout(0.02)
        client.sendall(b"GET / HTTP/1.1\r\n")
        data = b""

        def refused() -> bool:
            nonlocal data
            client.sendall(b"X: y\r\n")
            try:
                data += client.recv(4096)
            except TimeoutError:
                return False
            return True

        eventually(refused)
    assert status(data) == 408


def test_a_body_that_does_not_come(start: Callable[..., Any]) -> None:
    server = start(body_timeout_s=0.1)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
    assert status(server.exchange(head)) == 408
    assert status(server.exchange(head + b"a")) == 408
    assert server.app.handled == []


@pytest.mark.parametrize("begun", [0, 100_000])
def test_a_body_in_drips_is_refused_with_the_rate_that_was_expected(
    start: Callable[..., Any], eventually: Any, begun: int
) -> None:
    """Whether its request was handed over or not."""
    server = start(body_rate_bytes_s=500_000, body_rate_grace_s=0.1)
    with server.connect() as client:
        client.settimeout(0.02)
        client.sendall(b"POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(begun))
        data = b""

        def refused() -> bool:
            nonlocal data
            client.sendall(b"x")
            try:
                data += client.recv(4096)
            except TimeoutError:
                return False
            return True

        eventually(refused)
    assert status(data) == 408
    assert data.endswith(b"the body came at less than 500000 bytes a second\n")
    assert len(server.app.gone) == len(server.app.handled) == (1 if begun else 0)


@pytest.mark.parametrize(("rate", "piece"), [(100, bytes(1000)), (0, b"x")])
def test_a_body_in_pieces_that_comes_fast_enough(
    start: Callable[..., Any], sweeps: Any, rate: int, piece: bytes
) -> None:
    server = start(body_rate_bytes_s=rate, body_rate_grace_s=0.1, idle_timeout_s=0.2)
    with server.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (12 * len(piece)))
        for _ in sweeps(server):
            client.sendall(piece)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")


def test_idle_connections_are_closed_without_a_word(start: Callable[..., Any]) -> None:
    server = start(idle_timeout_s=0.1)
    assert server.exchange(b"") == b""
    assert server.exchange(b"\r\n\r\n") == b""
    assert server.exchange(GET).count(b"HTTP/1.1 ") == 1


def test_a_request_in_hand_is_not_idle(start: Callable[..., Any], eventually: Any) -> None:
    server = start(idle_timeout_s=0.05, header_timeout_s=0.05, body_timeout_s=0.05)
    with server.connect() as waiting:
        waiting.sendall(GET.replace(b"/ ", b"/wait "))
        eventually(lambda: server.app.waiting)
        for _ in range(3):  # each of these lives longer than the limits
            assert server.exchange(b"") == b""
        server.release()
        assert waiting.recv(4096).startswith(b"HTTP/1.1 200 OK")


def test_a_reader_that_does_not_read_is_cut_off(start: Callable[..., Any], eventually: Any) -> None:
    server = start(write_timeout_s=0.2, write_buffer_bytes=1000)
    with server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /big/30000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: server.app.handled)
        eventually(lambda: not server.server.connections)


def test_a_full_write_buffer_holds_the_next_request_back(start: Callable[..., Any], eventually: Any) -> None:
    server = start(write_buffer_bytes=1000)
    with server.connect() as client:
        client.sendall(b"GET /big/30000000 HTTP/1.1\r\nHost: a\r\n\r\n" * 2 + b"GET / HTTP/1.0\r\n\r\n")
        eventually(lambda: server.app.handled)
        server.exchange(b"GET / HTTP/1.0\r\n\r\n")  # others are served meanwhile
        assert [r.path for r in server.app.handled] == ["/big/30000000", "/"]
        size = 0
        while piece := client.recv(1 << 20):
            size += len(piece)
    assert size > 60_000_000


def test_too_many_connections(start: Callable[..., Any], eventually: Any) -> None:
    server = start(connections=2)
    with server.connect() as one, server.connect() as two:
        for client in (one, two):
            client.sendall(GET)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
        data = server.exchange(GET)
        assert status(data) == 503
        assert b"\r\nretry-after: 1\r\n" in data
        assert len(server.app.handled) == 2
        one.close()
        eventually(lambda: len(server.server.connections) == 1)
        assert server.exchange(GET, shutdown=True).startswith(b"HTTP/1.1 200 OK")

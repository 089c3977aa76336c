"""Answers that go out in pieces: their framing, how they end, and clients that read slowly or not at all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.client import HTTPResponse, IncompleteRead
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.http1.body import OutgoingBody

PIECES = [b"one", b"", b"two" * 1000, b"\r\n0\r\n\r\n"]
WHOLE = b"".join(PIECES)


@pytest.fixture
def client(desk: Any) -> Iterator[socket.socket]:
    with desk.connect() as client:
        yield client


@pytest.fixture
def ask(desk: Any, client: socket.socket, eventually: Any) -> Any:
    """Send a request; returns it as the app has it."""

    def ask(method: str = "GET", version: str = "1.1", headers: str = "") -> Any:
        before = len(desk.app.requests)
        client.sendall(f"{method} / HTTP/{version}\r\nHost: a\r\n{headers}\r\n".encode())
        eventually(lambda: len(desk.app.requests) > before)
        return desk.app.requests[-1]

    return ask


def stream(desk: Any, request: Any, length: int | None, *, status: int = 200, complete: bool = True) -> None:
    desk.call(request.begin, status, b"x-a: b\r\n", length)
    for piece in PIECES:
        desk.call(request.write, piece)
    desk.call(lambda: request.end(complete=complete))


def read(client: socket.socket, method: str = "GET") -> tuple[Any, bytes]:
    with HTTPResponse(client, method=method) as response:
        response.begin()
        return response, response.read()


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


# -- framing --------------------------------------------------------------------------------------------------------


def test_a_body_of_unknown_length_is_chunked(desk: Any, client: Any, ask: Any) -> None:
    for _ in range(2):  # and the connection goes on
        stream(desk, ask(), None)
        response, body = read(client)
        assert response.headers["transfer-encoding"] == "chunked"
        assert response.headers["content-length"] is None
        assert response.headers["x-a"] == "b"
        assert body == WHOLE


def test_a_body_of_known_length_says_so(desk: Any, client: Any, ask: Any) -> None:
    for _ in range(2):
        stream(desk, ask(), len(WHOLE))
        response, body = read(client)
        assert response.headers["transfer-encoding"] is None
        assert response.headers["content-length"] == str(len(WHOLE))
        assert body == WHOLE


@pytest.mark.parametrize("keep_alive", ["", "Connection: keep-alive\r\n"])
def test_to_http_1_0_the_end_of_the_connection_is_the_end_of_the_body(
    desk: Any, client: Any, ask: Any, keep_alive: str
) -> None:
    stream(desk, ask(version="1.0", headers=keep_alive), None)
    head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"content-length" not in head
    assert b"connection: close" in head
    assert body == WHOLE


def test_http_1_0_stays_open_behind_a_known_length(desk: Any, client: Any, ask: Any) -> None:
    for _ in range(2):
        stream(desk, ask(version="1.0", headers="Connection: keep-alive\r\n"), len(WHOLE))
        assert read(client)[1] == WHOLE


@pytest.mark.parametrize("length", [None, len(WHOLE), 0])
@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304), ("HEAD", 204)])
def test_what_has_no_body_gets_none(
    desk: Any, client: Any, ask: Any, method: str, status: int, length: int | None
) -> None:
    stream(desk, ask(method), length, status=status)
    response, body = read(client, method)
    assert (response.status, body) == (status, b"")
    if status == 200:
        assert response.headers["content-length"] == (None if length is None else str(length))
        assert (response.headers["transfer-encoding"] == "chunked") is (length is None)
    else:
        assert response.headers["content-length"] is response.headers["transfer-encoding"] is None
    request = ask()
    desk.call(request.respond, 200, b"", b"next")
    assert read(client)[1] == b"next"


def test_no_more_goes_out_than_was_promised(desk: Any, client: Any, ask: Any) -> None:
    stream(desk, ask(), 10)
    assert read(client)[1] == WHOLE[:10]
    stream(desk, ask(), None)
    assert read(client)[1] == WHOLE


@pytest.mark.parametrize(("length", "complete"), [(len(WHOLE) + 1, True), (len(WHOLE) + 1, False), (None, False)])
def test_what_is_broken_off_is_cut(desk: Any, client: Any, ask: Any, length: int | None, complete: bool) -> None:
    stream(desk, ask(), length, complete=complete)
    with pytest.raises(IncompleteRead) as caught:
        read(client)
    assert caught.value.partial == WHOLE
    assert client.recv(1) == b""
    assert desk.app.gone == []


def test_a_body_that_was_broken_off_before_its_request_had_come(desk: Any, client: Any, eventually: Any) -> None:
    client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(100_000))
    eventually(lambda: desk.app.requests)
    stream(desk, desk.app.requests[0], None, complete=False)
    with pytest.raises((IncompleteRead, ConnectionResetError)):
        read(client)
    eventually(lambda: not desk.server.connections)


@given(st.lists(st.binary(max_size=30), max_size=10), st.one_of(st.none(), st.integers(0, 100)), st.booleans())
def test_the_frames_of_a_body(pieces: list[bytes], length: int | None, chunked: bool) -> None:
    outgoing = OutgoingBody(length, chunked=chunked and length is None, silent=False)
    sent = b"".join(map(outgoing.piece, pieces))
    body = b"".join(pieces)
    last = outgoing.last(complete=True)
    if length is not None:
        assert sent == body[:length]
        assert (last is None) is (len(body) < length)
    elif chunked:
        found, rest = b"", sent + (last or b"")
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            data, rest = rest[: int(size, 16)], rest[int(size, 16) :]
            assert rest.startswith(b"\r\n")
            found, rest = found + data, rest[2:]
            assert data or not rest  # an empty chunk would end the body
        assert found == body
    else:
        assert (sent, last) == (body, b"")
    assert outgoing.last(complete=False) is None


# -- the next request -----------------------------------------------------------------------------------------------


def test_the_next_request_waits_for_the_end(desk: Any, client: Any, eventually: Any) -> None:
    client.sendall(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n" + b"GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    eventually(lambda: desk.app.requests)
    stream(desk, desk.app.requests[0], None)
    eventually(lambda: len(desk.app.requests) == 2)
    stream(desk, desk.app.requests[1], None)
    data = read_all(client)
    assert data.count(b"HTTP/1.1 200") == 2
    assert data.endswith(b"\r\n0\r\n\r\n")


def test_a_drain_waits_for_the_end(desk: Any, client: Any, ask: Any) -> None:
    request = ask()
    desk.call(request.begin, 200, b"", None)
    left: list[int] = []
    draining = threading.Thread(target=lambda: left.append(desk.run(desk.server.drain(10))))
    draining.start()
    desk.call(request.write, b"some")
    desk.call(lambda: request.end(complete=True))
    assert read(client)[1] == b"some"
    assert client.recv(1) == b""
    draining.join(10)
    assert left == [0]


# -- clients that do not read ---------------------------------------------------------------------------------------


def fill(desk: Any, request: Any, most: int = 50_000_000) -> int:
    """Write until the client does not keep up; returns how much that was."""
    sent = 0
    while sent < most:
        sent += 65536
        if not desk.call(request.write, bytes(65536)):
            return sent
    raise AssertionError("there was room for all of it")


def test_a_slow_reader_is_told_of_and_so_is_that_it_reads_again(
    desk: Any, client: Any, ask: Any, eventually: Any
) -> None:
    request = ask()
    desk.call(request.begin, 200, b"", None)
    sent = fill(desk, request)
    assert desk.app.resumed == []
    with HTTPResponse(client) as response:
        response.begin()
        read = 0
        while not desk.app.resumed:
            read += len(response.read1(65536))
        assert desk.app.resumed == [request]
        desk.call(lambda: request.end(complete=True))
        assert read + len(response.read()) == sent
    # Once the answer is over, nobody is told.
    desk.call(ask().respond, 200, b"", bytes(20_000_000))
    with HTTPResponse(client) as response:
        response.begin()
        assert len(response.read()) == 20_000_000
    assert desk.app.resumed == [request]


def test_a_slow_reader_that_goes_is_noticed(desk: Any, client: Any, ask: Any, eventually: Any) -> None:
    request = ask()
    desk.call(request.begin, 200, b"", None)
    fill(desk, request)
    client.close()
    eventually(lambda: desk.app.gone == [request])
    assert desk.call(request.write, b"more")  # nowhere: it must not be waited for
    desk.call(lambda: request.end(complete=True))
    eventually(lambda: not desk.server.connections)


def test_a_reader_that_stands_still_is_cut(start: Any, eventually: Any) -> None:
    server = start(desk=True, write_timeout_s=0.2)
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: server.app.requests)
        (request,) = server.app.requests
        server.call(request.begin, 200, b"", None)
        fill(server, request)
        eventually(lambda: server.app.gone == [request])


def test_a_client_that_goes_between_two_pieces_is_noticed_by_the_next(
    desk: Any, client: Any, ask: Any, eventually: Any
) -> None:
    request = ask()
    desk.call(request.begin, 200, b"", None)
    desk.call(request.write, b"some")
    client.close()

    def gone() -> bool:
        desk.call(request.write, b"more")
        return desk.app.gone == [request]

    eventually(gone)


def test_a_client_that_half_closes_gets_its_answer(desk: Any, client: Any, ask: Any) -> None:
    request = ask()
    client.shutdown(socket.SHUT_WR)
    stream(desk, request, None)
    assert read(client)[1] == WHOLE
    assert client.recv(1) == b""


def test_an_answer_in_pieces_to_a_body_that_is_still_arriving(desk: Any, client: Any, eventually: Any) -> None:
    """As an echo does: it goes on in both directions at once."""
    client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(100_000))
    eventually(lambda: desk.app.requests)
    (request,) = desk.app.requests
    desk.call(request.begin, 200, b"", 1_000_000)
    desk.call(request.write, request.body)

    def echo() -> None:
        while (piece := request.incoming.take()) is not None:
            request.write(piece)
        request.connection.body_taken()
        if request.incoming.ended:
            request.incoming.wake = None
            request.end(complete=True)

    request.incoming.wake = echo
    desk.call(echo)
    client.sendall(bytes(900_000))
    assert read(client)[1] == bytes(1_000_000)

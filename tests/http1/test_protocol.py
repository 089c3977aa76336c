"""What a client sees on the wire: keep-alive, pipelining, framing of answers."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

HOST = b"Host: a\r\n"


def split(data: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """The answers in ``data``, each framed by its Content-Length."""
    answers = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        headers = dict(one.split(": ", 1) for one in lines)
        assert len(headers) == len(lines)
        size = int(headers.get("content-length", 0))
        answers.append((int(line.split()[1]), headers, data[:size]))
        assert len(answers[-1][2]) == size
        data = data[size:]
    return answers


def recv_answer(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """The next answer, and nothing after it."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(65536)
    found = re.search(rb"content-length: (\d+)", data)
    size = data.index(b"\r\n\r\n") + 4 + (int(found[1]) if found else 0)
    while len(data) < size:
        data += client.recv(65536)
    (answer,) = split(data)
    return answer


def test_keep_alive(echo: Any) -> None:
    with echo.connect() as client:
        for path in (b"/one?a=b", b"/tw%6F"):
            client.sendall(b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
            status, headers, body = recv_answer(client)
            assert status == 200
            assert body == {b"/one?a=b": b"GET /one a=b ", b"/tw%6F": b"GET /two  "}[path]
            assert set(headers) == {"content-type", "content-length", "date"}


def test_http_1_0_closes_unless_asked_to_stay(echo: Any) -> None:
    ((status, headers, _),) = split(echo.exchange(b"GET / HTTP/1.0\r\n\r\n"))
    assert (status, headers["connection"]) == (200, "close")
    first, second = split(
        echo.exchange(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + b"GET / HTTP/1.0\r\n\r\n")
    )
    assert first[1]["connection"] == "keep-alive"
    assert second[1]["connection"] == "close"


def test_connection_close_ends_it_and_what_follows_is_not_answered(echo: Any) -> None:
    data = b"GET /%b HTTP/1.1\r\n" + HOST + b"%b\r\n"
    answers = split(echo.exchange(data % (b"1", b"Connection: close\r\n") + data % (b"2", b"")))
    assert [(a[0], a[1].get("connection"), a[2]) for a in answers] == [(200, "close", b"GET /1  ")]


def test_the_app_closes(echo: Any) -> None:
    data = b"GET %b HTTP/1.1\r\n" + HOST + b"\r\n"
    answers = split(echo.exchange(data % b"/1" + data % b"/close" + data % b"/3"))
    assert [(a[1].get("connection"), a[2]) for a in answers] == [(None, b"GET /1  "), ("close", b"GET /close  ")]


def test_a_thousand_pipelined_requests(echo: Any) -> None:
    data = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % i for i in range(1000))
    answers = split(echo.exchange(data + b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
    assert [a[2] for a in answers] == [b"GET /%d  " % i for i in range(1000)] + [b"GET /last  "]


def test_pipelined_requests_wait_for_the_answer_before_them(start: Callable[..., Any], eventually: Any) -> None:
    server = start()
    with server.connect() as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        for _ in range(3):
            eventually(lambda: server.app.waiting)
            assert len(server.app.waiting) == 1
            server.release()
            assert recv_answer(client)[2] == b"released"
        assert len(server.app.handled) == 3


def test_reading_pauses_while_many_requests_wait(start: Callable[..., Any], eventually: Any) -> None:
    server = start()
    with server.connect() as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: server.app.waiting)
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 1_000_000)
        assert len(server.app.handled) == 1


def test_an_error_comes_after_the_answers_before_it(start: Callable[..., Any], eventually: Any) -> None:
    server = start()
    with server.connect() as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\nNONSENSE\r\n\r\n")
        server.release()
        data = b""
        while piece := client.recv(4096):
            data += piece
    assert [a[0] for a in split(data)] == [200, 400]


def test_body_with_length_and_chunked(echo: Any) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\n"
    data = (
        head
        + b"Content-Length: 5\r\n\r\nhello"
        + head
        + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    )
    answers = split(echo.exchange(data + b"GET / HTTP/1.0\r\n\r\n"))
    assert [a[2] for a in answers] == [b"POST /  hello", b"POST /  hello", b"GET /  "]


def test_a_large_body_both_ways(echo: Any) -> None:
    body = b"z" * 3_000_000
    data = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    ((_, _, answer),) = split(echo.exchange(data))
    assert answer == b"POST /  " + body


@pytest.mark.parametrize("size", [10, 100_000])
def test_head_gets_the_length_without_the_body(echo: Any, size: int) -> None:
    data = echo.exchange(b"HEAD /big/%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % size)
    assert b"content-length: %d\r\n" % size in data
    assert data.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body(echo: Any, status: int) -> None:
    data = echo.exchange(b"GET /status/%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % status)
    assert data.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-length" not in data
    assert data.endswith(b"\r\n\r\n")


def test_an_unnamed_status(echo: Any) -> None:
    assert echo.exchange(b"GET /status/299 HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 299 \r\n")


def test_expect_continue(echo: Any) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    with echo.connect() as client:
        client.sendall(head)
        assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"ab")
        assert recv_answer(client)[2] == b"POST /  ab"
        client.sendall(head + b"ab")  # the body is there already: no need to ask for it
        assert recv_answer(client)[2] == b"POST /  ab"


def test_continue_waits_for_the_answer_before_it(start: Callable[..., Any], eventually: Any) -> None:
    server = start()
    with server.connect() as client:
        client.sendall(
            b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        server.release()
        data = b""
        while not data.endswith(b"100 Continue\r\n\r\n"):
            data += client.recv(4096)
        assert data.startswith(b"HTTP/1.1 200 OK\r\n")
        client.sendall(b"ab")
        assert recv_answer(client)[2] == b"POST /  ab"


def test_upgrades_are_declined_and_the_connection_goes_on(echo: Any) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    data = b"GET /1 HTTP/1.1\r\nHost: a\r\n" + upgrade + b"\r\n"
    data += b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n" + upgrade + b"\r\nabc"
    data += b"GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert [a[2] for a in split(echo.exchange(data))] == [b"GET /1  ", b"POST /2  abc", b"GET /3  "]


def test_options_asterisk_and_absolute_form(echo: Any) -> None:
    data = b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nGET http://b/x?y HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert [a[2] for a in split(echo.exchange(data))] == [b"OPTIONS *  ", b"GET /x y "]


def test_a_half_closed_client_gets_its_answers(start: Callable[..., Any]) -> None:
    server = start()
    data = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
    assert [a[2] for a in split(server.exchange(data * 3, shutdown=True))] == [b"GET /1  "] * 3
    with server.connect() as client:
        client.sendall(data.replace(b"/1 ", b"/wait ") + data)
        client.shutdown(socket.SHUT_WR)
        server.release()
        received = b""
        while piece := client.recv(4096):
            received += piece
    assert [a[2] for a in split(received)] == [b"released", b"GET /1  "]
    assert server.app.gone == []


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_client_that_goes_away_is_told_of_once(start: Callable[..., Any], eventually: Any, how: str) -> None:
    server = start()
    client = server.connect()
    client.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    eventually(lambda: server.app.waiting)
    if how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    eventually(lambda: server.app.gone)
    assert server.app.gone == server.app.handled == server.app.waiting
    server.release()  # too late: does nothing
    assert len(server.app.gone) == 1
    eventually(lambda: not server.server.connections)


def test_only_the_first_answer_counts(start: Callable[..., Any], eventually: Any) -> None:
    server = start()
    with server.connect() as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: server.app.waiting)
        request = server.app.waiting[0]
        server.release(b"one")
        server.call(request.respond, 200, b"", b"two")
        assert recv_answer(client)[2] == b"one"
        client.sendall(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        assert recv_answer(client)[2] == b"GET /next  "


def test_the_client_and_the_time_are_known(echo: Any) -> None:
    echo.exchange(b"GET / HTTP/1.0\r\n\r\n")
    request = echo.app.handled[-1]
    assert request.connection.client == "127.0.0.1"
    assert request.received_at > 0
    assert not hasattr(request, "__dict__")

"""The end of a server: what is in flight is answered, the rest closed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"


def drain(server: Any, timeout_s: float) -> tuple[threading.Thread, list[int]]:
    left: list[int] = []
    thread = threading.Thread(target=lambda: left.append(server.run(server.server.drain(timeout_s))))
    thread.start()
    return thread, left


def read(client: Any) -> bytes:
    data = b""
    while piece := client.recv(4096):
        data += piece
    return data


def test_drain(start: Callable[..., Any], eventually: Any) -> None:
    server = start()
    with server.connect() as idle, server.connect() as busy, server.connect() as half, server.connect() as fresh:
        idle.sendall(GET % b"")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200 OK")
        half.sendall(b"GET /half HTTP/1.1\r\nHos")
        busy.sendall(GET % b"wait" + GET % b"next")
        eventually(lambda: server.app.waiting and len(server.server.connections) == 4)
        thread, left = drain(server, 10.0)
        assert read(idle) == b""  # closed at once
        fresh.sendall(GET % b"fresh")  # accepted before the drain, and asks a moment later
        half.sendall(b"t: a\r\n\r\n")
        for client, body in ((fresh, b"GET /fresh  "), (half, b"GET /half  ")):
            data = read(client)
            assert data.endswith(body)
            assert b"connection: close\r\n" in data
        assert thread.is_alive()
        server.release()
        data = read(busy)
        assert data.count(b"HTTP/1.1 200 OK\r\n") == 2
        assert data.count(b"connection: close\r\n") == 1
        assert data.endswith(b"GET /next  ")
    thread.join(10)
    assert left == [0]
    assert server.app.gone == []


def test_drain_with_nothing_open_returns_at_once(start: Callable[..., Any]) -> None:
    server = start()
    assert server.run(server.server.drain(10.0)) == 0


def test_a_fresh_connection_that_stays_silent_does_not_hold_the_drain_up(start: Callable[..., Any]) -> None:
    server = start()
    with server.connect() as client:
        server.exchange(GET % b"close")
        assert server.run(server.server.drain(9.0)) == 0
        assert read(client) == b""


def test_drain_aborts_at_its_timeout(start: Callable[..., Any], eventually: Any) -> None:
    server = start()
    with server.connect() as client:
        client.sendall(GET % b"wait")
        eventually(lambda: server.app.waiting)
        assert server.run(server.server.drain(0.1)) == 1
        eventually(lambda: server.app.gone)
        assert not server.server.connections

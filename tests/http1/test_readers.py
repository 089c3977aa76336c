"""Clients that take an answer slowly, which is their business, and those that take nothing, which are cut."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

SIZE = 16_000_000
"""More than the kernel holds for a connection."""
BIT = 64 * 1024
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def get(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: a", *headers]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


@contextlib.contextmanager
def connected(server: Any) -> Iterator[socket.socket]:
    """A client whose kernel takes little that the client has not read."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BIT)
        client.settimeout(10)
        client.connect(server.listener.getsockname())
        yield client


def take(client: socket.socket, size: int) -> int:
    """Read so much, or all there is; how much it was."""
    taken = 0
    while taken < size and (piece := client.recv(min(size - taken, 1 << 20))):
        taken += len(piece)
    return taken


@pytest.mark.parametrize("write_buffer_bytes", [1000, 2 * SIZE])
@pytest.mark.parametrize("ends", [False, True])
def test_a_client_that_takes_a_little_gets_everything(
    start: Callable[..., Any], sweeps: Any, write_buffer_bytes: int, ends: bool
) -> None:
    server = start(write_timeout_s=0.6, write_buffer_bytes=write_buffer_bytes)
    with connected(server) as client:
        client.sendall(get(f"/big/{SIZE}", *(["Connection: close"] if ends else [])))
        taken = sum(take(client, BIT) for _ in sweeps(server))
        if not ends:
            client.sendall(get("/", "Connection: close"))
        assert taken + take(client, 2 * SIZE) > SIZE
    assert server.app.gone == []


@pytest.mark.parametrize("write_buffer_bytes", [1000, 2 * SIZE])
@pytest.mark.parametrize("path", ["/", "/wait", "/close"])
@pytest.mark.parametrize("half_closes", [False, True])
def test_a_client_that_takes_nothing_is_cut_whatever_it_still_asks_for(
    start: Callable[..., Any], eventually: Any, write_buffer_bytes: int, path: str, half_closes: bool
) -> None:
    server = start(write_timeout_s=0.2, write_buffer_bytes=write_buffer_bytes)
    with connected(server) as client:
        client.sendall(get(f"/big/{SIZE}") + get(path))
        if half_closes:
            client.shutdown(socket.SHUT_WR)
        eventually(lambda: server.app.handled)
        eventually(lambda: not server.server.connections)
        with contextlib.suppress(ConnectionResetError):
            assert take(client, 2 * SIZE) < SIZE
    assert server.app.gone == server.app.waiting


@pytest.fixture
def websocket(start: Callable[..., Any], eventually: Any) -> Iterator[Callable[..., tuple[Any, socket.socket, Any]]]:
    """An open one: the server, the client, and the request."""
    with contextlib.ExitStack() as stack:

        def open_one(**limits: Any) -> tuple[Any, socket.socket, Any]:
            server = start(desk=True, **limits)
            client = stack.enter_context(connected(server))
            client.sendall(HANDSHAKE)
            eventually(lambda: server.app.requests)
            (request,) = server.app.requests
            server.call(request.begin, 101, b"", None)
            return server, client, request

        yield open_one


@pytest.mark.parametrize("write_buffer_bytes", [1000, 2 * SIZE])
def test_a_websocket_whose_client_takes_nothing_is_cut_though_more_is_written(
    websocket: Callable[..., Any], eventually: Any, write_buffer_bytes: int
) -> None:
    server, _client, request = websocket(write_timeout_s=0.2, write_buffer_bytes=write_buffer_bytes)
    server.call(request.write, bytes(SIZE))

    def gone() -> bool:
        server.call(request.write, b"ping")
        return server.app.gone == [request]

    eventually(gone)


def test_a_websocket_whose_client_takes_as_little_as_is_written_is_not_cut(
    websocket: Callable[..., Any], sweeps: Any
) -> None:
    server, client, request = websocket(write_timeout_s=0.6)
    server.call(request.write, bytes(SIZE))
    taken = 0
    for _ in sweeps(server):
        taken += take(client, BIT)
        server.call(request.write, bytes(BIT))
    server.call(lambda: request.end(complete=True))
    assert taken + take(client, 2 * SIZE) > SIZE + 12 * BIT
    assert server.app.gone == []


def test_a_client_that_has_taken_everything_may_be_silent(websocket: Callable[..., Any], sweeps: Any) -> None:
    server, client, request = websocket(write_timeout_s=0.1)
    server.call(request.write, bytes(1000))
    assert take(client, 1000) == 1000
    for _ in sweeps(server):
        pass
    server.call(request.write, b"still here")
    while not client.recv(1000).endswith(b"still here"):
        pass
    assert server.app.gone == []

"""A real listener on an ephemeral port, its loop in a thread, and a raw client."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop
from tests.support.waiting import until

from servekit.config import HttpLimits
from servekit.http1.request import HttpRequest, gather
from servekit.http1.server import HttpServer

DEADLINE_S = 10.0


class Noting:
    """An app that notes which of its requests were abandoned, and the clients of which read again."""

    def __init__(self) -> None:
        self.gone: list[HttpRequest] = []
        self.resumed: list[HttpRequest] = []

    def new_request(self) -> HttpRequest:
        request = Noted()
        request.app = self
        return request


class Noted(HttpRequest):
    __slots__ = ("__weakref__", "app")

    app: Noting

    def writable(self) -> None:
        self.app.resumed.append(self)

    def abandoned(self) -> None:
        self.app.gone.append(self)


class Echo(Noting):
    """Answers with the request's method, target and body; ``/wait`` waits for `release`, ``/big/N`` has N bytes.

    A long body is awaited, but by ``/early``, which answers with what has come by then, and ``/wait``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.handled: list[HttpRequest] = []
        self.waiting: list[HttpRequest] = []

    def handle(self, request: HttpRequest) -> None:
        self.handled.append(request)
        if request.path == "/wait":
            self.waiting.append(request)
        elif request.path == "/early":
            self._answer(request)
        else:
            gather(request, self._answer)

    def _answer(self, request: HttpRequest) -> None:
        status, body = 200, f"{request.method} {request.path} {request.query.decode()} ".encode() + request.body
        if request.path.startswith("/big/"):
            body = b"x" * int(request.path[5:])
        if request.path.startswith("/status/"):
            status = int(request.path[8:])
        if request.path == "/close":
            request.keep_alive = False
        request.respond(status, b"content-type: text/plain\r\n", body)


class Running:
    """An `HttpServer` in a thread."""

    def __init__(self, limits: HttpLimits, app: Any) -> None:
        self.app = app
        self._loop = uvloop.new_event_loop()
        self.server = HttpServer(self.app, limits, self._loop)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.run(self._listen())

    async def _listen(self) -> None:
        self.server.start()
        self._asyncio_server = await self._loop.create_server(self.server.protocol_factory, sock=self.listener)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE_S)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """The result of ``function(*args)``, called on the loop."""

        async def wrapper() -> Any:
            return function(*args)

        return self.run(wrapper())

    def release(self, body: bytes = b"released") -> None:
        """Answer the oldest waiting request, once there is one."""
        until(lambda: self.app.waiting)
        self.call(self.app.waiting.pop(0).respond, 200, b"", body)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.listener.getsockname()[:2], timeout=DEADLINE_S)

    def exchange(self, data: bytes, *, shutdown: bool = False) -> bytes:
        """Send ``data``, and return all that comes until the server closes."""
        with self.connect() as client:
            client.sendall(data)
            if shutdown:
                client.shutdown(socket.SHUT_WR)
            return read_all(client)

    async def _stop(self) -> None:
        self._asyncio_server.close()
        self.server.close()
        for _ in range(3):  # aborted transports tell their protocols in a later turn
            await asyncio.sleep(0)

    def stop(self) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()


class Desk(Noting):
    """An app that answers nothing by itself: the test does, with what it finds here."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[HttpRequest] = []

    def handle(self, request: HttpRequest) -> None:
        self.requests.append(request)


def read_all(client: socket.socket) -> bytes:
    pieces = []
    while piece := client.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Start a server with these limits; ``desk``: its app is a `Desk`, and no `Echo`."""
    running: list[Running] = []

    def start_one(*, desk: bool = False, **limits: Any) -> Running:
        running.append(Running(HttpLimits(**limits), Desk() if desk else Echo()))
        return running[-1]

    yield start_one
    for one in running:
        one.stop()


@pytest.fixture
def desk(start: Callable[..., Running]) -> Running:
    """A server whose ``app`` is a `Desk`, with the default limits."""
    return start(desk=True)


@pytest.fixture(scope="module")
def echo() -> Iterator[Running]:
    """A server with the default limits, for tests that leave it as it was."""
    one = Running(HttpLimits(), Echo())
    yield one
    one.stop()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    return until


@pytest.fixture
def sweeps() -> Callable[[Running], Iterator[None]]:
    """``for _ in sweeps(server)``: twelve times, with a sweep of the server's between two. A server sweeps four times
    within its shortest timeout, so that it is three times over at the end."""

    def twelve(running: Running) -> Iterator[None]:
        for _ in range(12):
            seen = running.server.last_lines  # Each sweep renews them.
            yield
            until(lambda seen=seen: running.server.last_lines is not seen)

    return twelve

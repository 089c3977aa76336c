"""WebSockets to ASGI applications, on every runtime, by the client of the `websockets` library."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from starlette.responses import PlainTextResponse
from tests.support.waiting import until
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from servekit.inprocess import InProcessInstance
from servekit.testing.instances import ServedInstance

# Ray has a part in how a replica ends, and none in what goes over a socket.
pytestmark = pytest.mark.runtimes("inprocess", "process")

DEADLINE_S = 20.0
LARGE = 4 * 1024 * 1024


def make_app() -> FastAPI:
    app = FastAPI()
    ended: list[Any] = []

    @app.get("/ended")
    async def list_ended() -> list[Any]:
        return ended

    @app.get("/pid")
    async def pid() -> int:
        return os.getpid()

    @app.websocket("/echo")
    async def echo(ws: WebSocket) -> None:
        await ws.accept(subprotocol=next(iter(ws.scope["subprotocols"]), None), headers=[(b"x-app", b"1")])
        while (event := await ws.receive())["type"] == "websocket.receive":
            await ws.send({**event, "type": "websocket.send"})
        ended.append([event["code"], event.get("reason")])

    @app.websocket("/count/{number}")
    async def count(ws: WebSocket, number: int) -> None:
        await ws.accept()
        for sent in range(number):
            await ws.send_text(str(sent))
        await ws.close(4000, "that is all")

    for name, function in (("raises", raises), ("refuses", refuses), ("denies", denies), ("never", never)):
        app.add_api_websocket_route(f"/{name}", function)
    return app


async def raises(ws: WebSocket) -> None:
    await ws.accept()
    raise ValueError("mine")


async def refuses(ws: WebSocket) -> None:
    await ws.close()


async def denies(ws: WebSocket) -> None:
    await ws.send_denial_response(PlainTextResponse("pay first", 402))


async def never(ws: WebSocket) -> None:
    await asyncio.sleep(1000)


def hello(request: object) -> str:
    return "hello"


class Sockets:
    """The application at ``/app``, and clients of its WebSockets."""

    def __init__(self, serve: ServedInstance) -> None:
        self.serve = serve
        self.closing = contextlib.ExitStack()

    def create(self, timeout_s: float = 60.0, **options: Any) -> None:
        self.serve.create_backend("app", make_app(), adapter="asgi", adapter_options=options)
        self.serve.create_endpoint("app", "/app", mount=True, backend="app", timeout_s=timeout_s)

    def dial(self, path: str, **options: Any) -> ClientConnection:
        """A client; in process it is given its connection."""
        instance = self.serve.instance
        url = instance.url.replace("http", "ws", 1)
        sock = instance.connect() if isinstance(instance, InProcessInstance) else None
        options = {"max_size": 2 * LARGE, "open_timeout": DEADLINE_S, "proxy": None, **options}
        return self.closing.enter_context(connect(url + path, sock=sock, **options))


@pytest.fixture
def sockets(serve: ServedInstance) -> Iterator[Sockets]:
    found = Sockets(serve)
    with found.closing:
        yield found


@pytest.fixture
def app(sockets: Sockets) -> Sockets:
    sockets.create()
    return sockets


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_hundreds_of_messages_both_ways(app: Sockets) -> None:
    ws = app.dial("/app/echo", subprotocols=["chat", "other"])
    assert ws.subprotocol == "chat"
    assert ws.response is not None
    assert ws.response.headers["x-app"] == "1"
    assert ws.response.headers["x-request-id"]
    assert ws.ping().wait(DEADLINE_S)
    for number in range(300):  # One after another,
        ws.send(f"message {number}")
        assert ws.recv(DEADLINE_S) == f"message {number}"
    sender = threading.Thread(target=lambda: [ws.send(b"%d" % number) for number in range(1000)])
    sender.start()  # and all at once.
    assert [ws.recv(DEADLINE_S) for _ in range(1000)] == [b"%d" % number for number in range(1000)]
    sender.join()


def test_large_messages_and_small_fragments(app: Sockets) -> None:
    ws = app.dial("/app/echo")
    for data in ("ä" * (LARGE // 2), os.urandom(LARGE)):
        ws.send(data)
        assert ws.recv(DEADLINE_S) == data
    ws.send(f"piece {number} " for number in range(100))
    assert ws.recv(DEADLINE_S) == "".join(f"piece {number} " for number in range(100))


def test_many_at_once_beside_plain_requests(app: Sockets) -> None:
    many = [app.dial("/app/echo") for _ in range(40)]

    def talk(number: int) -> bool:
        ws = many[number]
        for turn in range(10):
            ws.send(f"{number} {turn}")
            if ws.recv(DEADLINE_S) != f"{number} {turn}":
                return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(talk, range(40)))
    assert app.serve.client.get("/app/ended").json() == []


def test_the_client_closes_and_the_application_learns_why(app: Sockets) -> None:
    ws = app.dial("/app/echo")
    ws.close(4001, "enough")
    until(lambda: app.serve.client.get("/app/ended").json() == [[4001, "enough"]])
    assert ws.protocol.close_rcvd is not None
    assert ws.protocol.close_rcvd.code == 4001


def test_the_application_closes_behind_what_it_has_sent(app: Sockets) -> None:
    ws = app.dial("/app/count/500")
    assert list(_messages(ws)) == [str(number) for number in range(500)]
    assert (ws.close_code, ws.close_reason) == (4000, "that is all")


def _messages(ws: ClientConnection) -> Iterator[Any]:
    while True:
        try:
            yield ws.recv(DEADLINE_S)
        except ConnectionClosed:
            return


def test_a_client_that_vanishes_is_1006(app: Sockets) -> None:
    ws = app.dial("/app/echo")
    ws.send("here")
    assert ws.recv(DEADLINE_S) == "here"
    ws.socket.shutdown(socket.SHUT_RDWR)
    until(lambda: [code for code, _ in app.serve.client.get("/app/ended").json()] == [1006])


def test_an_application_that_raises_closes(app: Sockets) -> None:
    ws = app.dial("/app/raises")
    with pytest.raises(ConnectionClosedError) as caught:
        ws.recv(DEADLINE_S)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1011
    again = app.dial("/app/echo")
    again.send("still here")
    assert again.recv(DEADLINE_S) == "still here"


def test_refusals_are_ordinary_answers(app: Sockets) -> None:
    for path, status in (("/app/refuses", 403), ("/app/denies", 402), ("/app/none", 403), ("/none", 404)):
        with pytest.raises(InvalidStatus) as caught:
            app.dial(path)
        assert caught.value.response.status_code == status
        assert caught.value.response.headers["connection"] == "close"


def test_a_handler_that_knows_no_websockets_answers_as_ever(sockets: Sockets) -> None:
    sockets.serve.create_backend("hello", hello)
    sockets.serve.create_endpoint("hello", "/hello", backend="hello")
    with pytest.raises(InvalidStatus) as caught:
        sockets.dial("/hello")
    assert (caught.value.response.status_code, caught.value.response.body) == (200, b"hello")


def test_the_timeout_is_for_the_handshake_alone(sockets: Sockets) -> None:
    sockets.create(timeout_s=1.0, ws_ping_interval_s=0.1)
    ws = sockets.dial("/app/echo")
    with pytest.raises(InvalidStatus) as caught:
        sockets.dial("/app/never")
    assert caught.value.response.status_code == 504
    ws.send("still here")  # The deadline of the first one had passed before that of the second.
    assert ws.recv(DEADLINE_S) == "still here"


def test_a_message_that_is_too_long_is_1009(sockets: Sockets) -> None:
    sockets.create(ws_max_message_bytes=1000)
    ws = sockets.dial("/app/echo")
    ws.send(b"x" * 1000)
    assert ws.recv(DEADLINE_S) == b"x" * 1000
    ws.send(b"x" * 1001)
    assert list(_messages(ws)) == []
    assert ws.close_code == 1009


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_a_replica_that_leaves_closes_its_sockets(app: Sockets) -> None:
    ws = app.dial("/app/echo")
    app.serve.update_backend_config("app", {"num_replicas": 0})
    assert list(_messages(ws)) == []
    assert ws.close_code == 1012


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_a_replica_that_is_killed_is_1006(app: Sockets, runtime: str) -> None:
    if runtime == "inprocess":
        pytest.skip("a thread cannot be killed")
    ws = app.dial("/app/echo")
    os.kill(app.serve.client.get("/app/pid").json(), signal.SIGKILL)
    assert list(_messages(ws)) == []
    assert ws.close_code == 1006

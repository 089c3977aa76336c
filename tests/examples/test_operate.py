"""The files of ``examples/operate``: proxies in front of a real instance, and the service that is told to end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from tests.support.waiting import until
from websockets.sync.client import connect

import servekit as serve

pytestmark = pytest.mark.processes

OPERATE = Path(__file__).parents[2] / "examples" / "operate"
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
CLIENT = "127.0.0.2"
"""Where clients are: a proxy that is trusted is at 127.0.0.1 alone."""
COMMANDS = {
    "nginx.conf": ["nginx", "-p", "{folder}", "-g", "daemon off;", "-c"],
    "Caddyfile": ["caddy", "run", "--config"],
}


def seen(connection: Any) -> dict[str, Any]:
    headers = connection.headers
    names = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host")
    return {
        "client": connection.client.host,
        "url": str(connection.url),
        "sent": {name: headers[name] for name in names if name in headers},
    }


async def look(request: Request) -> JSONResponse:
    return JSONResponse(seen(request))


async def events(request: Request) -> StreamingResponse:
    """Events, each of which waits for the file that the client makes once it has the one before."""
    folder = Path(request.query_params["folder"])

    async def pieces() -> AsyncIterator[str]:
        for number in range(3):
            yield f"data: {number}\n\n"
            while not (folder / str(number)).exists():  # noqa: ASYNC110 - what the client does is a file
                await asyncio.sleep(0.01)

    return StreamingResponse(pieces(), media_type="text/event-stream")


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_json(seen(socket))
    await socket.send_text((await socket.receive_text()).upper())
    await socket.close()


def app() -> Starlette:
    routes = [Route("/look", look), Route("/events", events), WebSocketRoute("/echo", echo)]
    return Starlette(routes=routes)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def instance() -> Iterator[serve.Instance]:
    with serve.init(runtime="process", http_port=0, trusted_proxies=["127.0.0.1"]) as instance:
        instance.create_backend("app", app(), adapter="asgi")
        instance.create_endpoint("app", "/", mount=True, backend="app")
        yield instance


@pytest.fixture(scope="module", params=COMMANDS)
def front(
    request: pytest.FixtureRequest, instance: serve.Instance, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a proxy that runs the file, but for its ports."""
    folder = tmp_path_factory.mktemp("front")
    program, *arguments = COMMANDS[request.param]
    found = shutil.which(program, path=PATH)
    if found is None:
        pytest.skip(f"{program} is not installed")
    text, port = (OPERATE / request.param).read_text(), free_port()
    for old, new in ((r"127.0.0.1:8000", instance.url.partition("//")[2]), ("8080", str(port))):
        assert old in text
        text = text.replace(old, new)
    config = folder / request.param
    config.write_text(text)
    command = [found, *(argument.format(folder=folder) for argument in arguments), str(config)]
    env = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)
    try:

        def answers() -> bool:
            assert process.poll() is None, (folder / "out").read_text()
            try:
                return httpx.get(f"http://127.0.0.1:{port}/look").status_code == 200
            except httpx.TransportError:
                return False

        until(answers)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def client(front: str) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(local_address=CLIENT)
    with httpx.Client(base_url=f"http://{front}", transport=transport, timeout=60) as client:
        yield client


def test_the_handler_sees_the_client_and_not_what_the_client_made_up(client: httpx.Client, front: str) -> None:
    for made_up in ({}, {"x-forwarded-for": "6.6.6.6"}, {"x-forwarded-for": "127.0.0.1, junk"}):
        found = client.get("/look", headers=made_up).json()
        assert (found["client"], found["url"]) == (CLIENT, f"http://{front}/look")
        assert found["sent"]["x-forwarded-for"].endswith(CLIENT)
    found = client.get("/look", headers={"host": "shop.example.org"}).json()
    assert found["url"] == "http://shop.example.org/look"


def test_events_come_piece_by_piece(client: httpx.Client, tmp_path: Path) -> None:
    got = []
    with client.stream("GET", "/events", params={"folder": str(tmp_path)}) as answer:
        for piece in answer.iter_raw():
            got.append(piece.decode())
            (tmp_path / str(len(got) - 1)).touch()
    assert got == ["data: 0\n\n", "data: 1\n\n", "data: 2\n\n"]


def test_a_websocket_goes_through(front: str) -> None:
    with connect(f"ws://{front}/echo", source_address=(CLIENT, 0)) as socket:
        found = json.loads(socket.recv())
        assert (found["client"], found["url"]) == (CLIENT, f"ws://{front}/echo")
        socket.send("hello")
        assert socket.recv() == "HELLO"


def test_what_is_not_for_the_outside_is_not_there(client: httpx.Client) -> None:
    assert [client.get(path).status_code for path in ("/-/readyz", "/-/routes", "/-/openapi.json")] == [404] * 3


# -- those who are not trusted -----------------------------------------------------------------------------------------


def test_nobody_else_is_believed(instance: serve.Instance) -> None:
    lies = {"x-forwarded-for": "6.6.6.6", "x-forwarded-proto": "https", "x-forwarded-host": "bank.example.org"}
    truth = {"client": CLIENT, "url": f"{instance.url}/look", "sent": lies}
    with httpx.Client(transport=httpx.HTTPTransport(local_address=CLIENT)) as client:
        assert client.get(f"{instance.url}/look", headers=lies).json() == truth


def test_a_trusted_proxy_says_the_scheme_and_the_host(instance: serve.Instance) -> None:
    said = {"x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "https", "x-forwarded-host": "shop.example.org"}
    found = httpx.get(f"{instance.url}/look", headers=said).json()
    assert (found["client"], found["url"]) == ("192.0.2.1", "https://shop.example.org/look")
    malformed = {"x-forwarded-for": "me", "x-forwarded-proto": "gopher", "x-forwarded-host": "a b"}
    found = httpx.get(f"{instance.url}/look", headers=malformed).json()
    assert (found["client"], found["url"]) == ("127.0.0.1", f"{instance.url}/look")


# -- the service -------------------------------------------------------------------------------------------------------


def test_the_service_serves_until_sigterm_and_is_not_ready_before_it_ends() -> None:
    env = {**os.environ, "PORT": "0", "DRAIN_DELAY_S": "1"}
    command = [sys.executable, str(OPERATE / "app.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as service:
        assert service.stdout is not None
        url = service.stdout.readline().split()[-1]
        assert httpx.get(f"{url}/hello?name=you").json() == {"hello": "you", "client": "127.0.0.1", "scheme": "http"}
        assert httpx.get(f"{url}/-/readyz").status_code == httpx.get(f"{url}/-/livez").status_code == 200
        service.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{url}/-/readyz").status_code == 503)
        assert httpx.get(f"{url}/hello").status_code == 200
        assert service.wait(60) == 0

"""The parts of the hot path, one by one: ``pytest benchmarks/micro`` (pytest-benchmark).

Each says which process pays for it, and what share of that process's CPU time per request it is, for ``hello`` at 64
connections. The rest is system calls (a read and a write a request, on the client's side), the event loop, and the
router's and executor's own bookkeeping.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from servekit.config import HttpLimits
from servekit.http1.request import HttpRequest
from servekit.http1.server import HttpServer
from servekit.interfaces import Request, Response
from servekit.replica.render import render
from servekit.routes import RouteTable
from servekit.wire.data_frames import Answer, Call, data_codec
from servekit_flask.adapter import FlaskAdapter
from servekit_flask.environ import environ_of
from servekit_weighted import WeightedSplit

pytestmark = pytest.mark.benchmark(min_time=0.001, warmup=True, disable_gc=True)  # a round of many calls each
Benchmark = Callable[..., Any]
WRK = b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n"
HEADERS = [(b"host", b"127.0.0.1:8000")]
REQUEST = Request("GET", "/hello", b"", HEADERS, b"", "hello", "/hello", "0123456789ab-1", "127.0.0.1")
ANSWER = Answer(1, 200, b"content-type: text/html; charset=utf-8\r\n", b"hello", 0, 20)


@dataclass
class Endpoint:
    route: str
    mount: bool = False


@dataclass
class Replica:
    id: str
    node: str = ""
    outstanding: int = 0
    queue_length: int = 0


@dataclass
class Backend:
    name: str
    weight: float
    replicas: tuple[Replica, ...] = ()


class Discard:
    """A transport that forgets what is written to it."""

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1)

    def write(self, data: bytes) -> None: ...


class Hello:
    """Answers at once: all that is left of the ingress is HTTP."""

    new_request = HttpRequest

    def handle(self, request: HttpRequest) -> None:
        request.respond(200, ANSWER.head, ANSWER.body)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_http_parse_and_answer(benchmark: Benchmark, loop: asyncio.AbstractEventLoop) -> None:
    """Ingress: about 13 %. From the bytes of a request to the bytes of its answer, with nothing in between."""
    connection = HttpServer(Hello(), HttpLimits(), loop).protocol_factory()
    connection.connection_made(Discard())  # type: ignore[arg-type]
    benchmark(connection.data_received, WRK)


@pytest.mark.parametrize("count", [1, 10_000])
def test_route_exact(benchmark: Benchmark, count: int) -> None:
    """Ingress: under 1 %. One look into a dictionary."""
    table: RouteTable[Endpoint] = RouteTable()
    for number in range(count):
        table.add(Endpoint(f"/endpoint/{number}"))
    assert benchmark(table.find, f"/endpoint/{count - 1}") is not None


@pytest.mark.parametrize("count", [1, 10_000])
def test_route_pattern(benchmark: Benchmark, count: int) -> None:
    """Ingress: about 15 %, where the route has variables: werkzeug's state machine. Without them, nothing."""
    table: RouteTable[Endpoint] = RouteTable()
    for number in range(count):
        table.add(Endpoint(f"/endpoint/{number}/<int:item>"))
    table.find("/endpoint/0/1")  # compiles
    assert benchmark(table.find, f"/endpoint/{count - 1}/42") is not None


def test_weighted_split(benchmark: Benchmark) -> None:
    """Ingress: about 1 %, with two backends. With one, which is the common case, next to nothing."""
    backends = [Backend("old", 0.9), Backend("new", 0.1)]
    benchmark(WeightedSplit().choose_backend, REQUEST, backends)


def test_choose_replica(benchmark: Benchmark) -> None:
    """Ingress: about 1 %, among four replicas. With one, next to nothing."""
    replicas = [Replica(str(number), outstanding=number) for number in range(4)]
    benchmark(WeightedSplit().choose_replica, REQUEST, replicas)


def test_encode_call(benchmark: Benchmark) -> None:
    """Ingress: under 1 %."""
    benchmark(data_codec().encode, Call(1, 60_000, REQUEST))


def test_decode_call(benchmark: Benchmark) -> None:
    """Replica: about 3 %."""
    codec = data_codec()
    assert benchmark(codec.decode, codec.encode(Call(1, 60_000, REQUEST))).id == 1


def test_environ(benchmark: Benchmark) -> None:
    """Replica: about 5 %. Part of the adapter's call below."""
    benchmark(environ_of, REQUEST)


def test_adapter_call(benchmark: Benchmark) -> None:
    """Replica: about 23 %. A `flask.Request`, Flask's context, the handler, and a response of its result."""
    assert benchmark(FlaskAdapter().call, lambda request: "hello", REQUEST).body == b"hello"


def test_adapter_call_json(benchmark: Benchmark) -> None:
    """Replica: what the same costs with JSON of 10 KB in and out. Not on the path of ``hello``."""
    body = json.dumps({"values": [round(1000 + i * 0.37, 2) for i in range(1110)]}).encode()
    headers = [*HEADERS, (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    request = Request("POST", "/json", b"", headers, body, "json", "/json", "1", "127.0.0.1")
    assert benchmark(FlaskAdapter().call, lambda request: request.get_json(), request).status == 200


def test_render(benchmark: Benchmark) -> None:
    """Replica: about 5 %. Checks and joins the head that goes into the answer's frame."""
    response = Response(200, [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", "5")], b"hello")
    assert benchmark(render, response)[0] == 200


def test_encode_answer(benchmark: Benchmark) -> None:
    """Replica: about 1 %."""
    benchmark(data_codec().encode, ANSWER)


def test_decode_answer(benchmark: Benchmark) -> None:
    """Ingress: under 1 %."""
    codec = data_codec()
    assert benchmark(codec.decode, codec.encode(ANSWER)).id == 1

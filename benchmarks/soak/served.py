"""What a soak serves, beside the ``/echo`` of `benchmarks.faults`: long bodies, streams, a WebSocket, handles."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import flask

import servekit
from benchmarks.faults.handlers import AsyncEcho
from benchmarks.faults.scene import create

LINE_PERIOD_S = 0.01
TIMEOUT_S = 30.0
HANG_TIMEOUT_S = 1.0
"""Of ``/hang``, behind which are the replicas of ``/echo``."""
TRAFFIC = {"echo": 0.6, "other": 0.4}
COUNTS = {"echo": 3, "other": 2, "long": 2, "called": 1, "app": 1}
"""How many replicas each backend has at first, and in the end."""
SLOTS = {"echo": 1, "other": 2, "long": 4, "called": 2, "app": 20}


def made(name: str, size: int) -> bytes:
    """The body that belongs to a name."""
    return random.Random(name).randbytes(size)


def line(name: str, number: int) -> bytes:
    """One of a stream."""
    return f"{name} {number}\n".encode()


def long(request: flask.Request) -> Any:
    """A POST is answered with what has come; a GET with ``size`` bytes, or with ``lines`` lines that are made one after
    the other."""
    name = request.args["id"]
    if request.method == "POST":
        found, size = hashlib.sha256(), 0
        while piece := request.stream.read(100_000):
            found.update(piece)
            size += len(piece)
        return {"id": name, "size": size, "digest": found.hexdigest(), "pid": os.getpid()}
    if "size" in request.args:
        return made(name, int(request.args["size"]))
    return _lines(name, int(request.args["lines"]))


def _lines(name: str, count: int) -> Iterator[bytes]:
    for number in range(count):
        time.sleep(LINE_PERIOD_S)
        yield line(name, number)


class Called:
    def __call__(self, request: flask.Request, name: str) -> dict[str, Any]:
        return {"id": name, "pid": os.getpid()}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Sends every message of a WebSocket back."""
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


def serve(instance: servekit.Instance, runtime: str) -> None:
    """All but the backend and the endpoint ``echo``, which are there."""
    create(instance, runtime, "other", AsyncEcho, 0.002, **config("other"))
    create(instance, runtime, "long", long, **config("long"))
    create(instance, runtime, "called", Called, **config("called"))
    options = {"num_cpus": 0.01} if runtime == "ray" else {}
    instance.create_backend("app", app, config=config("app"), adapter="asgi", ray_actor_options=options)
    instance.create_endpoint("hang", "/hang", ["GET", "POST"], backend="echo", timeout_s=HANG_TIMEOUT_S)
    instance.create_endpoint("long", "/long", ["GET", "POST"], backend="long", timeout_s=TIMEOUT_S)
    instance.create_endpoint("called", backend="called", timeout_s=TIMEOUT_S)
    instance.create_endpoint("app", "/app", mount=True, backend="app", timeout_s=TIMEOUT_S)
    instance.set_traffic("echo", TRAFFIC)


def config(backend: str) -> dict[str, Any]:
    return {"num_replicas": COUNTS[backend], "max_concurrent_queries": SLOTS[backend]}


def serve_as_at_first(instance: servekit.Instance) -> None:
    """Undo what changes have left, those too that a killed controller did not end."""
    instance.set_traffic("echo", TRAFFIC)
    for name in set(instance.list_endpoints()) - {"echo", "hang", "long", "called", "app"}:
        instance.delete_endpoint(name)
    for name in set(instance.list_backends()) - set(COUNTS):
        instance.delete_backend(name)
    for name in COUNTS:
        instance.update_backend_config(name, config(name))

"""Whole applications as backends, on every runtime: Flask by WSGI, Starlette and FastAPI by ASGI."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import httpx
import pytest
from tests.support.waiting import until

from servekit.errors import BackendStartError, InvalidInputError
from servekit.testing.instances import ServedInstance

# Ray has a part in how an application gets to its replica and starts there, and none in how it is called.
pytestmark = pytest.mark.runtimes("inprocess", "process")

DEADLINE_S = 20.0
FACTORY = {"factory": True}


def make_flask() -> Any:
    import threading

    import flask

    app = flask.Flask("app_of_tests")
    go, events = threading.Event(), []

    @app.route("/", methods=["GET", "POST", "PUT", "DELETE", "PATCH"])
    def root() -> str:
        return f"{flask.request.method} {flask.request.script_root} {flask.request.path}"

    @app.get("/pages/<name>")
    def page(name: str) -> str:
        return f"{name} {flask.url_for('page', name=name)}"

    @app.post("/count")
    def count() -> dict[str, int]:
        size = sum(map(len, iter(lambda: flask.request.stream.read(65536), b"")))
        return {"size": size}

    @app.get("/stream")
    def stream() -> Any:
        def pieces() -> Any:
            try:
                yield "first\n"
                go.wait()
                yield "second\n"
            finally:
                events.append("closed")

        return flask.Response(pieces(), mimetype="text/plain")

    @app.get("/go")
    def release() -> list[str]:
        go.set()
        return events

    @app.get("/fails")
    def fails() -> None:
        raise ValueError("mine")

    @app.get("/breaks")
    def breaks() -> Any:
        def pieces() -> Any:
            yield "first\n"
            raise ValueError("mine")

        return flask.Response(pieces())

    return app


def make_starlette() -> Any:
    import contextlib

    from starlette.applications import Starlette

    events: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> Any:
        events.append("startup")
        yield {"model": "m"}

    return Starlette(lifespan=lifespan, routes=[*plain_routes(events), *streaming_routes(events)])


def plain_routes(events: list[str]) -> list[Any]:
    from starlette.background import BackgroundTask
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Route

    async def root(request: Any) -> Any:
        return PlainTextResponse(f"{request.method} {request.scope['root_path']} {request.url.path}")

    async def page(request: Any) -> Any:
        return PlainTextResponse(f"{request.path_params['name']} {request.url_for('page', **request.path_params).path}")

    async def fails(request: Any) -> None:
        raise ValueError("mine")

    async def model(request: Any) -> Any:
        return PlainTextResponse(request.state.model)

    async def after(request: Any) -> Any:
        async def later() -> None:
            events.append("later")

        return JSONResponse(events, background=BackgroundTask(later))

    methods = ["GET", "POST", "PUT", "DELETE", "PATCH"]
    others = [Route("/fails", fails), Route("/model", model), Route("/after", after)]
    return [Route("/", root, methods=methods), Route("/pages/{name}", page), *others]


def streaming_routes(events: list[str]) -> list[Any]:
    import asyncio

    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    go = asyncio.Event()

    async def count(request: Any) -> Any:
        size = 0
        async for piece in request.stream():
            size += len(piece)
        return JSONResponse({"size": size})

    async def stream(request: Any) -> Any:
        async def pieces() -> Any:
            try:
                yield "first\n"
                await go.wait()
                yield "second\n"
            finally:
                events.append("closed")

        return StreamingResponse(pieces(), media_type="text/plain")

    async def release(request: Any) -> Any:
        go.set()
        return JSONResponse(events)

    async def breaks(request: Any) -> Any:
        async def pieces() -> Any:
            yield "first\n"
            raise ValueError("mine")

        return StreamingResponse(pieces())

    upload = Route("/count", count, methods=["POST"])
    return [upload, Route("/stream", stream), Route("/go", release), Route("/breaks", breaks)]


def make_fastapi() -> Any:
    from fastapi import FastAPI

    app = FastAPI()

    @app.post("/sum")
    async def total(values: list[float]) -> dict[str, float]:
        return {"sum": sum(values)}

    @app.get("/sync/{number}")
    def sync(number: int) -> int:
        return 2 * number

    return app


MAKERS = {"wsgi": make_flask, "asgi": make_starlette}


@pytest.fixture(params=["wsgi", "asgi"])
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def mounted(serve: ServedInstance, adapter: str) -> ServedInstance:
    """The application at ``/app``."""
    config = {"max_concurrent_queries": 4}  # What waits for another request must not hold the only slot.
    serve.create_backend("app", MAKERS[adapter], adapter=adapter, adapter_options=FACTORY, config=config)
    serve.create_endpoint("app", "/app", mount=True, backend="app")
    return serve


def test_a_mounted_application_sees_its_prefix(mounted: ServedInstance, adapter: str) -> None:
    client = mounted.client
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
        path = "/" if adapter == "wsgi" else "/app/"  # Flask's path is what follows the prefix, Starlette's all of it.
        assert client.request(method, "/app/").text == f"{method} /app {path}"
    assert client.get("/app/pages/one").text == "one /app/pages/one"
    assert client.get("/app/pages/a%20%C3%A4").text.startswith("a ä /app/pages/a")
    assert client.get("/app/pages/one", follow_redirects=False).status_code == 200
    assert client.get("/app/none").status_code == 404
    assert client.get("/application").status_code == 404
    assert client.get("/app", follow_redirects=True).text.startswith("GET /app ")
    answer = client.head("/app/pages/one")
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "18", b"")


def make_telling(adapter: str) -> Any:
    """Tells what it is told of the request target."""

    def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [
            "\n".join(environ[key] for key in ("SCRIPT_NAME", "PATH_INFO", "RAW_URI", "REQUEST_URI")).encode("latin-1")
        ]

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        told = b"\n".join(
            [scope["root_path"].encode(), scope["path"].encode(), scope["raw_path"], scope["query_string"]]
        )
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": told})

    return wsgi if adapter == "wsgi" else asgi


@pytest.mark.parametrize("target", ["/app/raw/%E9", "/app/%C3%A9%2Fx?a=%E9&b", "/app/x?a", "/app/x"])
def test_an_application_is_told_the_target_as_it_was_sent(serve: ServedInstance, adapter: str, target: str) -> None:
    serve.create_backend("app", make_telling(adapter), adapter=adapter)
    serve.create_endpoint("app", "/app", mount=True, backend="app")
    answer = serve.client.get(target)
    path, _, query = target.partition("?")
    if adapter == "wsgi":
        path_info = unquote_to_bytes(path.removeprefix("/app"))
        assert answer.content.split(b"\n") == [b"/app", path_info, target.encode(), target.encode()]
    else:
        text = unquote(path).encode()
        assert answer.content.split(b"\n") == [b"/app", text, path.encode(), query.encode()]


def test_at_the_root_and_without_a_mount(serve: ServedInstance, adapter: str) -> None:
    serve.create_backend("app", MAKERS[adapter], adapter=adapter, adapter_options=FACTORY)
    serve.create_endpoint("pages", "/pages/<name>", backend="app")
    assert serve.client.get("/pages/one").text == "one /pages/one"
    assert serve.client.post("/pages/one").status_code == 405
    assert serve.client.get("/").status_code == 404
    serve.delete_endpoint("pages")
    serve.create_endpoint("app", "/", mount=True, backend="app")
    assert serve.client.get("/").text == "GET  /"
    assert serve.client.get("/pages/one").text == "one /pages/one"


def test_a_big_upload_arrives(mounted: ServedInstance) -> None:
    size = 8 * 1024 * 1024
    assert mounted.client.post("/app/count", content=bytes(size)).json() == {"size": size}
    pieces = (b"x" * 50_000 for _ in range(100))
    assert mounted.client.post("/app/count", content=pieces).json() == {"size": 5_000_000}
    assert mounted.client.post("/app/count", content=b"").json() == {"size": 0}


def test_a_streamed_answer_comes_piece_by_piece(mounted: ServedInstance) -> None:
    with mounted.new_client() as other, mounted.client.stream("GET", "/app/stream") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "first"
        other.get("/app/go")
        assert list(lines) == ["second"]
    until(lambda: "closed" in mounted.client.get("/app/go").json())


def test_a_client_that_goes_ends_the_stream(mounted: ServedInstance, adapter: str) -> None:
    with mounted.new_client() as other, other.stream("GET", "/app/stream") as answer:
        assert next(answer.iter_lines()) == "first"
    if adapter == "wsgi":  # A thread that waits cannot be cancelled: it learns of it when it goes on.
        mounted.client.get("/app/go")
    until(lambda: "closed" in mounted.client.get("/app/go").json())


def test_what_fails_is_a_500_and_the_replica_goes_on(mounted: ServedInstance) -> None:
    assert mounted.client.get("/app/fails").status_code == 500
    with pytest.raises(httpx.RemoteProtocolError):
        mounted.client.get("/app/breaks")
    assert mounted.client.get("/app/pages/one").status_code == 200


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_a_lifespan_gives_state_and_what_comes_after_an_answer_is_done(serve: ServedInstance) -> None:
    serve.create_backend("app", make_starlette, adapter="asgi", adapter_options={**FACTORY, "lifespan": "on"})
    serve.create_endpoint("app", "/app", mount=True, backend="app")
    assert serve.client.get("/app/model").text == "m"
    assert serve.client.get("/app/after").json() == ["startup"]
    until(lambda: "later" in serve.client.get("/app/after").json())


def test_fastapi(serve: ServedInstance) -> None:
    serve.create_backend("app", make_fastapi(), adapter="asgi")  # The object itself travels.
    serve.create_endpoint("app", "/app", mount=True, backend="app")
    assert serve.client.post("/app/sum", json=[1, 2.5]).json() == {"sum": 3.5}
    assert serve.client.post("/app/sum", json="x").status_code == 422
    assert serve.client.get("/app/sync/21").json() == 42
    assert serve.client.get("/app/openapi.json").json()["servers"] == [{"url": "/app"}]


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_a_flask_object_travels(serve: ServedInstance) -> None:
    serve.create_backend("app", make_flask(), adapter="wsgi")
    serve.create_endpoint("app", "/app", mount=True, backend="app")
    assert serve.client.get("/app/pages/one").text == "one /app/pages/one"


class Counting:
    """A class whose instances are applications."""

    def __init__(self, start: int) -> None:
        self.count = start

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.count += 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"%d" % self.count]


def test_a_class_whose_objects_are_applications(serve: ServedInstance) -> None:
    serve.create_backend("app", Counting, 10, adapter="wsgi")
    serve.create_endpoint("app", "/app", mount=True, backend="app")
    assert [serve.client.get("/app").text for _ in range(3)] == ["11", "12", "13"]


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_an_application_by_its_name(serve: ServedInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_with_app.py").write_text(
        "import flask\napp = flask.Flask(__name__)\napp.get('/x')(lambda: __name__)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    serve.create_backend("app", "module_with_app:app", adapter="wsgi")
    serve.create_endpoint("app", "/", mount=True, backend="app")
    assert serve.client.get("/x").text == "module_with_app"


async def no_start(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "there is no model here"})


async def plain_asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def plain_wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"plain"]


def test_a_startup_that_fails_is_the_error_of_create_backend(serve: ServedInstance) -> None:
    with pytest.raises(BackendStartError, match="there is no model here"):
        serve.create_backend("app", no_start, adapter="asgi")


def test_plain_callables(serve: ServedInstance) -> None:
    for adapter, app in (("asgi", plain_asgi), ("wsgi", plain_wsgi)):
        serve.create_backend(adapter, app, adapter=adapter)
        serve.create_endpoint(adapter, f"/{adapter}", mount=True, backend=adapter)
    assert serve.client.get("/asgi/x").text == "/asgi/x"
    assert serve.client.get("/wsgi/x").text == "plain"


@pytest.mark.parametrize(("app", "adapter", "said"), [(plain_asgi, "wsgi", "no WSGI"), (plain_wsgi, "asgi", "no ASGI")])
def test_the_wrong_protocol_is_the_error_of_create_backend(
    serve: ServedInstance, app: Any, adapter: str, said: str
) -> None:
    with pytest.raises(BackendStartError, match=f"{said}.* application"):
        serve.create_backend("app", app, adapter=adapter)


def test_an_option_that_there_is_not_is_refused_at_once(serve: ServedInstance, adapter: str) -> None:
    with pytest.raises(InvalidInputError, match="facotry"):
        serve.create_backend("app", plain_wsgi, adapter=adapter, adapter_options={"facotry": True})

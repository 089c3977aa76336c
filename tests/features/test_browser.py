"""A WebSocket of a browser's own, where there is a browser."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route, WebSocketRoute

from servekit.testing.instances import ServedInstance

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DEADLINE_S = 60.0

PAGE = """<!doctype html><script>
const seen = [];
const socket = new WebSocket(`ws://${location.host}/app/echo`, ["other", "chat"]);
socket.binaryType = "arraybuffer";
const large = new Uint8Array(3000000).fill(7);
socket.onopen = () => {
  for (let number = 0; number < 200; number++) socket.send(`message ${number} ä`);
  socket.send(large);
};
socket.onmessage = (event) => {
  if (typeof event.data === "string") { seen.push(event.data); return; }
  const whole = new Uint8Array(event.data);
  seen.push([whole.length, whole.every((byte) => byte === 7)]);
  socket.send("bye");
};
socket.onclose = (event) => fetch("/app/report", {method: "POST", body: JSON.stringify(
  {seen, protocol: socket.protocol, code: event.code, reason: event.reason, clean: event.wasClean})});
</script>"""


def make_app() -> Starlette:
    reports: list[Any] = []

    async def page(request: Any) -> Any:
        return HTMLResponse(PAGE)

    async def report(request: Any) -> Any:
        if request.method == "POST":
            reports.append(await request.json())
        return JSONResponse(reports)

    async def echo(ws: Any) -> None:
        await ws.accept(subprotocol="chat")
        while (event := await ws.receive())["type"] == "websocket.receive":
            if event.get("text") == "bye":
                await ws.close(4000, "as asked")
                return
            await ws.send({**event, "type": "websocket.send"})

    routes = [Route("/", page), Route("/report", report, methods=["GET", "POST"]), WebSocketRoute("/echo", echo)]
    return Starlette(routes=routes)


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Any]:
    started = []

    def open_page(url: str) -> None:
        assert BROWSER is not None
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path}",
        ]
        command = [BROWSER, *flags, "--remote-debugging-port=0", url]
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(command, start_new_session=True, **quiet))

    yield open_page
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.skipif(BROWSER is None, reason="there is no browser")
@pytest.mark.runtimes("process")  # A browser needs a port, and one runtime will do.
def test_a_browser_talks_to_an_application(serve: ServedInstance, browse: Any) -> None:
    serve.create_backend("app", make_app(), adapter="asgi")
    serve.create_endpoint("app", "/app", mount=True, backend="app")
    browse(f"{serve.url}/app/")
    until = time.monotonic() + DEADLINE_S
    while not (reports := serve.client.get("/app/report").json()):
        assert time.monotonic() < until, "the page did not report"
        time.sleep(0.1)
    (found,) = reports
    *texts, whole = found.pop("seen")
    assert texts == [f"message {number} ä" for number in range(200)]
    assert whole == [3_000_000, True]
    assert found == {"protocol": "chat", "code": 4000, "reason": "as asked", "clean": True}

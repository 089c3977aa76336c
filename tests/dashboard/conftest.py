"""The dashboard behind a real admin listener, over operations that the test decides; its loop is in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvloop

from servekit.control.admin import AdminApp
from servekit.control.operations import READ_ONLY
from servekit.control.process import ADMIN_LIMITS
from servekit.dashboard import sampler
from servekit.dashboard.app import Dashboard
from servekit.http1.server import HttpServer
from servekit.tokens import read_only

TOKEN = b"t" * 32


class FakeOperations:
    """Each operation has the result that the test has given it, and remembers its calls."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = {
            "events": [],
            "failures": [],
            "recent": {"endpoints": {}, "backends": {}},
        }
        self.calls: list[tuple[str, Any, str]] = []
        self.for_readers: list[bool] = []
        """Of each call, whether what was to be answered is for someone who only reads."""

    async def call(
        self, name: str, body: bytes, *, json: bool = False, who: str = "", reads_only: bool = False
    ) -> bytes:
        self.calls.append((name, decoded(body), who))
        self.for_readers.append(reads_only)
        result = self.results.get(name, {})
        if isinstance(result, Exception):
            raise result
        return encoded(result() if callable(result) else result)


def decoded(body: bytes) -> Any:
    return json.loads(body)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


class Listener:
    """The admin listener, at `url`."""

    def __init__(self) -> None:
        self.operations: Any = FakeOperations()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.url = self.run(self._listen())

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> str:
        self._pages = Dashboard(self.operations, TOKEN, read_only(TOKEN), READ_ONLY)
        no_metrics: Any = None
        self._app = AdminApp(self.operations, TOKEN, no_metrics, self._pages)
        self._http = HttpServer(self._app, ADMIN_LIMITS, self._loop)
        self._http.start()
        self._server = await self._loop.create_server(self._http.protocol_factory, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _end(self) -> None:
        await self._pages.close()
        await self._app.close()
        self._server.close()
        self._http.close()
        await asyncio.sleep(0)

    def close(self) -> None:
        self.run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=10, verify=False, **more)

    @contextlib.contextmanager
    def log_in(self, token: bytes = TOKEN) -> Iterator[httpx.Client]:
        """A browser that has a session."""
        with self.client() as client:
            answer = client.post("/login", json={"token": token.hex()})
            assert answer.status_code == 200, answer.text
            client.headers["x-servekit-page"] = answer.json()["key"]
            yield client


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.setattr(sampler, "PERIOD_S", 0.01)
    listener = Listener()
    yield listener
    listener.close()


class Cable:
    """A port that leads to another; while it is cut, nothing comes through, and nobody is told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.port = self._run(self._begin())

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _begin(self) -> int:
        self._whole = asyncio.Event()
        self._whole.set()
        self._ends: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._lead, "127.0.0.1", 0)
        self._server = server
        return int(server.sockets[0].getsockname()[1])

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        ways = [asyncio.ensure_future(self._pass(*way)) for way in ((reader, back), (there, writer))]
        self._ends.update(ways)
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for each in (writer, back):
            each.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._whole.wait()
                writer.write(data)

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.clear)

    def mend(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.set)

    async def _end(self) -> None:
        self._server.close()
        for way in self._ends:
            way.cancel()
        await asyncio.gather(*self._ends, return_exceptions=True)
        await asyncio.sleep(0)

    def close(self) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def lead_to() -> Iterator[Callable[[int], Cable]]:
    """Makes a cable to a port."""
    cables: list[Cable] = []

    def make(port: int) -> Cable:
        cables.append(Cable(port))
        return cables[-1]

    yield make
    for cable in cables:
        cable.close()


@pytest.fixture
def page(listener: Listener) -> Iterator[httpx.Client]:
    """A browser that was logged in by the instance's token."""
    with listener.log_in() as client:
        yield client

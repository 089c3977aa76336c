"""Handlers that are an ``async def``, over HTTP."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flask
import httpx
import pytest
from tests.support.runtimes import NOT_ON_RAY
from tests.support.waiting import until

from servekit import HttpLimits, accept_batch, get_context, get_handle
from servekit.testing.instances import ServedInstance

# Ray has a part in which thread the loop runs on, and none in how calls come and go.
pytestmark = pytest.mark.runtimes("inprocess", "process")

DEADLINE_S = 30.0
PIECE = b"x" * 65_536


def create(serve: ServedInstance, target: Any, *init_args: Any, timeout_s: float = 60.0, **config: Any) -> None:
    serve.create_backend("b", target, *init_args, config=config)
    serve.create_endpoint("e", "/x", methods=["GET", "POST"], backend="b", timeout_s=timeout_s)


class Meeting:
    """Its calls end when as many are in it at once as were asked for."""

    def __init__(self, together: int) -> None:
        self._together = together
        self._inside = 0
        self._met: Any = None

    async def __call__(self, request: flask.Request) -> Any:
        if self._met is None:
            self._met = asyncio.Event()
        self._inside += 1
        if self._inside == self._together:
            self._met.set()
        await asyncio.wait_for(self._met.wait(), DEADLINE_S)
        return {"arg": flask.request.args["n"], "own": request.args["n"], "url": flask.url_for("e", q=1)}


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_a_hundred_calls_are_under_way_at_once(serve: ServedInstance) -> None:
    """By default; and each sees its own request, across every await."""
    create(serve, Meeting, 100)
    with serve.new_client() as client, ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda n: client.get("/x", params={"n": n}).json(), range(100)))
    assert [(answer["arg"], answer["own"]) for answer in answers] == [(str(n), str(n)) for n in range(100)]


def test_no_more_than_were_allowed(serve: ServedInstance) -> None:
    class Counting:
        def __init__(self) -> None:
            self.inside = self.most = 0

        async def __call__(self, request: flask.Request) -> str:
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0.01)
            self.inside -= 1
            return str(self.most)

    create(serve, Counting, max_concurrent_queries=3)
    with ThreadPoolExecutor(12) as pool:
        most = max(pool.map(lambda _: int(serve.client.get("/x").text), range(24)))
    assert most == 3


class Watched:
    """Says in a file how its calls ended."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    async def __call__(self, request: flask.Request) -> str:
        (self._directory / "began").touch()
        try:
            await asyncio.sleep(DEADLINE_S)
        except asyncio.CancelledError:
            (self._directory / "cancelled").touch()
            raise
        return "late"

    async def streams(self, request: flask.Request) -> AsyncIterator[bytes]:
        try:
            while True:
                yield PIECE
        finally:
            await asyncio.sleep(0)
            (self._directory / "finally").touch()

    def sync_streams(self, request: flask.Request) -> Iterator[bytes]:
        try:
            while True:
                yield PIECE
        finally:
            (self._directory / "finally").touch()

    def ready(self, request: flask.Request) -> str:
        return "ready"


METHODS = ("streams", "sync_streams", "ready")


def method(name: str) -> dict[str, str]:
    return {"X-SERVE-CALL-METHOD": name}


def test_a_client_that_goes_away_cancels_its_call(serve: ServedInstance, tmp_path: Path) -> None:
    create(serve, Watched, str(tmp_path), max_concurrent_queries=1, callable_methods=METHODS)
    with serve.new_client() as client:
        leaving = threading.Thread(target=_gives_up, args=(client, tmp_path), daemon=True)
        leaving.start()
        until((tmp_path / "cancelled").exists)
        leaving.join(DEADLINE_S)
    assert serve.client.get("/x", headers=method("ready")).text == "ready"  # The slot is free.


def _gives_up(client: httpx.Client, directory: Path) -> None:
    with pytest.raises(httpx.TimeoutException):
        client.get("/x", timeout=1.0)


def test_a_deadline_cancels_its_call(serve: ServedInstance, tmp_path: Path) -> None:
    create(serve, Watched, str(tmp_path), timeout_s=0.5, max_concurrent_queries=1, callable_methods=METHODS)
    assert serve.client.get("/x").status_code == 504
    until((tmp_path / "cancelled").exists)
    until(lambda: serve.client.get("/x", headers=method("ready")).status_code == 200)


@pytest.mark.parametrize("name", ["streams", "sync_streams"])
def test_a_client_that_reads_no_further_ends_the_generator(serve: ServedInstance, tmp_path: Path, name: str) -> None:
    create(serve, Watched, str(tmp_path), callable_methods=METHODS)
    with serve.new_client() as client:
        with client.stream("GET", "/x", headers=method(name)) as response:
            pieces = response.iter_bytes(len(PIECE))
            assert [next(pieces) for _ in range(3)] == [PIECE] * 3
            assert not (tmp_path / "finally").exists()
        until((tmp_path / "finally").exists)


class Stepwise:
    """Makes one piece when it is told to, so that a client sees that none waits for the next."""

    def __init__(self) -> None:
        self._told: Any = None
        self._made = 0

    async def __call__(self, request: flask.Request) -> Any:
        self._told = asyncio.Queue()

        async def pieces() -> AsyncIterator[str]:
            yield "data: zero\n\n"  # The head goes out with the first.
            while (piece := await asyncio.wait_for(self._told.get(), DEADLINE_S)) is not None:
                yield piece

        return pieces(), {"Content-Type": "text/event-stream"}

    async def tell(self, request: flask.Request) -> str:
        await self._told.put(request.args.get("piece"))
        return "told"


def test_pieces_go_out_one_by_one(serve: ServedInstance) -> None:
    create(serve, Stepwise, callable_methods=("tell",))
    with serve.new_client() as client, client.stream("GET", "/x") as response:
        assert response.headers["content-type"] == "text/event-stream"
        pieces = response.iter_raw()
        assert next(pieces) == b"data: zero\n\n"
        for piece in ("data: one\n\n", "data: two\n\n"):
            serve.client.get("/x", params={"piece": piece}, headers=method("tell"))
            assert next(pieces).decode() == piece
        serve.client.get("/x", headers=method("tell"))
        assert list(pieces) == []


class Paced:
    """A stream without an end that counts its pieces."""

    def __init__(self) -> None:
        self.made = 0

    async def __call__(self, request: flask.Request) -> AsyncIterator[bytes]:
        while True:
            self.made += 1
            yield PIECE

    async def count(self, request: flask.Request) -> str:
        return str(self.made)


def test_a_client_that_does_not_read_stops_the_stream(serve: ServedInstance) -> None:
    create(serve, Paced, callable_methods=("count",))

    def count() -> int:
        return int(serve.client.get("/x", headers=method("count")).text)

    with serve.new_client() as client, client.stream("GET", "/x") as response:
        pieces = response.iter_raw()
        next(pieces)
        before, now = -1, count()
        ends = time.monotonic() + DEADLINE_S
        while now != before:
            assert time.monotonic() < ends, "it goes on and on"
            time.sleep(0.2)
            before, now = now, count()
        assert now * len(PIECE) < HttpLimits().spool_answer_bytes + 64 * 2**20
        for _ in range(40 * now):
            next(pieces)
        assert count() > now


async def fails(request: flask.Request) -> Any:
    where = request.args["where"]
    if where == "at once":
        raise LookupError("at once")
    if where == "abort":
        flask.abort(418)

    async def pieces() -> AsyncIterator[bytes]:
        if where == "first":
            raise LookupError("first")
        yield b"one"
        raise LookupError("later")

    return pieces()


def test_failures(serve: ServedInstance) -> None:
    create(serve, fails)
    statuses = {
        where: serve.client.get("/x", params={"where": where}).status_code for where in ("at once", "abort", "first")
    }
    assert statuses == {"at once": 500, "abort": 418, "first": 500}
    with pytest.raises(httpx.RemoteProtocolError):
        serve.client.get("/x", params={"where": "later"})


async def body(request: flask.Request) -> str:
    await asyncio.sleep(0)
    return str(len(request.get_data()))


@pytest.mark.parametrize("size", [0, 10, 1_000_000, 5_000_000])
def test_a_body_is_there_whole(serve: ServedInstance, size: int) -> None:
    create(serve, body)
    assert serve.client.post("/x", content=bytes(size)).text == str(size)


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


class Modes:
    """How a call runs, and what context it finds."""

    def __call__(self, request: flask.Request) -> Any:
        found = variable.get()
        variable.set("changed")
        return [found, get_context().request_id == request.headers["X-Request-ID"], flask.request.path]

    async def later(self, request: flask.Request) -> Any:
        found = variable.get()
        variable.set("changed")
        await asyncio.sleep(0)
        return [found, get_context().request_id == request.headers["X-Request-ID"], flask.request.path]


@pytest.mark.runtimes("inprocess", "process", "ray")
@pytest.mark.parametrize("slots", [pytest.param(1, marks=NOT_ON_RAY), 4])
def test_context_variables(serve: ServedInstance, slots: int) -> None:
    """Inline, in threads, and in tasks: on the loop, a class may have handlers of both kinds."""
    create(serve, Modes, max_concurrent_queries=slots, callable_methods=("later",))

    def ask(number: int) -> Any:
        headers = {"X-Request-ID": f"own-{number}"} | (method("later") if number % 2 else {})
        return serve.client.get("/x", headers=headers).json()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(40))) == [["none", True, "/x"]] * 40


def hiding(function: Any) -> Any:
    """As ``torch.no_grad()`` does it."""

    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


class HiddenBehindDecorators:
    @hiding
    async def __call__(self, request: Any) -> str:
        return "never"

    @hiding
    @accept_batch
    async def several(self, requests: Any) -> list[str]:
        return ["never"] * len(requests)


def test_an_async_def_that_a_decorator_hides_is_told(serve: ServedInstance) -> None:
    create(serve, HiddenBehindDecorators)
    assert serve.client.get("/x").status_code == 500
    handle = get_handle("e")
    for called, name in ((handle, "__call__"), (handle.options(method_name="several"), "several")):
        with pytest.raises(TypeError, match=f"{name}' is an async def, and a decorator hides that"):
            called.remote().result(DEADLINE_S)

"""Code of the user's that runs event loops of its own, on every runtime. After it, SIGTERM still ends the replica."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import Any

import flask
import pytest
import uvloop
from tests.support.runtimes import NOT_ON_RAY
from tests.support.waiting import until

from servekit.testing.instances import ServedInstance

# Ray has a part in what runs on the main thread of a replica's process, and in how a signal ends it.
pytestmark = NOT_ON_RAY

DEADLINE_S = 60.0


async def wait() -> str:
    await asyncio.sleep(0.001)
    return "ran"


def by_run() -> str:
    return asyncio.run(wait())


def by_uvloop() -> str:
    return uvloop.run(wait())


def by_new_loop() -> str:
    with contextlib.closing(asyncio.SelectorEventLoop()) as loop:
        return loop.run_until_complete(wait())


def by_server() -> str:
    """A loop that handles signals, as a server's does: with it goes the descriptor by which signals wake a loop."""

    async def serve() -> str:
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)
        return await wait()

    with contextlib.closing(asyncio.SelectorEventLoop()) as loop:
        return loop.run_until_complete(serve())


def by_wakeup() -> str:
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)
    return "ran"


def no_loop() -> str:
    """No task either: `asyncio.current_task` looks for the loop first."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()
    return "ran"


WAYS = {
    "run": by_run,
    "uvloop": by_uvloop,
    "new_loop": by_new_loop,
    "server": by_server,
    "wakeup": by_wakeup,
    "none": no_loop,
}
ON_RAY = ("run", "server")


class Everywhere:
    """Runs a loop in each of its methods, and writes down which."""

    def __init__(self, log: str) -> None:
        self.log = log
        self.say("init")

    def say(self, where: str, way: str = "run") -> str:
        assert WAYS[way]() == "ran"
        with open(self.log, "a") as file:
            file.write(f"{where}\n")
        return "done"

    def reconfigure(self, user_config: Any) -> None:
        self.say(f"config {user_config}")

    def check_health(self) -> None:
        self.say("well")

    def close(self) -> None:
        self.say("closed")

    def __call__(self, request: flask.Request) -> str:
        return self.say("called", request.args["way"])

    def by_name(self, request: flask.Request, way: str) -> str:
        return self.say("called", way)

    async def waits(self, request: flask.Request) -> str:
        """While it waits, what came for `__call__` waits; its end is what begins that, within a task's step."""
        assert asyncio.current_task() is not None
        await asyncio.sleep(0.2)
        return "waited"


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def create(serve: ServedInstance, target: Any, *args: Any, **options: Any) -> None:
    serve.create_backend("b", target, *args, **options)
    serve.create_endpoint("e", "/b", backend="b")


def end_by_sigterm(serve: ServedInstance, runtime: str) -> None:
    if runtime != "inprocess":
        (replica,) = serve.status()["backends"]["b"]["replicas"]
        os.kill(replica["pid"], signal.SIGTERM)
        until(lambda: replica["id"] not in {each["id"] for each in serve.status()["backends"]["b"]["replicas"]})
    else:
        serve.delete_endpoint("e")
        serve.delete_backend("b")


@pytest.mark.runtimes("inprocess", "process", "ray")
@pytest.mark.parametrize("way", [pytest.param(way, marks=() if way in ON_RAY else NOT_ON_RAY) for way in WAYS])
def test_every_method_may_run_a_loop(serve: ServedInstance, runtime: str, tmp_path: Path, way: str) -> None:
    log = tmp_path / "log"
    create(serve, Everywhere, str(log), config={"user_config": 1, "health_check_period_s": 0.1})
    assert lines(log)[:2] == ["init", "config 1"]
    for _ in range(3):
        assert serve.client.get(f"/b?way={way}").text == "done"
    serve.update_backend_config("b", {"user_config": 2})
    assert serve.client.get(f"/b?way={way}").text == "done"
    until(lambda: "well" in lines(log))
    assert "config 2" in lines(log)
    assert serve.client.get(f"/b?way={way}").text == "done"
    end_by_sigterm(serve, runtime)
    until(lambda: "closed" in lines(log))
    if runtime != "inprocess":
        assert serve.client.get(f"/b?way={way}").text == "done"


@pytest.mark.parametrize("slots", [1, 4])
def test_a_def_beside_an_async_def(serve: ServedInstance, tmp_path: Path, slots: int) -> None:
    """With one slot the end of the task begins the ``def``."""
    create(serve, Everywhere, str(tmp_path / "log"), config={"max_concurrent_queries": slots})
    handle = serve.get_handle("e")
    first = handle.options(method_name="waits").remote()
    second = [handle.options(method_name="by_name").remote(way) for way in ("run", "none")]
    assert first.result(DEADLINE_S) == "waited"
    assert [each.result(DEADLINE_S) for each in second] == ["done", "done"]


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [by_run().encode()]


def make_wsgi() -> Any:
    assert [by_run(), no_loop()] == ["ran", "ran"]
    return application


async def make_wsgi_async() -> Any:
    assert await wait() == "ran"
    return application


def make_in_flask() -> Any:
    app = flask.Flask("app_of_tests")

    @app.get("/")
    async def root() -> str:
        return await wait()

    return app


@pytest.mark.parametrize("make", [make_wsgi, make_wsgi_async])
def test_a_wsgi_application_and_its_factory(serve: ServedInstance, runtime: str, make: Any) -> None:
    create(serve, make, adapter="wsgi", adapter_options={"factory": True})
    assert serve.client.get("/b").text == "ran"
    end_by_sigterm(serve, runtime)


def test_an_async_view_of_flask(serve: ServedInstance, runtime: str) -> None:
    """Flask runs it by asgiref, where that is installed; else it says that it is not."""
    serve.create_backend("b", make_in_flask, adapter="wsgi", adapter_options={"factory": True})
    serve.create_endpoint("e", "/b", backend="b", mount=True)
    answer = serve.client.get("/b/")
    try:
        import asgiref  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ModuleNotFoundError:
        assert answer.status_code == 500
    else:
        assert answer.text == "ran"
    end_by_sigterm(serve, runtime)

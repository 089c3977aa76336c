"""Handles and the processes around them: those who attach, other machines, workers that die, and the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import instance_handlers
import pytest
from instance_tools import Process, Scripts, descendants, told
from tests.support.waiting import until

import servekit as serve
from servekit import errors
from servekit_process import ProcessRuntime

pytestmark = [
    pytest.mark.processes,
    # httpcore leaves its socket open when a Unix socket refuses the connection.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

LIMIT_S = 60.0


class TcpProcessRuntime(ProcessRuntime):
    """Child processes that are treated as if they were elsewhere."""

    local_links = False

    def advertise_host(self) -> str:
        return "127.0.0.1"


@pytest.fixture
def before() -> set[object]:
    """The processes and threads that are there without the test's instance: those of other instances, say."""
    return {*_controllers(), *threading.enumerate()}


@pytest.fixture(params=[1, 2], ids=["one ingress worker", "two"])
def instance(before: set[object], request: pytest.FixtureRequest) -> Iterator[serve.Instance]:
    with serve.init(runtime="process", http_port=0, ingress_workers=request.param) as instance:
        yield instance


def deploy(instance: serve.Instance, name: str, target: Any, *init_args: Any, **config: Any) -> Any:
    instance.create_backend(name, target, *init_args, config=config)
    instance.create_endpoint(name, f"/{name}", backend=name)
    return instance.get_handle(name)


def test_what_handlers_call_on_other_machines_goes_over_tcp() -> None:
    runtime = f"{Path(__file__).stem}:TcpProcessRuntime"
    with serve.init(runtime=runtime, http_port=0, ingress_workers=2) as instance:
        deploy(instance, "answer", instance_handlers.answer)
        outer = deploy(instance, "outer", instance_handlers.outer)
        assert outer.remote("answer", 6, 7).result(LIMIT_S) == 42
        addresses = outer.remote("answer", tell=True).result(LIMIT_S)
        assert len(addresses) == 2
        assert all(address.startswith("tcp:127.0.0.1:") for addresses in addresses for address in addresses)
        array = bytes(3_000_000)
        assert outer.remote("answer", array, 2).result(LIMIT_S) == array * 2
        for worker in instance.status()["ingress"]:
            os.kill(worker["pid"], signal.SIGKILL)
        until(lambda: outer.remote("answer", tell=True).exception(LIMIT_S) is None)
        assert until(lambda: _value(outer.remote("answer", 6, 7)) == 42)


def _value(future: Any) -> Any:
    return None if future.exception(LIMIT_S) is not None else future.result()


def test_a_killed_ingress_worker_is_dialled_again_by_scripts_and_handlers(instance: serve.Instance) -> None:
    deploy(instance, "answer", instance_handlers.answer)
    outer = deploy(instance, "outer", instance_handlers.outer)
    assert outer.remote("answer", 6, 7).result(LIMIT_S) == 42
    workers = [worker["pid"] for worker in instance.status()["ingress"]]
    os.kill(workers[0], signal.SIGKILL)
    failures = [outer.remote("answer", 6, 7).exception(LIMIT_S) for _ in range(20)]
    assert all(failure is None or isinstance(failure, ConnectionError) for failure in failures)
    assert failures[-1] is None
    until(lambda: workers[0] not in [w["pid"] for w in instance.status()["ingress"] if w["ready"]])
    assert [outer.remote("answer", n, 2).result(LIMIT_S) for n in range(20)] == [2 * n for n in range(20)]


def test_a_controller_that_is_killed_is_not_missed(instance: serve.Instance, before: set[object]) -> None:
    handle = deploy(instance, "answer", instance_handlers.answer)
    outer = deploy(instance, "outer", instance_handlers.outer)
    assert outer.remote("answer", 6, 7).result(LIMIT_S) == 42
    (controller,) = _controllers() - before
    os.kill(controller, signal.SIGKILL)
    until(lambda: _gone(instance))
    assert outer.remote("answer", 6, 7).result(LIMIT_S) == 42
    assert handle.remote(2, 3).result(LIMIT_S) == 6


def _gone(instance: serve.Instance) -> bool:
    try:
        instance.list_endpoints()
    except errors.ControllerGoneError:
        return True
    return False


def _controllers() -> set[int]:
    return {process.pid for process in descendants(os.getpid()) if "servekit: controller of" in repr(process)}


@pytest.mark.parametrize("http", [True, False], ids=["a request too", "a call alone"])
def test_what_is_in_flight_at_the_end_is_answered_whole(instance: serve.Instance, tmp_path: Path, http: bool) -> None:
    """A call whose handler has yet to call another, and an HTTP request whose handler has."""
    gate = tmp_path / "gate"
    answer = deploy(instance, "answer", instance_handlers.answer)
    deploy(instance, "later", instance_handlers.CallsLater, str(gate), max_concurrent_queries=2)
    found: list[Any] = []

    def ask() -> None:
        found.append(httpx.get(f"{instance.url}/later", timeout=LIMIT_S).text)

    asking = [threading.Thread(target=ask)] if http else []
    for thread in asking:
        thread.start()
    future = instance.get_handle("later").remote()
    until(lambda: len(list(tmp_path.glob("began*"))) == 1 + len(asking))
    ending = threading.Thread(target=instance.shutdown)
    ending.start()
    until(lambda: _takes_no_more(answer))
    gate.touch()
    for thread in [*asking, ending]:
        thread.join(LIMIT_S)
    assert found == ["42"] * len(asking)
    assert future.result(LIMIT_S) == "42"


def test_no_call_of_a_handler_is_lost_when_an_ingress_worker_has_nothing_more_to_do(tmp_path: Path) -> None:
    """At the end the worker that has no request of its own ends first, with calls on their way to it at any moment."""
    gate = tmp_path / "gate"
    with serve.init(runtime="process", http_port=0, ingress_workers=2) as instance:
        deploy(instance, "answer", instance_handlers.answer)
        future = deploy(instance, "on", instance_handlers.CallsOn, str(gate)).remote()
        until(lambda: (tmp_path / "began").exists())
        workers = [Process(worker["pid"]) for worker in instance.status()["ingress"]]
        ending = threading.Thread(target=instance.shutdown)
        ending.start()
        until(lambda: not all(worker.is_there for worker in workers))
        gate.touch()
        ending.join(LIMIT_S)
    assert future.result(LIMIT_S) > 0


def _takes_no_more(handle: Any) -> bool:
    return isinstance(handle.options(timeout_s=0.2).remote().exception(LIMIT_S), errors.DeadlineError)


def test_after_the_end_nothing_hangs(instance: serve.Instance, before: set[object]) -> None:
    handle = deploy(instance, "answer", instance_handlers.answer)
    assert handle.remote(1, 2).result(LIMIT_S) == 2
    instance.shutdown()
    with pytest.raises(errors.NotRunningError):
        handle.remote(1, 2).result(LIMIT_S)
    with pytest.raises(errors.NotRunningError):
        serve.get_handle("answer")
    assert "servekit-handles" not in [thread.name for thread in threading.enumerate() if thread not in before]


def test_a_script_that_ends_without_a_word_leaves_nothing(scripts: Scripts) -> None:
    script = scripts.write(
        "main.py",
        """
import json
import servekit

def add(request, one, other):
    return one + other

servekit.init(runtime="process", http_port=0)
servekit.create_backend("add", add)
servekit.create_endpoint("add", backend="add")
print("TOLD", json.dumps({"sum": servekit.get_handle("add").remote(2, 3).result(60)}), flush=True)
""",
    )
    process = scripts.start(script)
    assert told(process) == {"sum": 5}
    assert process.wait(LIMIT_S) == 0
    until(lambda: not scripts.processes())


def test_a_process_that_attaches_has_handles_and_leaves_the_instance_alone(scripts: Scripts) -> None:
    command = [sys.executable, "-m", "servekit.cli.main", "start", "--runtime", "process", "--http-port", "0"]
    environ = {**os.environ, "TMPDIR": str(scripts.folder), "SERVEKIT_TESTS_MARK": scripts.mark}
    environ["XDG_STATE_HOME"] = str(scripts.folder)
    script = scripts.write(
        "main.py",
        """
import json, sys
import servekit

def add(request, one, other):
    return one + other

servekit.init(address="auto")
if "first" in sys.argv:
    servekit.create_backend("add", add)
    servekit.create_endpoint("add", backend="add")
print("TOLD", json.dumps({"sum": servekit.get_handle("add").remote(2, 3).result(60)}), flush=True)
servekit.shutdown()
""",
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as keeper:
        try:
            assert keeper.stdout is not None
            assert "answers at" in keeper.stdout.readline()
            for argument in ("first", "second"):
                process = scripts.start(script, argument)
                assert told(process) == {"sum": 5}
                assert process.wait(LIMIT_S) == 0
        finally:
            keeper.terminate()
            keeper.wait(LIMIT_S)

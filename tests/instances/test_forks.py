"""Forks: what a handler forks off is a process of its own, and no second replica."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fork_handlers
import httpx
import pytest
from instance_tools import Process, end_all, fresh_get, pids, told
from tests.support.waiting import until

import servekit as serve
from servekit.forks import CAME_BACK

pytestmark = pytest.mark.processes

processes_only = pytest.mark.runtimes("process")


@contextlib.contextmanager
def children(*pids: int) -> Iterator[list[Process]]:
    """Ended in any case."""
    found = [Process(pid) for pid in pids]
    try:
        yield found
    finally:
        end_all(process for process in found if process.is_there)


def served(instance: serve.Instance, handler: Any, **config: Any) -> int:
    """The handler at ``/fork``; returns its replica's pid."""
    serve.create_backend("fork", handler, config=config)
    serve.create_endpoint("fork", "/fork", ["GET", "POST"], backend="fork")
    (pid,) = pids(instance, "fork")
    return pid


def sockets(pid: int) -> set[str]:
    found = set()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    return {name for name in found if name.startswith("socket:")}


KINDS = {
    "on the loop": (fork_handlers.fork, {}),
    "in a thread": (fork_handlers.fork, {"max_concurrent_queries": 4}),
    "async": (fork_handlers.fork_async, {}),
}


@processes_only
class TestAChild:
    @pytest.mark.parametrize("way", ["os.fork", "Process", "preexec_fn"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_is_ended_by_a_sigterm_of_its_own(self, serving, client, kind, way):
        handler, config = KINDS[kind]
        replica = served(serving, handler, **config)
        answer = client.get(f"/fork?way={way}").json()
        assert answer["pid"] == replica
        with children(answer["child"]) as (child,):
            os.kill(child.pid, signal.SIGTERM)
            until(lambda: not child.is_there)
        answer = client.get("/fork?way=none").json()
        assert answer == {"pid": replica, "child": 0}
        assert pids(serving, "fork") == {replica}

    def test_has_none_of_the_sockets_that_calls_travel_on(self, serving, client):
        replica = served(serving, fork_handlers.fork)
        answer = client.get("/fork?way=os.fork").json()
        with children(answer["child"]) as (child,):
            # What is left is the pair that wakes the loop up when signals come: nobody waits for its end.
            shared = until(lambda: len(found := sockets(child.pid)) <= 2 and {"found": found})
            assert shared["found"] < sockets(replica)
            assert client.get("/fork?way=none").status_code == 200

    def test_that_is_terminated_at_once(self, serving, client):
        replica = served(serving, fork_handlers.terminated_at_once)
        assert client.get("/fork").json() == {"pid": replica, "codes": [-signal.SIGTERM] * 20}
        assert client.get("/fork").json()["pid"] == replica

    @pytest.mark.parametrize("slots", [1, 4])
    @pytest.mark.parametrize("how", ["return", "sys.exit"])
    def test_that_comes_back_from_the_handler_is_no_second_replica(self, serving, client, how, slots):
        replica = served(serving, fork_handlers.ComesBack, max_concurrent_queries=slots)
        answer = client.get(f"/fork?how={how}").json()
        assert answer["pid"] == replica
        assert client.get("/fork").json() == {"code": CAME_BACK}
        assert pids(serving, "fork") == {replica}

    @pytest.mark.parametrize("slots", [1, 4])
    def test_that_comes_back_from_a_generator(self, serving, client, slots):
        replica = served(serving, fork_handlers.ComesBack, max_concurrent_queries=slots)
        assert client.get("/fork?how=yield").text == f"before {replica}"
        assert client.get("/fork").json() == {"code": CAME_BACK}
        assert pids(serving, "fork") == {replica}

    def test_that_comes_back_from_reconfigure(self, serving, client):
        replica = served(serving, fork_handlers.ComesBack, user_config="fork")
        assert client.get("/fork").json() == {"code": CAME_BACK}
        assert pids(serving, "fork") == {replica}


@processes_only
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_killed_replica_whose_sockets_a_child_holds(serving, tmp_path, method):
    """A call in flight goes where it is safe to send it again, and else ends; neither waits for the child."""
    replica = served(serving, fork_handlers.fork_and_hang)
    told = tmp_path / "told"
    url = f"{serving.url}/fork?told={told}"
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(httpx.request, method, url, timeout=100, verify=False)
        pid, child_pid = until(lambda: told.exists() and [int(word) for word in told.read_text().split()])
        assert pid == replica
        with children(child_pid) as (child,):
            os.kill(replica, signal.SIGKILL)
            answer = asked.result(50)
            assert child.is_there
            assert sockets(child_pid)
    if method == "GET":
        assert answer.json()["pid"] in pids(serving, "fork") - {replica}
    else:
        assert answer.status_code == 502


def test_a_pool_of_processes_comes_and_goes(serving, client):
    """On either runtime: Ray's workers have signal handlers of their own."""
    replica = served(serving, fork_handlers.pool)
    for _ in range(3):
        answer = client.get("/fork").json()
        assert (answer["pid"], answer["doubles"]) == (replica, [2, 4, 6])
        assert not any(Process(pid).is_there for pid in answer["children"])
    assert pids(serving, "fork") == {replica}


DRIVER = """
import json, os, sys, time
import servekit as serve

def handle(request, number=0):
    return str(2 * number)

instance = serve.init(runtime="process", http_port=0)
serve.create_backend("model", handle)
serve.create_endpoint("model", "/model", backend="model")
serve.create_endpoint("other")
before = serve.get_handle("model")
assert before.remote(1).result(30) == "2"
if os.fork() == 0:
{child}
    sys.exit(0)
_, status = os.wait()
code = os.waitstatus_to_exitcode(status)
print("TOLD" + json.dumps(dict(
    code=code,
    url=instance.url,
    there=os.path.isdir(instance.directory),
    traffic=serve.get_traffic("other"),
    answer=before.remote(3).result(30),
    again=serve.get_handle("model").remote(4).result(30),
)), flush=True)
time.sleep(600)
"""

CHILDREN = {
    "nothing": "",
    "the API": """
    assert list(serve.status()["endpoints"]) == ["model", "other"]
    serve.set_traffic("other", {"model": 1.0})
    assert before.remote(10).result(30) == "20"
    assert serve.get_handle("model").remote(11).result(30) == "22"
    assert [before.remote(n).result(30) for n in range(9)] == [str(2 * n) for n in range(9)]
""",
    "shutdown": """
    serve.shutdown()
    serve.shutdown()
    try:
        serve.status()
    except serve.errors.NotRunningError:
        pass
    else:
        raise AssertionError("it is current yet")
    del instance
""",
    "leaving the block": """
    with instance:
        pass
""",
    "an instance of its own": """
    serve.shutdown()
    with serve.init(name="mine", runtime="process", http_port=0) as mine:
        serve.create_backend("model", handle)
        serve.create_endpoint("model", "/model", backend="model")
        assert serve.get_handle("model").remote(5).result(30) == "10"
    assert not os.path.exists(mine.directory)
""",
    "a child of its own": """
    assert serve.get_handle("model").remote(11).result(30) == "22"
    if os.fork() == 0:
        assert before.remote(12).result(30) == "24"
        sys.exit(0)
    _, status = os.wait()
    assert status == 0
""",
}


@pytest.mark.parametrize("what", CHILDREN)
def test_the_child_of_a_driver(scripts, what):
    """It can use the instance, and leaves it to its parent."""
    driver = scripts.start(scripts.write("driver.py", DRIVER.replace("{child}", CHILDREN[what] or "    pass")))
    found = told(driver)
    assert (found["code"], found["there"]) == (0, True)
    assert found["traffic"] == ({"model": 1.0} if what == "the API" else {})
    assert (found["answer"], found["again"]) == ("6", "8")
    assert fresh_get(f"{found['url']}/model").text == "0"
    driver.kill()
    until(lambda: not scripts.processes())

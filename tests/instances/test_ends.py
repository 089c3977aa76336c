"""How instances end: all is served until nobody comes any more, and what is in flight is answered."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from instance_handlers import Named
from instance_tools import Load, Scripts, attach, controller, fresh_get, marked, pids, started_standing, told
from tests.support.waiting import until

import servekit as serve
from servekit import api
from servekit.cli.main import main

pytestmark = pytest.mark.processes

QUIET = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def detached() -> Iterator[None]:
    """No instance is current before a test and after it."""
    api.leave_current()
    yield
    serve.shutdown()


def slow(request: object) -> str:
    time.sleep(3)
    return "done"


def deployed() -> serve.Instance:
    instance = attach()
    instance.create_backend("named", Named, "one")
    instance.create_endpoint("named", "/named", backend="named")
    return instance


class Comers:
    """Clients that connect, ask once, and connect again, until they are refused; what became of each try."""

    def __init__(self, url: str, clients: int) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.address = (host, int(port))
        self.outcomes: Counter[str] = Counter()
        self.threads = [threading.Thread(target=self._come) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def wait(self) -> Counter[str]:
        for thread in self.threads:
            thread.join(60)
        return self.outcomes

    def _come(self) -> None:
        while True:
            outcome = self._ask()
            self.outcomes[outcome] += 1
            if outcome == "refused":
                return

    def _ask(self) -> str:
        try:
            client = socket.create_connection(self.address, timeout=30)
        except ConnectionRefusedError:
            return "refused"
        with client:
            try:
                client.sendall(b"GET /named?hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: client.recv(65536), b""))
            except OSError as error:
                return type(error).__name__
        return "answered" if answer.startswith(b"HTTP/1.1 200 ") else repr(answer[:60])


@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.long)])
def test_no_connection_that_was_accepted_is_reset(temporary: Path, times: int) -> None:
    for _ in range(times):
        with started_standing("--drain-delay-s", "0.2", "--ingress-workers", "2") as keeper:
            instance = deployed()
            comers = Comers(instance.url, 8)
            until(lambda comers=comers: comers.outcomes["answered"] > 50)
            keeper.send_signal(signal.SIGTERM)
            outcomes = comers.wait()
            assert outcomes.keys() == {"answered", "refused"}, outcomes
            assert keeper.wait(60) == 0
        serve.shutdown()
        assert main(["stop", "--purge"]) == 0


def test_it_says_that_it_is_not_ready_before_it_refuses(temporary: Path) -> None:
    with started_standing("--drain-delay-s", "3") as keeper:
        instance = deployed()
        assert fresh_get(f"{instance.url}/-/readyz").status_code == 200
        keeper.send_signal(signal.SIGTERM)
        until(lambda: fresh_get(f"{instance.url}/-/readyz").status_code == 503)
        assert fresh_get(f"{instance.url}/named?hello").status_code == 200
        assert fresh_get(f"{instance.url}/-/livez").status_code == 200
        assert keeper.wait(60) == 0
        with pytest.raises(httpx.ConnectError):
            fresh_get(f"{instance.url}/-/livez")


def test_a_worker_that_ends_alone_leaves_the_socket_to_the_others(temporary: Path) -> None:
    with started_standing("--ingress-workers", "2") as keeper:
        instance = deployed()
        with httpx.Client(base_url=instance.url) as client, httpx.Client(base_url=instance.url) as other:
            assert client.get("/named?hello").status_code == other.get("/named?hello").status_code == 200
            before = [worker["pid"] for worker in instance.status()["ingress"]]
            for pid in before:
                os.kill(pid, signal.SIGTERM)
                until(lambda pid=pid: pid not in [worker["pid"] for worker in instance.status()["ingress"]])
                until(lambda: all(worker["ready"] for worker in instance.status()["ingress"]))
        for _ in range(10):
            assert fresh_get(f"{instance.url}/named?hello").status_code == 200
        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(60) == 0


def test_an_owner_that_is_killed_while_its_instance_ends_is_not_waited_for(scripts: Scripts) -> None:
    text = SCRIPT.replace("http_port=0", "http_port=0, drain_delay_s=100.0")
    script = scripts.start(scripts.write("main.py", text))
    url = told(script)["url"]
    until(lambda: handles(script.pid, signal.SIGTERM))
    script.send_signal(signal.SIGTERM)
    until(lambda: fresh_get(f"{url}/-/readyz").status_code == 503)
    script.kill()
    until(lambda: not scripts.processes(), 30)


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal (proc_pid_status(5), SigCgt)."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


@contextmanager
def asked(url: str) -> Iterator[list[int]]:
    """A request that is under way; the status of its answer, at the end."""
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(fresh_get(url).status_code))
    thread.start()
    yield statuses
    thread.join(60)


def test_what_is_in_flight_is_answered(temporary: Path) -> None:
    with started_standing("--drain-delay-s", "0") as keeper:
        instance = attach()
        instance.create_backend("slow", slow)
        instance.create_endpoint("slow", "/slow", backend="slow")
        with asked(f"{instance.url}/slow") as statuses:
            until(lambda: instance.status()["backends"]["slow"]["replicas"][0]["outstanding"])
            assert main(["stop"]) == 0
            assert keeper.wait(60) == 0
        assert statuses == [200]


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="drain_timeout_s must be from 0 to"):
        serve.init(runtime="process", http_port=0, drain_timeout_s=-1)
    with pytest.raises(ValueError, match="drain_delay_s must be from 0 to"):
        serve.init(runtime="process", http_port=0, drain_delay_s=float("inf"))


SCRIPT = """
import json, sys, time
import servekit

def slow(request):
    time.sleep(3)
    return "done"

instance = servekit.init(runtime="process", http_port=0)
servekit.create_backend("slow", slow)
servekit.create_endpoint("slow", "/slow", backend="slow")
print("TOLD", json.dumps({"url": instance.url}), flush=True)
servekit.wait()
print("waited", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_script_that_waits_answers_what_is_in_flight(scripts: Scripts, number: signal.Signals) -> None:
    script = scripts.start(scripts.write("main.py", SCRIPT))
    url = told(script)["url"]
    with asked(f"{url}/slow") as statuses:
        time.sleep(0.5)  # So that the request is there; a request that came later would be answered as well.
        script.send_signal(number)
        assert script.wait(60) == 0
    assert statuses == [200]
    assert script.stdout is not None
    assert "waited" in script.stdout.read()
    until(lambda: not scripts.processes())


@QUIET
def test_an_instance_whose_controller_cannot_start_can_be_stopped(temporary: Path) -> None:
    with started_standing() as keeper:
        instance = deployed()
        lost = controller(keeper)
        os.kill(lost, signal.SIGSTOP)
        for path in (temporary / "state" / "servekit" / "default").glob("state.db*"):
            path.unlink()
        os.kill(lost, signal.SIGKILL)
        assert fresh_get(f"{instance.url}/named?hello").status_code == 200
        serve.shutdown()
        assert main(["stop"]) == 0
        assert keeper.wait(60) == 0
        assert not [p for p in marked(f"TMPDIR={temporary}") if "ingress" in repr(p)]
        until(lambda: [p.pid for p in marked(f"TMPDIR={temporary}")] == [os.getpid()] or not left(temporary))


def left(temporary: Path) -> list[object]:
    return [process for process in marked(f"TMPDIR={temporary}") if process.pid != os.getpid()]


@pytest.mark.runtimes("process")
def test_a_restart_replaces_every_replica_and_loses_no_request(serving: serve.Instance) -> None:
    serving.create_backend("named", Named, "one", config={"num_replicas": 2})
    serving.create_endpoint("e", "/e", methods=["GET", "POST"], backend="named")
    before = pids(serving, "named")
    with Load(serving, "/e") as load:
        serving.restart_backend("named")
        assert not pids(serving, "named") & before
        assert len(pids(serving, "named")) == 2
        load.more()
    assert not load.failures
    with pytest.raises(serve.ServekitError, match="'other'"):
        serving.restart_backend("other")

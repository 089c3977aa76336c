"""An instance on a Ray cluster of two hosts, of which one is cut off, comes back, and dies."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from host_tools import Host, ray_on, two_hosts
from tests.support.waiting import until

pytestmark = [pytest.mark.processes, pytest.mark.ray]

DRIVER = """
import collections, json, os, socket, sys, threading, time, urllib.error, urllib.request
import servekit as serve

def ask(path, method="GET"):
    request = urllib.request.Request(instance.url + path, method=method)
    try:
        with urllib.request.urlopen(request, timeout=90) as response:
            return [response.status, response.read().decode()]
    except urllib.error.HTTPError as error:
        return [error.code, ""]

def handle(request):
    if "stay" in request.args and socket.gethostname() == "host2":
        time.sleep(600)
    return f"{socket.gethostname()} {os.getpid()}"

class Nested:
    def __init__(self, told):
        self.told, self.handle = told, serve.get_handle("slow")

    def __call__(self, request):
        try:
            self.handle.remote().result()
        except Exception as error:
            with open(self.told, "w") as file:
                file.write(f"{type(error).__name__}")
            raise

def slow(request):
    time.sleep(600)

stays, steady = [], collections.Counter()

def stay(method):
    began = time.monotonic()
    stays.append([method, *ask("/it?stay=1", method), time.monotonic() - began])

def load():
    while True:
        steady[str(ask("/it"))] += 1

def begin(function, *arguments):
    threading.Thread(target=function, args=arguments, daemon=True).start()

def replicas(backend="it"):
    return [r for r in instance.status()["backends"][backend]["replicas"] if r["state"] == "ready"]

with serve.init(runtime="ray", runtime_options={"address": "auto"}, http_port=0, ingress_workers=2) as instance:
    config = {"num_replicas": 2, "max_concurrent_queries": 20}
    spread = {"num_cpus": 0.5, "scheduling_strategy": "SPREAD"}
    serve.create_backend("it", handle, config=config, ray_actor_options=spread)
    serve.create_endpoint("it", "/it", backend="it", methods=["GET", "POST"])
    print("TOLD0", flush=True)
    for line in sys.stdin:
        print("TOLD" + json.dumps(eval(line)), flush=True)
"""


class Driver:
    """The script on host 1, which evaluates what it is asked."""

    def __init__(self, process: subprocess.Popen[str], printed: Path) -> None:
        self._process = process
        self._printed = printed

    def __call__(self, expression: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(expression + "\n")
        self._process.stdin.flush()
        return self.told()

    def told(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("TOLD"):
                return json.loads(line.removeprefix("TOLD"))
        raise AssertionError(f"it ended with {self._process.wait(60)}:\n{self._printed.read_text()}")

    def nodes(self) -> list[str]:
        """Those of the replicas that are ready."""
        return sorted(replica["node"] for replica in self("replicas()"))


@pytest.fixture(scope="module")
def own_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """Two hosts and a cluster of these tests' own, for its second node does not outlive them."""
    pytest.importorskip("ray")
    with two_hosts() as both, ray_on(*both, tmp_path_factory.mktemp("ray")):
        yield both


@pytest.fixture
def drive(hosts: object, own_hosts: tuple[Host, Host], shared: Path) -> Iterator[Driver]:
    """``hosts`` are asked for where there can be none: then the test is skipped."""
    script, printed = shared / "driver.py", shared / "printed"
    script.write_text(DRIVER)
    with (
        printed.open("w") as errors,
        own_hosts[0].start(
            sys.executable, str(script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        driver = Driver(process, printed)
        try:
            driver.told()
            yield driver
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(120)
            print(printed.read_text()[-20_000:])


def cut(host: Host) -> None:
    host.call("ip", "link", "set", "eth0", "down")


def mend(host: Host) -> None:
    host.call("ip", "link", "set", "eth0", "up")
    host.call("ip", "route", "replace", "default", "dev", "eth0")


def has(host: Host, pid: int) -> bool:
    return "there" in host.call("sh", "-c", f"test -e /proc/{pid} && echo there || true")


def hold(drive: Driver) -> int:
    """Have requests stay in the replica on host 2, a POST among them; how many have been sent to either host. Those
    that come one by one go to host 1, whose replica has none, so they are sent at a time."""
    (held,) = [replica["id"] for replica in drive("replicas()") if replica["node"] == "host2"]
    sent = 0

    def inside() -> list[int] | None:
        found = {replica["id"]: replica["outstanding"] for replica in drive("replicas()")}
        return [int(found[held])] if found[held] + drive("len(stays)") == sent else None

    def send(method: str) -> int:
        nonlocal sent
        sent += 6
        drive(f"[begin(stay, {method!r}) for _ in range(6)]")
        return until(inside)[0]

    assert any(send("POST") for _ in range(20))
    send("GET")
    return sent


def check_stays(drive: Driver, sent: int) -> None:
    """What could be sent elsewhere was answered there, and the rest is refused, within seconds."""
    until(lambda: drive("len(stays)") == sent)
    stays = drive("stays")
    print("stayed", sorted(stays))
    assert {(method, status) for method, status, *_ in stays} <= {("GET", 200), ("POST", 200), ("POST", 502)}
    assert ["POST", 502] in [stay[:2] for stay in stays]
    assert all(text.startswith("host1") for _, status, text, _ in stays if status == 200)


def test_a_host_that_is_cut_off_and_comes_back(own_hosts: tuple[Host, Host], drive: Driver, shared: Path) -> None:
    second = own_hosts[1]
    assert drive.nodes() == ["host1", "host2"]
    (old,) = [replica["pid"] for replica in drive("replicas()") if replica["node"] == "host2"]
    here = '{"num_cpus": 0.1, "resources": {"host2": 0.1}}'
    drive("serve.create_backend('slow', slow, ray_actor_options={'num_cpus': 0.1})")
    drive("serve.create_endpoint('slow', '/slow', backend='slow')")
    drive(f"serve.create_backend('nested', Nested, {str(shared / 'told')!r}, ray_actor_options={here})")
    drive("serve.create_endpoint('nested', '/nested', backend='nested')")
    drive("begin(ask, '/nested')")
    until(lambda: drive("replicas('slow')[0]['outstanding']"))
    sent = hold(drive)
    drive("[begin(load) for _ in range(4)]")
    cut(second)
    began = time.monotonic()
    try:
        check_stays(drive, sent)
        print(f"stayed until {time.monotonic() - began:.1f} s")
        # The call of a handle there fails as well, once its companion is lost.
        until((shared / "told").exists)
        print(f"handle told {(shared / 'told').read_text()} by {time.monotonic() - began:.1f} s")
        until(lambda: drive.nodes() == ["host1", "host1"], 40)
        print(f"replaced after {time.monotonic() - began:.1f} s")
        drive("steady.clear()")
    finally:
        mend(second)
    until(lambda: not has(second, old))
    answers = until(lambda: len(found := drive("steady")) == 2 and found)
    new = {f"host1 {replica['pid']}" for replica in drive("replicas()")}
    assert {eval(answer)[1] for answer in answers} == new, answers


def test_a_host_that_dies(own_hosts: tuple[Host, Host], drive: Driver) -> None:
    assert drive.nodes() == ["host1", "host2"]
    sent = hold(drive)
    began = time.monotonic()
    own_hosts[1].call("sh", "-c", "kill -9 -1")  # All but the host's first process.
    check_stays(drive, sent)
    print(f"stayed until {time.monotonic() - began:.1f} s")
    until(lambda: drive.nodes() == ["host1", "host1"], 40)
    print(f"replaced after {time.monotonic() - began:.1f} s")

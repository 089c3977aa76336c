"""An instance on a Ray cluster of two hosts: HTTP on the one, a replica on the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until

pytestmark = [pytest.mark.processes, pytest.mark.ray]

DRIVER = """
import json, pathlib, socket, urllib.request
import servekit as serve
from servekit.errors import ServekitError

THERE = {"num_cpus": 0.1, "resources": {"host2": 0.1}}

def tell(handler, *arguments):
    with serve.init(runtime="ray", runtime_options={"address": "auto"}, http_port=0) as instance:
        try:
            serve.create_backend("it", handler, *arguments, ray_actor_options=THERE)
        except ServekitError as error:
            print("TOLD" + json.dumps({"error": str(error)}), flush=True)
            return
        serve.create_endpoint("it", "/it", backend="it")
        answers = {ask(instance)}
        if beside.exists():
            beside.write_text("GREETING = 'what was edited later'")
            serve.update_backend_config("it", {"num_replicas": 2})
            answers |= {ask(instance) for _ in range(20)}
        print("TOLD" + json.dumps({"answers": [*answers], "runtimes": instance.status()["runtimes"]}), flush=True)

def ask(instance):
    with urllib.request.urlopen(instance.url + "/it?name=me", timeout=60) as response:
        return response.read().decode()

beside = pathlib.Path(__file__).with_name("still_beside.py")
"""
IN_MAIN = """
def greet(name):
    return f"hello, {name}, from {socket.gethostname()}"

def handle(request):
    return greet(request.args["name"])

tell(handle)
"""
BESIDE = """
import socket
from still_beside import GREETING

class Greeter:
    def __init__(self, mark):
        self.mark = mark

    def __call__(self, request):
        return f"{GREETING}, {request.args['name']}{self.mark} from {socket.gethostname()}"
"""


@pytest.fixture
def drive(hosts, cluster, shared):
    """Run a script on host 1, from a folder that host 2 does not see; what it tells."""
    first, second = hosts

    def drive(code: str, **modules: str) -> dict[str, Any]:
        for name, source in {"driver": DRIVER + code, **modules}.items():
            Path(shared, f"{name}.py").write_text(source)
        with first.start(
            sys.executable, str(shared / "driver.py"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as driver:
            printed, _ = driver.communicate(timeout=300)
        lines = [line.removeprefix("TOLD") for line in printed.splitlines() if line.startswith("TOLD")]
        assert len(lines) == 1, f"exit code {driver.returncode}:\n{printed}"
        assert driver.returncode == 0, printed
        told: dict[str, Any] = json.loads(lines[0])
        return told

    with second.hidden(shared):
        yield drive


def test_a_function_of_the_script_is_served_by_the_other_host(drive, cluster):
    assert drive(IN_MAIN) == {
        "answers": ["hello, me, from host2"],
        "runtimes": [f"runtime ray: the Ray cluster at {cluster}, which ray start recorded on this machine"],
    }


def test_a_class_of_a_module_beside_the_script_is_served_by_the_other_host(drive, hosts):
    """By each replica as it was at first; and nothing of its code is left there."""
    told = drive(
        "from beside import Greeter\ntell(Greeter, '!')", beside=BESIDE, still_beside="GREETING = 'good day'\n"
    )
    assert told.get("answers") == ["good day, me! from host2"], told
    until(lambda: hosts[1].call("ls", "-A", f"/tmp/servekit-{os.getuid()}") == "")


CLIENT = """
import os, time
os.environ["RAY_AUTH_MODE"] = "token"
import ray

ends = time.monotonic() + 240
while not ray.is_initialized():
    try:
        ray.init("ray://localhost:10001")
    except ConnectionError:  # Ray's server for this client was not up in time: the machine is busy.
        if time.monotonic() > ends:
            raise
try:
    serve.init(http_port=0)
except ServekitError as error:
    print("TOLD" + json.dumps({"error": str(error)}), flush=True)
ray.shutdown()
"""


def test_a_driver_that_is_a_ray_client_is_told_what_to_do(drive):
    assert "by the Ray client (ray://), which cannot host servekit" in drive(CLIENT)["error"]

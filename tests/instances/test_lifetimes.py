"""An instance ends with the process that started it, however that ends."""

from __future__ import annotations

import os
import signal
import time

import httpx
import pytest
from instance_tools import Process, descendants, fresh_get, parent, temporary_scripts, told
from tests.support.waiting import until

from servekit.control.launch import STOP_MARGIN_S
from servekit.control.setup import InstanceOptions

pytestmark = pytest.mark.processes

GONE_WITHIN_S = 30.0
"""The promise."""

DRIVER = """
import json, os, signal, sys, time
import servekit as serve

def handle(request):
    if request.args.get("hang"):
        print("HANGS{}", flush=True)
        time.sleep(600)
    return str(os.getpid())

instance = serve.init(runtime=sys.argv[1], http_port=0)
serve.create_backend("model", handle, config={"num_replicas": 2})
serve.create_endpoint("model", "/model", backend="model")
told = {"url": instance.url, "directory": instance.directory, "pids": [
    *(worker["pid"] for worker in instance.status()["ingress"]),
    *(replica["pid"] for replica in instance.status()["backends"]["model"]["replicas"]),
]}

def tell():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    print("TOLD" + json.dumps(told), flush=True)

def wait():
    print("TOLD" + json.dumps(told), flush=True)
    time.sleep(600)

def fork():
    told["child"] = os.fork()
    if not told["child"]:
        time.sleep(600)
        os._exit(0)
    wait()

def fail():
    raise RuntimeError("the driver's own trouble")

def leave_the_block():
    with instance:
        sys.exit(4)
"""


class Driven:
    """A driver whose instance is up, and every process that there is of both."""

    def __init__(self, scripts, runtime, code):
        self.scripts = scripts
        self.process = scripts.start(scripts.write("driver.py", DRIVER + code), runtime)
        self.told = told(self.process)
        assert fresh_get(f"{self.told['url']}/model").status_code == 200
        self.before = {p.pid: p for p in [*descendants(self.process.pid), *scripts.processes()]}
        assert self.before.keys() >= {self.process.pid, parent(self.told["pids"][0]), *self.told["pids"]}

    def left(self):
        """What is there of it, but for the child that the driver forked."""
        now = {p.pid: p for p in [*self.before.values(), *self.scripts.processes()] if p.is_there}
        now.pop(self.told.get("child"), None)
        return list(now.values())

    def must_vanish(self):
        ends = time.monotonic() + GONE_WITHIN_S
        while left := self.left():
            assert time.monotonic() < ends, f"still there: {left}"
            time.sleep(0.02)
        assert self.scripts.instances == []


class TestOnEitherRuntime:
    def test_a_driver_that_is_killed(self, scripts, runtime):
        driven = Driven(scripts, runtime, "wait()")
        driven.process.kill()
        driven.must_vanish()

    def test_a_driver_that_is_killed_and_had_forked_a_child(self, scripts, runtime):
        driven = Driven(scripts, runtime, "fork()")
        child = Process(driven.told["child"])
        driven.process.kill()
        driven.must_vanish()
        assert child.is_there
        os.kill(child.pid, signal.SIGKILL)

    def test_a_driver_that_ends_without_shutdown(self, scripts, runtime):
        driven = Driven(scripts, runtime, "tell(); signal.sigwait([signal.SIGUSR1])")
        driven.process.send_signal(signal.SIGUSR1)
        assert driven.process.wait(60) == 0
        driven.must_vanish()


def hang(scripts):
    """A driver whose instance has a handler that never ends; SIGUSR1 lets it exit in good order."""
    driven = Driven(scripts, "process", "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(5)); wait()")
    with pytest.raises(httpx.ReadTimeout):
        fresh_get(f"{driven.told['url']}/model?hang=1", 0.5)
    told(driven.process, "HANGS")
    return driven


def test_a_hung_handler_does_not_outlive_a_killed_driver(scripts):
    driven = hang(scripts)
    driven.process.kill()
    driven.must_vanish()


@pytest.fixture(scope="module")
def shutting_down():
    """One that hangs, told to end when the first test asks for it: it takes its time beside the others."""
    with temporary_scripts() as scripts:
        driven = hang(scripts)
        driven.process.send_signal(signal.SIGUSR1)
        yield driven


ENDINGS = {
    "killed by SIGTERM": ("wait()", signal.SIGTERM, -signal.SIGTERM),
    # The shell that started the tests may have had them ignore it.
    "interrupted": (
        "signal.signal(signal.SIGINT, signal.default_int_handler); wait()",
        signal.SIGINT,
        -signal.SIGINT,
    ),
    "an exception": ("signal.signal(signal.SIGUSR1, lambda *_: fail()); wait()", signal.SIGUSR1, 1),
    "os._exit": ("signal.signal(signal.SIGUSR1, lambda *_: os._exit(3)); wait()", signal.SIGUSR1, 3),
    "leaving the block": ("signal.signal(signal.SIGUSR1, lambda *_: leave_the_block()); wait()", signal.SIGUSR1, 4),
}


@pytest.mark.usefixtures("shutting_down")
@pytest.mark.parametrize("how", ENDINGS)
def test_other_ways_for_a_driver_to_end(scripts, how):
    code, number, exit_code = ENDINGS[how]
    driven = Driven(scripts, "process", code)
    driven.process.send_signal(number)
    assert driven.process.wait(60) == exit_code
    driven.must_vanish()


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_a_driver_that_is_killed_before_its_instance_is_up(scripts, processes):
    """When it has started so many processes."""
    code = "import servekit as serve\nprint('TOLD{}', flush=True)\nserve.init(runtime='process', http_port=0)\n"
    driver = scripts.start(scripts.write("driver.py", code + "import time; time.sleep(600)"))
    told(driver)
    until(lambda: len(descendants(driver.pid)) >= processes)
    driver.kill()
    # A process that becomes another program has no environment for a moment, and is not seen.
    until(lambda: not scripts.processes() and not scripts.instances, timeout_s=GONE_WITHIN_S)


def test_a_hung_handler_does_not_keep_shutdown_beyond_its_bound(shutting_down):
    assert shutting_down.process.wait(InstanceOptions("any", "process").drain_timeout_s + STOP_MARGIN_S) == 5
    assert shutting_down.left() == []
    assert shutting_down.scripts.instances == []

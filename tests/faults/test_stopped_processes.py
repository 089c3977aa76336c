"""Workers that are stopped (SIGSTOP), under load: each is found, killed and replaced, and no change waits for it."""

from __future__ import annotations

import os
import signal

import pytest
from benchmarks.faults.handlers import Echo
from benchmarks.faults.load import ask
from instance_tools import Process, pids
from tests.support.waiting import until

pytestmark = [pytest.mark.processes, pytest.mark.runtimes("process")]


class Computing(Echo):
    """Computes first, in C code that does not let go of the GIL: for 6 s on a fast core, longer than a worker may say
    nothing."""

    def __call__(self, request):
        sum(range(200_000_000))
        return super().__call__(request)


@pytest.fixture
def instance(start):
    instance = start(ingress_workers=2)
    instance.create_backend("echo", Echo, config={"num_replicas": 2})
    instance.create_endpoint("echo", "/echo", ["GET", "POST"], backend="echo")
    return instance


def linked(instance):
    """The processes of the ingress workers that serve."""
    return {worker["pid"] for worker in instance.status()["ingress"] if worker["ready"]}


@pytest.mark.runtimes("process", "ray")
def test_a_replica_that_is_stopped_is_replaced(instance, load):
    before = pids(instance, "echo")
    stopped = min(before)
    with load(instance) as background:
        process = Process(stopped)
        os.kill(stopped, signal.SIGSTOP)
        until(lambda: not process.is_there)
        after = until(lambda: len(now := pids(instance, "echo")) == 2 and stopped not in now and now)
        assert before - {stopped} < after, "the other replica was left alone"
        background.more()
    # A GET that was inside is sent again; a POST may have been begun.
    assert {(one.method, one.kind) for one in background.failures} <= {("POST", "502")}
    assert len(background.failures) <= 2


def test_an_ingress_worker_that_is_stopped_is_replaced_and_no_change_waits_for_it(instance, load):
    before = linked(instance)
    stopped = min(before)
    instance.create_backend("other", Echo)
    with load(instance) as background:
        process = Process(stopped)
        os.kill(stopped, signal.SIGSTOP)
        instance.set_traffic("echo", {"other": 1.0})  # It would wait for 10 s, and raise DeadlineError.
        assert process.is_there, "it is some seconds before it is killed, and the change did not wait as long"
        until(lambda: not process.is_there)
        after = until(lambda: len(now := linked(instance)) == 2 and stopped not in now and now)
        assert before - {stopped} < after, "the other worker was left alone"
        background.more()
    # What the stopped one had taken is lost with it, one request of each connection at most; nothing else is.
    assert len(background.failures) <= 6
    assert not any(one.kind.isdigit() for one in background.failures), background.failures


def test_a_replica_that_computes_in_c_code_is_left_alone(instance):
    instance.create_backend("computing", Computing)
    instance.create_endpoint("computing", "/computing", backend="computing")
    before = pids(instance, "computing")
    answer = ask(instance.url, path="/computing")
    assert answer.startswith("200 "), answer
    assert pids(instance, "computing") == before

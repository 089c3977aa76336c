"""Replicas that are replaced for their requests or their memory, under a load: no request is lost."""

from __future__ import annotations

import pytest
from benchmarks.faults.handlers import Echo
from benchmarks.faults.load import ask
from instance_tools import pids
from tests.support.waiting import until

pytestmark = [pytest.mark.processes, pytest.mark.runtimes("process")]


def states(instance):
    """Of the replicas, once a look."""
    return [replica["state"] for replica in instance.status()["backends"]["echo"]["replicas"]]


@pytest.mark.parametrize("num_replicas", [1, 3])
def test_max_requests(start, load, num_replicas):
    instance = start()
    instance.create_backend("echo", Echo, 0.01, config={"num_replicas": num_replicas, "max_requests": 100})
    instance.create_endpoint("echo", "/echo", ["GET", "POST"], backend="echo")
    first = pids(instance, "echo")

    def replaced():
        now = states(instance)
        # As many as are wanted serve all the time, and one more at most comes.
        assert now.count("ready") >= num_replicas
        assert len(now) - now.count("draining") <= num_replicas + 1
        return not pids(instance, "echo") & first

    with load(instance) as background:
        until(replaced)
        background.more()
    assert background.failures == []
    assert background.counts.wrong == 0
    assert instance.status()["backends"]["echo"]["last_failure"] == ""


def test_max_memory_bytes(start, load):
    instance = start()
    config = {"num_replicas": 2, "max_memory_bytes": 300 * 1024 * 1024}
    instance.create_backend("echo", Echo, config=config)
    instance.create_endpoint("echo", "/echo", ["GET", "POST"], backend="echo")
    first = pids(instance, "echo")
    with load(instance) as background:
        assert ask(instance.url, "grow", mb=400).startswith("200 ")
        until(lambda: len(pids(instance, "echo")) == 2 and pids(instance, "echo") != first)
        background.more()
    assert background.failures == []
    assert len(pids(instance, "echo") & first) == 1
    (event,) = instance.events(backend="echo", kind="replica_recycled")
    assert "max_memory_bytes" in event["text"]
    assert instance.status()["backends"]["echo"]["last_failure"] == ""

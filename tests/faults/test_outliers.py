"""A replica that fails where its siblings do not."""

from __future__ import annotations

import pytest
from benchmarks.faults.handlers import Echo
from benchmarks.faults.load import ask
from instance_tools import pids
from tests.support.waiting import until

pytestmark = [pytest.mark.processes, pytest.mark.runtimes("process")]


def test_it_gets_no_more_requests(start, load):
    instance = start()
    instance.create_backend("echo", Echo, config={"num_replicas": 3})
    instance.create_endpoint("echo", "/echo", ["GET", "POST"], backend="echo")
    before = pids(instance, "echo")
    with load(instance) as background:
        background.wait(lambda: {one.by for one in background.outcomes} == before)
        ask(instance.url, "spoil")
        background.wait(lambda: background.failures)
        until(lambda: not [one for one in background.more(100) if one.kind])
        later = background.more(300)
        assert not [one for one in later if one.kind]
        assert len({one.by for one in later}) == 2
    assert {one.kind for one in background.failures} == {"500"}
    assert len(background.failures) < 40
    ejected = until(lambda: instance.events(backend="echo", kind="replica_ejected"))[0]
    assert "gets no requests for 30 s: its last" in ejected["text"]
    assert pids(instance, "echo") == before

"""The load that the tests of this folder are under, and the handlers that do what they are asked to."""

from __future__ import annotations

import pytest
from benchmarks.faults.handlers import AsyncEcho, Echo
from benchmarks.faults.load import ask
from instance_tools import pids
from tests.support.waiting import until

pytestmark = [pytest.mark.processes, pytest.mark.runtimes("process")]


@pytest.mark.parametrize("echo", [Echo, AsyncEcho])
def test_answers_are_what_was_sent_and_a_replica_ends_on_demand(start, load, echo):
    instance = start()
    instance.create_backend("echo", echo, config={"num_replicas": 2})
    instance.create_endpoint("echo", "/echo", ["GET", "POST"], backend="echo")
    before = pids(instance, "echo")
    with load(instance) as background:
        background.wait(lambda: {one.by for one in background.outcomes} == before)
        assert ask(instance.url, "die", method="POST").startswith("502 ")
        after = until(lambda: len(now := pids(instance, "echo")) == 2 and now != before and now)
        background.wait(lambda: {one.by for one in background.more()} == after)
    # Nothing but what was inside with it.
    assert {(one.method, one.kind) for one in background.failures} <= {("POST", "502")}
    assert len(background.failures) <= 2

"""Changes that ``tests/instances/test_changes.py`` has not, while requests keep coming: none is lost."""

from __future__ import annotations

import pytest
from benchmarks.faults.handlers import Echo
from benchmarks.faults.load import ask
from instance_tools import pids

pytestmark = [pytest.mark.processes, pytest.mark.runtimes("process")]


def test_replicas_take_over_one_user_config_after_another(start, load):
    instance = start()
    instance.create_backend("echo", Echo, 0.002, config={"num_replicas": 2})
    instance.create_endpoint("echo", "/echo", ["GET", "POST"], backend="echo")
    before = pids(instance, "echo")
    with load(instance) as background:
        for number in range(20):
            instance.update_backend_config("echo", {"user_config": f"mark {number}"})
            assert f'"mark":"mark {number}"' in ask(instance.url)
        background.more()
    assert not background.failures
    assert pids(instance, "echo") == before == {one.by for one in background.outcomes}

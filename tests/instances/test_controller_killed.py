"""The controller is killed: the ingress goes on with what it knows."""

from __future__ import annotations

import os
import signal

import instance_handlers
import pytest
from instance_tools import Load, Process, descendants, parent, pids
from tests.support.waiting import until

import servekit as serve
from servekit import errors

pytestmark = [
    pytest.mark.processes,
    # httpcore leaves its socket open when a Unix socket refuses the connection.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

ORPHANED_FOR_S = 10.0
"""How long workers wait for a controller to come back."""


def test_its_workers_go_on_and_end_when_nobody_comes_back():
    with serve.init(runtime="process", http_port=0) as instance:
        serve.create_backend("model", instance_handlers.Named, "model", config={"num_replicas": 2})
        serve.create_endpoint("model", "/model", ["GET", "POST"], backend="model")
        (worker,) = instance.status()["ingress"]
        workers = [Process(pid) for pid in (worker["pid"], *pids(instance, "model"))]
        assert {process.pid for process in descendants(parent(worker["pid"]))} == {p.pid for p in workers}
        with Load(instance, "/model") as load:
            os.kill(parent(worker["pid"]), signal.SIGKILL)
            load.more(500)
            with pytest.raises(errors.ControllerGoneError, match=r"init\(\)"):
                instance.status()
            assert all(process.is_there for process in workers)
            load.more(500)
        assert load.failures == []
        assert len({answer["pid"] for answer in load.answers}) == 2
        until(lambda: not any(process.is_there for process in workers), timeout_s=ORPHANED_FOR_S + 20)
    assert not os.path.exists(instance.directory)

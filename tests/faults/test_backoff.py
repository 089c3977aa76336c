"""Replicas that die, and when others take their places."""

from __future__ import annotations

import os
import signal
import time

import pytest
from benchmarks.faults.handlers import Echo
from benchmarks.faults.load import ask
from instance_tools import pids
from tests.support.waiting import until

pytestmark = [pytest.mark.processes, pytest.mark.runtimes("process")]

KILLS = 10


def test_one_that_has_served_is_replaced_at_once_however_often(start):
    """With pauses that double, the tenth would come after a minute of them."""
    instance = start()
    instance.create_backend("echo", Echo)
    instance.create_endpoint("echo", "/echo", backend="echo")
    ends, seen = time.monotonic() + 45, set()
    for _ in range(KILLS):
        (pid,) = until(lambda: pids(instance, "echo") - seen, ends - time.monotonic())
        assert ask(instance.url).startswith("200 ")
        seen.add(pid)
        os.kill(pid, signal.SIGKILL)
    until(lambda: pids(instance, "echo") - seen, ends - time.monotonic())
    assert instance.status()["backends"]["echo"]["last_start_error"] == ""

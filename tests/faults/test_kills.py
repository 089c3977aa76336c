"""Processes that are killed under load: what fails is what was inside, and all is back.

A replica that is killed alone, or told to end, is in ``tests/instances/test_changes.py``; a controller and a keeper
are in ``test_standing.py`` beside it.
"""

from __future__ import annotations

import os
import signal
import time

import pytest
from benchmarks.faults import outcomes
from benchmarks.faults.handlers import Echo
from instance_tools import pids
from tests.support.waiting import until

pytestmark = [pytest.mark.processes, pytest.mark.runtimes("process")]


@pytest.fixture
def serve_echo(start):
    """Starts an instance with three replicas that echo."""

    def serve_echo(**options):
        instance = start(**options)
        instance.create_backend("echo", Echo, 0.002, config={"num_replicas": 3})
        instance.create_endpoint("echo", "/echo", ["GET", "POST"], backend="echo")
        return instance

    return serve_echo


def test_of_all_replicas_that_die_at_once_nothing_is_lost_but_what_was_inside(serve_echo, load):
    instance = serve_echo()
    before = pids(instance, "echo")
    with load(instance) as background:
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        killed_s = time.monotonic()
        after = until(lambda: len(now := pids(instance, "echo") - before) == 3 and now)
        background.wait(lambda: {one.by for one in background.more()} == after)
    assert {one.kind for one in background.failures} <= {"502"}
    # A connection has one request at a time; those that were sent later waited for the new ones.
    assert len(background.failures) <= 6
    assert not [one for one in background.failures if one.sent_s > killed_s + 1]


def test_an_ingress_worker_that_dies_takes_its_connections_along_and_no_others(serve_echo, load):
    instance = serve_echo(ingress_workers=2)
    workers = {worker["pid"] for worker in instance.status()["ingress"]}
    with load(instance) as background:
        os.kill(min(workers), signal.SIGKILL)
        killed_s = time.monotonic()
        until(lambda: len([w for w in instance.status()["ingress"] if w["ready"] and w["pid"] != min(workers)]) == 2)
        background.more()
    cut = background.failures
    assert {one.kind for one in cut} <= {"IncompleteReadError", "ConnectionResetError", "BrokenPipeError"}
    assert len(cut) <= 6
    assert not [one for one in cut if one.sent_s > killed_s + 1]
    assert outcomes.counts(background.outcomes).wrong == 0

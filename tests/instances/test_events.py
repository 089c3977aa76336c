"""What has happened to real processes, and whether that is known when the controller has ended."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import instance_handlers
import pytest
from instance_tools import attach, controller, pids, started_standing
from tests.support.waiting import until

import servekit as serve
from servekit.cli.main import main

pytestmark = [
    pytest.mark.processes,
    pytest.mark.runtimes("process"),
    # httpcore leaves its socket open when a Unix socket refuses the connection.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


def texts(instance: serve.Instance, **about: Any) -> list[str]:
    return [event["text"] for event in instance.events(**about)]


def test_a_killed_replica_and_a_killed_ingress_worker(serving: serve.Instance) -> None:
    began = serving.events()[-1]["number"]
    serve.create_backend("model", instance_handlers.Named, "model")
    (replica,) = serving.status()["backends"]["model"]["replicas"]
    os.kill(replica["pid"], signal.SIGKILL)
    (event,) = until(lambda: serving.events(began, backend="model", kind="replica_failed"))
    assert event["replica"] == replica["id"]
    assert f"replica model {replica['id']} ended: killed by SIGKILL; another is started" in event["text"]
    (worker,) = serving.status()["ingress"]
    os.kill(worker["pid"], signal.SIGKILL)
    (event,) = until(lambda: serving.events(began, kind="ingress_ended"))
    assert "ingress ingress1 ended: killed by SIGKILL; another is started" in event["text"]
    until(lambda: [each["ready"] for each in serving.status()["ingress"]] == [True])
    until(lambda: len(pids(serving, "model")) == 1)


def test_an_ingress_worker_that_is_killed_with_the_controller(detached: None, standing: subprocess.Popen[str]) -> None:
    instance = attach()
    began = instance.events()[-1]["number"]
    (worker,) = instance.status()["ingress"]
    pid = controller(standing)
    os.kill(pid, signal.SIGSTOP)  # It is not to see the worker's end.
    os.kill(worker["pid"], signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: texts(instance, since=began, kind="ingress_ended")) == [
        "ingress ingress1 ended while no controller was there; another is started"
    ]
    until(lambda: [each["ready"] for each in instance.status()["ingress"]] == [True])
    assert len(instance.events(began, kind="ingress_ended")) == 1


def test_events_outlive_the_controller_and_the_instance(
    detached: None, standing: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    instance = attach()
    instance.create_backend("model", instance_handlers.Named, "model")
    instance.create_endpoint("model", "/model", backend="model")
    before = instance.events()
    (replica,) = pids(instance, "model")
    os.kill(controller(standing), signal.SIGKILL)
    (again,) = until(lambda: instance.events(kind="controller_restarted"))
    assert "for the one before ended: killed by SIGKILL" in again["text"]
    until(lambda: any("is taken over" in text for text in texts(instance, kind="replica_ready")))
    after = instance.events()
    assert after[: len(before)] == before
    assert pids(instance, "model") == {replica}
    numbers = [event["number"] for event in after]
    assert numbers == sorted(set(numbers))
    assert main(["stop"]) == 0
    assert standing.wait(60) == 0
    with started_standing() as keeper:
        instance = attach()
        found = instance.events()
        assert found[: len(after)] == after
        kinds = [event["kind"] for event in found[len(after) :]]
        assert {"instance_ended", "replica_ended", "instance_started"} <= set(kinds)
        assert kinds.index("instance_ended") < kinds.index("instance_started")
        (ended,) = [event for event in found[len(after) :] if event["kind"] == "instance_ended"]
        assert f"(pid {os.getpid()})" in ended["who"]
        assert main(["stop", "--purge"]) == 0
        assert keeper.wait(60) == 0
    capsys.readouterr()

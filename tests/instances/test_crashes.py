"""Processes of an instance that are killed: what goes on, and what comes back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import instance_handlers
import pytest
from instance_tools import Load, fresh_get, pids
from tests.support.waiting import until

import servekit as serve

pytestmark = [
    pytest.mark.processes,
    pytest.mark.runtimes("process"),
]


@pytest.fixture
def model(serving):
    serve.create_backend("model", instance_handlers.Named, "model", config={"num_replicas": 2})
    serve.create_endpoint("model", "/model", ["GET", "POST"], backend="model")
    return serving


def answers(url: str) -> bool:
    """On a connection of its own."""
    try:
        return fresh_get(f"{url}/model").status_code == 200
    except httpx.TransportError:
        return False


def test_every_replica_is_killed(model, client):
    """Requests wait for those that come."""
    before = pids(model, "model")
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    # Once they are reaped their sockets are closed, so nothing is sent to them any more.
    until(lambda: not {replica["pid"] for replica in model.status()["backends"]["model"]["replicas"]} & before)
    assert client.get("/model").status_code == 200
    assert client.post("/model").status_code == 200
    after = until(lambda: len(now := pids(model, "model") - before) == 2 and now)
    with Load(model, "/model") as load:
        until(lambda: {answer["pid"] for answer in load.more()} == after)
    assert load.failures == []
    there = {replica["id"] for replica in model.status()["backends"]["model"]["replicas"]}
    assert {path.stem for path in Path(model.directory).glob("r*.sock")} == there


def test_a_killed_ingress_worker_is_replaced(model):
    (before,) = (worker["pid"] for worker in model.status()["ingress"])
    replicas = pids(model, "model")
    os.kill(before, signal.SIGKILL)
    until(lambda: answers(model.url))
    after = until(lambda: [w["pid"] for w in model.status()["ingress"] if w["ready"] and w["pid"] != before])
    assert len(after) == 1
    assert pids(model, "model") == replicas
    serve.create_backend("other", instance_handlers.hello)
    serve.set_traffic("model", {"other": 1.0})
    assert fresh_get(f"{model.url}/model").text == "hello world"
    assert fresh_get(f"{model.url}/-/routes").json() == {"/model": ["model", ["GET", "POST"]]}


def test_a_change_while_an_ingress_worker_restarts(model):
    """Neither lost on the new worker, nor waiting for the old one."""
    (worker,) = model.status()["ingress"]
    os.kill(worker["pid"], signal.SIGKILL)
    serve.create_endpoint("late", "/late", backend="model")
    until(lambda: answers(model.url))
    assert fresh_get(f"{model.url}/late").json()["name"] == "model"

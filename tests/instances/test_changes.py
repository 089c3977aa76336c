"""Changes under steady load: no request fails."""

from __future__ import annotations

import os
import signal
import time

import instance_handlers
import pytest
from instance_tools import Load, Process, pids, replicas
from tests.support.waiting import until

import servekit as serve

# Ray has a part in how replicas come and go, and none in what is sent where.
pytestmark = [pytest.mark.processes, pytest.mark.runtimes("process")]


@pytest.fixture
def model(serving):
    """An endpoint ``model`` with a backend ``a``."""
    serve.create_backend("a", instance_handlers.Named, "a", 0.002)
    serve.create_endpoint("model", "/model", ["GET", "POST"], backend="a")
    return serving


@pytest.mark.runtimes("process", "ray")
def test_replicas_come_and_go(model):
    with Load(model, "/model") as load:
        (first,) = pids(model, "a")
        serve.update_backend_config("a", {"num_replicas": 3})
        three = pids(model, "a")
        assert len(three) == 3
        assert first in three, "one that serves stays"
        until(lambda: {answer["pid"] for answer in load.more()} == three)
        serve.update_backend_config("a", {"num_replicas": 1})
        assert pids(model, "a") == {first}, "the youngest go first"
        load.more()
        until(lambda: not any(Process(pid).is_there for pid in three - {first}))
        assert {answer["pid"] for answer in load.more()} == {first}
    assert load.failures == []


@pytest.mark.runtimes("process", "ray")
def test_a_change_that_needs_new_replicas_replaces_them_one_version_by_the_next(model):
    with Load(model, "/model") as load:
        before = pids(model, "a")
        serve.update_backend_config("a", {"max_concurrent_queries": 2})
        load.more()
        after = pids(model, "a")
        assert len(after) == 1
        assert after.isdisjoint(before)
        until(lambda: {answer["pid"] for answer in load.more()} == after)
    assert load.failures == []


def test_traffic_changes(model):
    serve.create_backend("b", instance_handlers.Named, "b", 0.002)
    with Load(model, "/model") as load:
        for shares in [{"b": 1.0}, {"a": 0.5, "b": 0.5}, {"a": 1.0, "b": 0.0}, {"b": 1.0}]:
            serve.set_traffic("model", shares)
            present = {name for name, weight in shares.items() if weight}
            # What was in flight when the traffic was set may still come from where it was.
            until(lambda present=present: {answer["name"] for answer in load.more()} == present)
    assert load.failures == []


def test_backends_and_endpoints_beside_it_come_and_go(model):
    with Load(model, "/model") as load:
        serve.create_backend("unused", instance_handlers.Named, "unused", config={"num_replicas": 2})
        gone = pids(model, "unused")
        serve.create_endpoint("other", "/other", backend="unused")
        serve.delete_endpoint("other")
        serve.delete_backend("unused")
        until(lambda: not any(Process(pid).is_there for pid in gone))
        load.more()
        assert list(serve.list_backends()) == ["a"]
    assert load.failures == []


def test_a_backend_that_lost_its_traffic_is_deleted(model):
    serve.create_backend("b", instance_handlers.Named, "b")
    with Load(model, "/model") as load:
        serve.set_traffic("model", {"b": 1.0})
        serve.delete_backend("a")
        assert {answer["name"] for answer in load.more()} >= {"b"}
        load.more()
    assert load.failures == []


@pytest.mark.runtimes("process", "ray")
def test_a_killed_replica_costs_no_idempotent_request_and_is_replaced(model):
    serve.update_backend_config("a", {"num_replicas": 2})
    with Load(model, "/model", methods=["GET"]) as load:
        before = pids(model, "a")
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        load.more()
        after = until(lambda: len(now := pids(model, "a") - {victim}) == 2 and now)
        assert len(after & before) == 1
        until(lambda: {answer["pid"] for answer in load.more()} == after)
    assert load.failures == []


def test_a_replica_that_is_told_to_end_by_a_signal_hands_its_requests_back(model):
    serve.update_backend_config("a", {"num_replicas": 2})
    with Load(model, "/model") as load:
        before = pids(model, "a")
        os.kill(min(before), signal.SIGTERM)
        until(lambda: len(pids(model, "a") - {min(before)}) == 2)
        load.more()
    assert load.failures == []


def test_requests_wait_for_the_first_replica(serving, client):
    began = time.time()
    serve.create_backend("slow", instance_handlers.Named, "slow", wait=False)
    serve.create_endpoint("slow", "/slow", backend="slow")
    assert client.get("/slow").json()["name"] == "slow"
    (replica,) = replicas(serving, "slow")
    assert replica["started"] >= began

"""A request that kills the replica that gets it."""

from __future__ import annotations

import os
import threading

import pytest
from benchmarks.faults.handlers import AsyncEcho, Echo
from benchmarks.faults.load import ask
from instance_tools import pids, replicas
from tests.support.waiting import until

from servekit.errors import ReplicaDiedError

pytestmark = [pytest.mark.processes, pytest.mark.runtimes("process")]

REPLICAS = 4


@pytest.fixture
def serve(start):
    def serve(echo=Echo, **options):
        instance = start(**options)
        instance.create_backend("echo", echo, config={"num_replicas": REPLICAS})
        instance.create_endpoint("echo", "/echo", ["GET", "POST"], backend="echo")
        return instance

    return serve


def deaths(instance):
    """Once as many as before are ready again: replicas are numbered as they start."""
    ready = until(lambda: len(found := replicas(instance, "echo")) == REPLICAS and found)
    return max(int(replica["id"].partition("-")[0].removeprefix("r")) for replica in ready) - REPLICAS


def kills(instance, method):
    """Whether one more such request has ended a replica; if so, once that is known."""
    before = pids(instance, "echo")
    if "refused for a while" in ask(instance.url, "exit", method=method):
        return False
    until(lambda: before - pids(instance, "echo"))
    return True


@pytest.mark.parametrize(("workers", "method"), [(1, "GET"), (2, "POST")])
def test_a_client_that_sends_it_again_and_again(serve, load, workers, method):
    """It costs three replicas, whichever ingress worker it comes to, and others nothing but what was inside with it."""
    instance = serve(ingress_workers=workers)
    with load(instance) as background:
        while kills(instance, method):
            assert deaths(instance) <= 3
        for _ in range(8):
            assert ask(instance.url, "exit", method=method).startswith("502 ")
        assert deaths(instance) == 3
        background.more()
    assert {(one.method, one.kind) for one in background.failures} <= {("POST", "502")}
    # It is not alone the first time; and never alone for the other ingress worker, which sends to the same replicas.
    assert len(background.failures) <= (2 if workers == 1 else 6)
    until(lambda: instance.stat()["endpoints"]["echo"]["deadly"] >= 9)


def test_one_among_many_in_a_replica(serve, load):
    """All are suspects, and those that are none are answered."""
    instance = serve(AsyncEcho)
    with load(instance) as background:
        slow = [ask_later(instance, "sleep", for_s=0.5, id=f"slow{n}") for n in range(8)]
        while deaths(instance) < 3:
            ask(instance.url, "exit", method="POST")
        answers = [one() for one in slow]
    assert [answer[:3] for answer in answers] == ["200"] * 8
    assert ask(instance.url, "exit", method="POST").startswith("502 ")
    assert {(one.method, one.kind) for one in background.failures} <= {("POST", "502")}
    assert deaths(instance) == 3


def ask_later(instance, do, **more):
    """Send it now; the result gives the answer."""
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(ask(instance.url, do, **more)))
    thread.start()

    def answer():
        thread.join()
        return answers[0]

    return answer


def die(request, how):
    os._exit(how)


def test_a_call_of_a_handle(start):
    instance = start()
    instance.create_backend("echo", die, config={"num_replicas": REPLICAS})
    instance.create_endpoint("echo", backend="echo")
    handle = instance.get_handle("echo")
    errors = []
    for _ in range(4):
        with pytest.raises(ReplicaDiedError) as error:
            handle.remote(3).result(60)
        errors.append("refused for a while" in str(error.value))
        assert deaths(instance) <= 3
    assert errors == [False, False, False, True]

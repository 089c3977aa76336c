"""Ingress workers that are told to end, one after another, while requests and calls keep coming: none is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import instance_handlers
import pytest
from instance_tools import Load
from tests.support.waiting import until

import servekit as serve

pytestmark = pytest.mark.processes

LIMIT_S = 60.0
ROUNDS = 4


@contextlib.contextmanager
def calling(handle: Any, *args: Any) -> Iterator[list[Any]]:
    """Call it over and over while the block runs; gives what came of each call."""
    over, results = threading.Event(), []

    def call() -> None:
        while not over.is_set():
            future = handle.remote(*args)
            results.append(future.exception(LIMIT_S) or future.result())

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield results
    finally:
        over.set()
        thread.join(LIMIT_S)


def ready(instance: serve.Instance) -> list[int]:
    return [worker["pid"] for worker in instance.status()["ingress"] if worker["ready"]]


def replace(instance: serve.Instance, pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    until(lambda: len(pids := ready(instance)) == 2 and pid not in pids)


def test_nothing_is_lost_while_ingress_workers_are_replaced() -> None:
    with serve.init(runtime="process", http_port=0, ingress_workers=2) as instance:
        for name, target in (
            ("named", instance_handlers.Named),
            ("answer", instance_handlers.answer),
            ("outer", instance_handlers.outer),
        ):
            instance.create_backend(name, target, *(["a"] if name == "named" else []))
            instance.create_endpoint(name, f"/{name}", ["GET", "POST"], backend=name)
        answer, outer = instance.get_handle("answer"), instance.get_handle("outer")
        with Load(instance, "/named") as load, calling(answer) as called, calling(outer, "answer") as passed_on:
            for turn in range(ROUNDS):
                replace(instance, ready(instance)[turn % 2])
                load.more()
        assert load.failures == []
        for results in (called, passed_on):
            assert len(results) > ROUNDS
            assert set(results) == {42}

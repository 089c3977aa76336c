"""Requests are explained by whichever ingress worker had them, and so they are to people at the command line."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import instance_handlers
import pytest
from instance_tools import fresh_get
from tests.support.waiting import until

import servekit as serve
from servekit.cli.explain import story_of
from servekit.errors import NotFoundError

pytestmark = [pytest.mark.processes, pytest.mark.runtimes("process")]


@pytest.fixture(scope="module")
def two() -> Iterator[serve.Instance]:
    """An instance with two ingress workers."""
    with serve.init(runtime="process", http_port=0, ingress_workers=2) as instance:
        serve.create_backend("b", instance_handlers.hello)
        serve.create_endpoint("e", "/e", backend="b")
        yield instance


def ids(instance: serve.Instance, number: int) -> list[str]:
    """Of requests on connections of their own, which both workers take."""
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda _: fresh_get(f"{instance.url}/e"), range(number))
        return [answer.headers["x-request-id"] for answer in answers]


def test_each_worker_explains_its_own(two: serve.Instance) -> None:
    seen: set[str] = set()
    until(lambda: seen.update(two.explain(each)["ingress"] for each in ids(two, 16)) or len(seen) == 2)
    with pytest.raises(NotFoundError, match="no request 'none' is remembered"):
        two.explain("none")


def test_what_failed_at_any_worker_is_one_list(two: serve.Instance) -> None:
    serve.create_endpoint("empty", "/empty")
    sent = [f"empty-{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda each: httpx.get(f"{two.url}/empty", headers={"x-request-id": each}), sent))
    found = two.last_requests("failed", "empty", 24)
    assert {each["id"] for each in found} == set(sent)
    assert {each["error"] for each in found} == {"no_traffic"}
    assert [each["came_at"] for each in found] == sorted((each["came_at"] for each in found), reverse=True)
    assert len(two.last_requests("failed", most=3)) == 3


def test_a_worker_that_does_not_answer_is_named(two: serve.Instance) -> None:
    by: dict[str, str] = {}
    until(lambda: by.update((two.explain(each)["ingress"], each) for each in ids(two, 16)) or len(by) == 2)
    stopped, answers = two.status()["ingress"]
    os.kill(stopped["pid"], signal.SIGSTOP)
    try:
        found = two.explain(by[answers["id"]])
        assert found["silent"] == [stopped["id"]]
        assert f"did not answer: {stopped['id']}" in story_of(found)
    finally:
        with contextlib.suppress(ProcessLookupError):  # The controller has another in its place before long.
            os.kill(stopped["pid"], signal.SIGCONT)

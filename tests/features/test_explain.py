"""Why a request went where it went: each unusual way is explained, and told on a screen of 80 columns."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.support.runtimes import NOT_ON_RAY
from tests.support.waiting import until

import servekit
from servekit.cli.explain import WIDTH, list_of, story_of
from servekit.errors import ArgumentError, NotFoundError
from servekit.interfaces import BackendView, RequestInfo, RoutingPolicy
from servekit.testing.instances import ServedInstance

# Ray has a part in what a handler can dial, and none in what is remembered of a request.
pytestmark = NOT_ON_RAY
inprocess = pytest.mark.runtimes("inprocess")


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Handlers in this process wait for it."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def hello(request: Any) -> str:
    return "hello"


def fails(request: Any) -> str:
    raise ValueError("no")


def ask(serve: ServedInstance, request_id: str, path: str = "/e", method: str = "GET") -> int:
    with serve.new_client() as client:
        return client.request(method, path, headers={"x-request-id": request_id}).status_code


def explained(serve: ServedInstance, request_id: str) -> dict[str, Any]:
    """The explanation, once there is one, with a story that fits."""
    found: dict[str, Any] = {}

    def is_there() -> bool:
        try:
            found.update(serve.explain(request_id))
        except NotFoundError:
            return False
        return True

    until(is_there)
    story = story_of(found)
    assert all(len(line) <= WIDTH for line in story.splitlines())
    assert len(story.splitlines()) <= 24
    return found


def words(explanation: dict[str, Any]) -> list[str]:
    return [step["what"] for step in explanation["steps"]]


def test_a_request_that_is_answered(serve: ServedInstance) -> None:
    serve.create_backend("v1", hello)
    serve.create_backend("v2", hello)
    serve.create_endpoint("e", "/e", methods=["GET", "POST"])
    serve.set_traffic("e", {"v1": 0.25, "v2": 0.75})
    assert ask(serve, "mine") == 200
    found = explained(serve, "mine")
    assert (found["endpoint"], found["status"], found["error"], found["pending"]) == ("e", 200, "", False)
    assert (found["policy"], found["weights"]) == ("weighted", {"v1": 0.25, "v2": 0.75})
    assert found["replica"] in [each["id"] for each in serve.status()["backends"][found["backend"]]["replicas"]]
    assert words(found) == ["came", "chosen", "sent", "began", "ended"]
    times = [step["after_s"] for step in found["steps"]]
    assert times == sorted(times)
    serve.delete_endpoint("e")
    assert explained(serve, "mine")["weights"] == {"v1": 0.25, "v2": 0.75}


def test_the_last_of_an_id_is_told(serve: ServedInstance) -> None:
    serve.create_backend("b", hello)
    serve.create_endpoint("e", "/e", ["GET", "POST"], backend="b")
    for method in ("GET", "POST"):
        ask(serve, "twice", method=method)
    found = explained(serve, "twice")
    assert (found["method"], found["times"]) == ("POST", 2)
    assert [other["method"] for other in found["others"]] == ["GET"]
    assert "1 more of this id:" in story_of(found)


def test_one_that_is_not_known(serve: ServedInstance) -> None:
    serve.create_backend("b", hello)
    with pytest.raises(NotFoundError, match=r"no request 'none' is remembered\. "):
        serve.explain("none")
    with pytest.raises(ArgumentError, match="kind must be 'failed' or 'slow', not 'quick'"):
        serve.last_requests("quick")
    with pytest.raises(ArgumentError, match="most must be from 1 to 100, not 0"):
        serve.last_requests("slow", most=0)
    with pytest.raises(NotFoundError, match="no endpoint 'none'"):
        serve.last_requests("slow", "none")


@inprocess
def test_under_way_queued_and_refused(
    serve: ServedInstance, gate: threading.Event, threads: ThreadPoolExecutor
) -> None:
    serve.create_backend("b", lambda request: str(gate.wait(60)), config={"max_queued_requests": 1})
    serve.create_endpoint("e", "/e", backend="b")
    sent = []
    for number in range(3):
        sent.append(threads.submit(ask, serve, f"q{number}"))
        explained(serve, f"q{number}")
    assert ask(serve, "q3") == 503
    assert words(explained(serve, "q0")) == ["came", "chosen", "sent", "pending"]
    assert "has it" in story_of(explained(serve, "q0"))
    assert words(explained(serve, "q2")) == ["came", "chosen", "queued", "pending"]
    full = explained(serve, "q3")
    assert (words(full), full["error"]) == (["came", "chosen", "queue_full", "ended"], "queue_full")
    (loads,) = [step["loads"] for step in full["steps"] if step["what"] == "queue_full"]
    assert list(loads.values()) == [[2, 2]]
    gate.set()
    assert [each.result() for each in sent] == [200] * 3
    queued = explained(serve, "q2")
    assert words(queued) == ["came", "chosen", "queued", "sent", "began", "ended"]
    assert [each["id"] for each in serve.last_requests("failed", "e")][:1] == ["q3"]
    assert "queue_full" in list_of(serve.last_requests("failed"), "failed")


def test_parked_until_a_replica_is_there(serve: ServedInstance) -> None:
    scaling = {"min_replicas": 0, "max_replicas": 1, "downscale_delay_s": 0.01}
    serve.create_backend("b", hello, config={"autoscaling": scaling})
    serve.create_endpoint("e", "/e", backend="b")
    until(lambda: not serve.status()["backends"]["b"]["replicas"])
    assert ask(serve, "parked") == 200
    assert words(explained(serve, "parked")) == ["came", "parked", "chosen", "sent", "began", "ended"]


def test_failed_over(serve: ServedInstance) -> None:
    serve.create_backend("there", hello)
    serve.create_backend("away", hello, config={"num_replicas": 0})
    serve.create_endpoint("e", "/e")
    serve.set_traffic("e", {"there": 0.1, "away": 0.9})
    assert ask(serve, "over") == 200
    found = explained(serve, "over")
    assert words(found) == ["came", "failed_over", "chosen", "sent", "began", "ended"]
    assert found["steps"][1]["says"] == "no replica of away was ready: 'there' had its share"


class Dies:
    """Its process ends at the first call of all."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, request: Any) -> str:
        if not os.path.exists(f"{self.folder}/died"):
            open(f"{self.folder}/died", "x").close()
            os._exit(1)
        return "hello"


@pytest.mark.runtimes("process")
def test_sent_again_when_its_replica_died(serve: ServedInstance, tmp_path: Any) -> None:
    serve.create_backend("b", Dies, str(tmp_path), config={"num_replicas": 2})
    serve.create_endpoint("e", "/e", ["GET", "POST"], backend="b")
    assert ask(serve, "again") == 200
    found = explained(serve, "again")
    sent = [step["replica"] for step in found["steps"] if step["what"] == "sent"]
    assert found["sends"] == len(sent) == 2
    assert sent[0] != sent[1] == found["replica"]
    assert words(found)[:4] == ["came", "chosen", "sent", "lost"]
    os.remove(tmp_path / "died")
    assert ask(serve, "once", method="POST") == 502
    found = explained(serve, "once")
    assert words(found)[-2:] == ["lost", "ended"]
    assert "POST is not to be done twice" in found["steps"][-2]["says"]


@inprocess
def test_its_time_was_over(serve: ServedInstance, gate: threading.Event) -> None:
    serve.create_backend("b", lambda request: str(gate.wait(60)))
    serve.create_endpoint("e", "/e", backend="b", timeout_s=0.05)
    assert ask(serve, "late") == 504
    found = explained(serve, "late")
    assert found["error"] == "deadline"
    assert found["steps"][-1]["says"].startswith("answered 504 (deadline): its time was over while replica r")


class NoChoice(RoutingPolicy):
    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        raise ValueError("no choice")


@inprocess
def test_what_its_policy_and_its_handler_failed_of(serve: ServedInstance) -> None:
    serve.create_backend("b", fails)
    serve.create_endpoint("chosen", "/chosen", backend="b")
    serve.create_endpoint("not_chosen", "/not_chosen", backend="b", policy=NoChoice())
    assert (ask(serve, "handler", "/chosen"), ask(serve, "policy", "/not_chosen")) == (500, 500)
    handler, policy = explained(serve, "handler"), explained(serve, "policy")
    assert handler["steps"][-1]["says"].startswith("answered 500: the handler raised")
    assert (words(policy), policy["error"], policy["backend"]) == (["came", "ended"], "policy_failed", "")


@inprocess
def test_its_client_went_away(serve: ServedInstance, gate: threading.Event) -> None:
    serve.create_backend("b", lambda request: str(gate.wait(60)))
    serve.create_endpoint("e", "/e", backend="b")
    with serve.new_client() as client, pytest.raises(httpx.ReadTimeout):
        client.get("/e", headers={"x-request-id": "left"}, timeout=0.05)
    until(lambda: not serve.explain("left")["pending"])
    found = explained(serve, "left")
    assert found["status"] == 499
    assert found["steps"][-1]["says"].startswith("the client went away while replica r")


def calls_e(request: Any) -> Any:
    return servekit.get_handle("e").remote(request.args["id"]).result()


def own_id(request: Any, value: Any) -> str:
    return str(servekit.get_context().request_id)


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_the_call_of_a_handle(serve: ServedInstance) -> None:
    serve.create_backend("inner", own_id)
    serve.create_backend("outer", calls_e)
    serve.create_endpoint("e", backend="inner")
    serve.create_endpoint("outer", "/outer", backend="outer")
    assert serve.client.get("/outer?id=1", headers={"x-request-id": "calls"}).text == "calls"
    outer = explained(serve, "calls")
    (inner,) = outer["others"]
    assert (outer["endpoint"], inner["endpoint"]) == ("outer", "e")
    assert (outer["chain"], inner["chain"]) == ([], [outer["replica"]])
    assert f"a handle called endpoint 'e' in {outer['replica']}: 200" in " ".join(story_of(outer).split())


def test_what_was_slow_is_listed(serve: ServedInstance) -> None:
    serve.create_backend("b", hello)
    serve.create_endpoint("e", "/e", backend="b")
    until(lambda: [ask(serve, "slow") for _ in range(30)] and serve.last_requests("slow", "e"), 60)
    (first, *_) = slow = serve.last_requests("slow", "e", 3)
    assert first["endpoint"] == "e"
    assert list_of(slow, "slow").splitlines()[0].split() == ["TIME", "TOOK", "STATUS", "ENDPOINT", "BACKEND", "ID"]
    assert list_of([], "slow") == "no request that was slow is remembered"

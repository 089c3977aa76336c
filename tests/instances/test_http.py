"""What a client sees of one instance over HTTP."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import instance_handlers
import pytest
from instance_tools import Process, fresh_get, pids, replicas
from tests.support.waiting import until

import servekit as serve
from servekit.errors import InvalidInputError

pytestmark = [
    pytest.mark.processes,
    pytest.mark.runtimes("process"),
]


@pytest.fixture
def gated(serving, tmp_path):
    """A replica that waits for a gate, with one place in the queue; the folder of its files."""
    serve.create_backend("gated", instance_handlers.Gated, str(tmp_path), config={"max_queued_requests": 1})
    serve.create_endpoint("patient", "/patient", backend="gated")
    serve.create_endpoint("hasty", "/hasty", backend="gated", timeout_s=0.3)
    yield tmp_path
    (tmp_path / "gate").touch()


def begun(folder: Path) -> list[str]:
    return (folder / "began").read_text().split() if (folder / "began").exists() else []


def test_a_late_answer_is_a_504_and_its_slot_is_held(gated, client):
    answer = client.get("/hasty?name=late&wait=1")
    assert answer.status_code == 504
    assert "'hasty'" in answer.text
    assert "0.3 s" in answer.text
    assert answer.headers["x-request-id"]
    # The handler still runs, so what comes now waits for it, past its own deadline: it is never begun.
    assert client.get("/hasty?name=waited").status_code == 504
    assert begun(gated) == ["late"]
    (gated / "gate").touch()
    assert client.get("/patient?name=next").text == "next"
    assert begun(gated) == ["late", "next"]


def test_a_full_queue_is_a_503_at_once(gated, instance):
    with httpx.Client(base_url=instance.url, timeout=60) as client, ThreadPoolExecutor(8) as threads:
        first = threads.submit(client.get, "/patient?name=first&wait=1")
        until(lambda: begun(gated))
        others = [threads.submit(client.get, "/patient?name=other&wait=1") for _ in range(6)]
        until(lambda: [other for other in others if other.done()])
        (gated / "gate").touch()
        answers = [other.result() for other in others]
    assert first.result().text == "first"
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused
    assert all("'gated'" in answer.text and int(answer.headers["retry-after"]) > 0 for answer in refused)
    answered = [answer for answer in answers if answer.status_code == 200]
    # One in the queue at least; how many were handed over ahead is the window's affair.
    assert len(answered) >= 1
    assert len(answered) + len(refused) == 6
    assert len(begun(gated)) == 1 + len(answered)


def test_a_client_that_goes_away_is_not_worked_for(gated, instance, client):
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(fresh_get, f"{instance.url}/patient?name=first&wait=1")
        until(lambda: begun(gated))
        with pytest.raises(httpx.ReadTimeout):
            fresh_get(f"{instance.url}/patient?name=impatient", 0.2)
        until(lambda: _counted("patient", 499))
        (gated / "gate").touch()
        assert first.result().text == "first"
    assert client.get("/patient?name=next").text == "next"
    assert begun(gated) == ["first", "next"]


def _counted(endpoint: str, status: int) -> bool:
    return str(status) in serve.stat()["endpoints"].get(endpoint, {"by_status": {}})["by_status"]


def test_what_has_no_place_to_go(serving, client):
    assert "/-/routes" in client.get("/nowhere").text
    assert client.get("/nowhere").status_code == 404
    serve.create_endpoint("idle", "/idle", ["POST"])
    wrong = client.get("/idle")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "OPTIONS, POST")
    empty = client.post("/idle")
    assert empty.status_code == 503
    assert "'idle'" in empty.text
    assert "set_traffic" in empty.text
    serve.create_backend("none", instance_handlers.hello, config={"num_replicas": 0})
    serve.set_traffic("idle", {"none": 1.0})
    none = client.post("/idle")
    assert none.status_code == 503
    assert "num_replicas 0" in none.text


def test_head_and_options_as_in_flask(serving, client):
    serve.create_backend("hello", instance_handlers.hello)
    serve.create_endpoint("hello", "/hello", backend="hello")
    options = client.options("/hello")
    assert (options.status_code, options.headers["allow"]) == (200, "GET, HEAD, OPTIONS")
    head = client.head("/hello")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "11")
    assert client.get("/-/healthz").status_code == 200


def test_request_ids(serving, client):
    def own_id(request):
        return request.headers.get("X-Request-ID", "none")

    serve.create_backend("hello", own_id)
    serve.create_endpoint("hello", "/hello", backend="hello")
    taken = client.get("/hello", headers={"X-Request-ID": "mine-1"})
    assert (taken.headers["x-request-id"], taken.text) == ("mine-1", "mine-1")
    made = [client.get("/hello").headers["x-request-id"] for _ in range(20)]
    assert len(set(made)) == 20
    for unfit in ("x" * 1000, "a\tb", "caf\u00e9".encode()):
        assert client.get("/hello", headers={"X-Request-ID": unfit}).headers["x-request-id"] not in (unfit, "", None)
    assert client.get("/nowhere", headers={"X-Request-ID": "mine-2"}).headers["x-request-id"] == "mine-2"


def test_only_listed_methods_can_be_called(serving, client):
    with pytest.raises(InvalidInputError, match="callable_methods has 'absent', which .*Counter lacks"):
        serve.create_backend("counter", instance_handlers.Counter, config={"callable_methods": ["shout", "absent"]})
    serve.create_backend("counter", instance_handlers.Counter, config={"callable_methods": ["shout"]})
    serve.create_endpoint("counter", "/counter", backend="counter")

    def call(method):
        return client.get("/counter", headers={"X-SERVE-CALL-METHOD": method})

    assert call("shout").text == "SHOUT"
    assert client.get("/counter").text == "1"
    for method in ("secret", "absent", "__init__", "count", ""):
        refused = call(method)
        assert refused.status_code == 400
        assert "callable_methods" in refused.text
    serve.update_backend_config("counter", {"callable_methods": ["secret"]})
    assert call("secret").text == "secret"
    assert call("shout").status_code == 400
    assert client.get("/counter").text == "2", "the replica is the same: it took the change over"


def test_bodies_of_many_sizes(serving, client):
    serve.create_backend("echo", instance_handlers.echo)
    serve.create_endpoint("echo", "/echo", ["POST"], backend="echo")
    for size in (0, 1, 65_535, 65_536, 65_537, 5_000_000):
        body = os.urandom(size)
        assert client.post("/echo", content=body).content == body


def test_a_version_without_a_replica(serving, client):
    serve.create_backend("up", instance_handlers.hello)
    serve.create_backend("down", instance_handlers.hello, config={"num_replicas": 0})
    serve.create_endpoint("lenient", "/lenient")
    serve.create_endpoint("strict", "/strict", strict=True)
    for endpoint in ("lenient", "strict"):
        serve.set_traffic(endpoint, {"up": 0.5, "down": 0.5})
    assert [client.get("/lenient").status_code for _ in range(10)] == [200] * 10
    assert sorted(client.get("/strict").status_code for _ in range(10)) == [200] * 5 + [503] * 5


def test_a_poisonous_request_does_not_walk_through_all_replicas(serving, client):
    serve.create_backend("faulty", instance_handlers.faulty, config={"num_replicas": 4})
    serve.create_endpoint("faulty", "/faulty", ["GET", "POST"], backend="faulty")
    before = pids(serving, "faulty")
    posted = client.post("/faulty?how=die")
    assert posted.status_code == 502, "it may have been carried out, so it is not sent again"
    assert "'faulty'" in posted.text
    until(lambda: sum(not Process(pid).is_there for pid in before) == 1)
    assert client.get("/faulty?how=die").status_code == 502
    until(lambda: sum(not Process(pid).is_there for pid in before) == 3)
    assert client.get("/faulty").status_code == 200
    until(lambda: len(replicas(serving, "faulty")) == 4)
    assert len(pids(serving, "faulty") & before) == 1


def test_counts(serving, client):
    serve.create_backend("hello", instance_handlers.hello)
    serve.create_endpoint("counted", "/counted", backend="hello")
    for _ in range(5):
        client.get("/counted")
    client.post("/counted")
    counts = until(lambda: (now := serve.stat()["endpoints"].get("counted")) and now["requests"] >= 6 and now)
    assert counts["by_status"] == {"200": 5, "405": 1}
    assert serve.stat()["backends"]["hello"]["requests"] >= 5


def test_outstanding_requests_are_shown(gated, instance):
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(fresh_get, f"{instance.url}/patient?name=first&wait=1")
        began = time.time()
        until(lambda: [r for r in replicas(instance, "gated") if r["outstanding"] == 1 and r["busy_s"] > 0])
        (gated / "gate").touch()
        assert first.result().status_code == 200
        until(lambda: [r for r in replicas(instance, "gated") if r["outstanding"] == 0 and r["busy_s"] == 0])
        assert replicas(instance, "gated")[0]["started"] <= began

"""Copies of requests: what is copied, what is dropped, and that live requests know nothing of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import flask
import pytest
from tests.support.waiting import until

import servekit
from servekit.errors import ArgumentError, InUseError, InvalidInputError, NotFoundError
from servekit.ingress.shadow import MOST_BODY_BYTES, MOST_IN_FLIGHT, MOST_WAITING
from servekit.testing.instances import ServedInstance


class Seen:
    """A handler that keeps what it was sent."""

    def __init__(self, answer: Any = "new") -> None:
        self.answer = answer
        self.copies: list[dict[str, Any]] = []
        self.live = 0

    def __call__(self, request: flask.Request) -> Any:
        context = servekit.get_context()
        if not context.shadow:
            self.live += 1
            return self.answer
        self.copies.append(
            {
                "path": request.full_path,
                "header": request.headers.get("x-servekit-shadow"),
                "body": request.get_data(),
                "id": context.request_id,
                "client": request.remote_addr,
                "method": request.method,
                "mine": request.headers.get("x-mine"),
            }
        )
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Gate:
    """A handler that holds copies until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.came = 0

    def __call__(self, request: flask.Request) -> str:
        if servekit.get_context().shadow:
            self.came += 1
            self.open.wait(60)
        return "old"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def serve(live: Any, copied: Any, *, config: dict[str, Any] | None = None, **how: Any) -> None:
    """An endpoint ``e`` whose requests ``live`` answers, with ``copied`` for its shadow."""
    servekit.create_backend("v1", live)
    servekit.create_backend("v3", copied, config=config)
    servekit.create_endpoint("e", "/e", ["GET", "POST"], backend="v1")
    servekit.shadow("e", "v3", **{"share": 1.0, "noise": 0.0, **how})


def report() -> dict[str, Any]:
    return servekit.shadow_report("e")


def dropped(why: str) -> int:
    return int(report()["dropped"].get(why, 0))


class Live:
    """A handler that answers each request alike."""

    def __call__(self, request: flask.Request) -> str:
        return "old"


def test_a_handler_can_tell_and_the_copy_is_the_request(serve_instance: ServedInstance) -> None:
    seen = Seen()
    serve(Live(), seen)
    headers = {"x-request-id": "mine", "x-mine": "1", "x-servekit-shadow": "forged"}
    assert serve_instance.client.get("/e?a=b", headers=headers).text == "old"
    until(lambda: seen.copies)
    assert seen.copies == [
        {
            "path": "/e?a=b",
            "header": "1",
            "body": b"",
            "id": "mine~shadow",
            "client": seen.copies[0]["client"],
            "method": "GET",
            "mine": "1",
        }
    ]


def test_no_client_can_pretend_to_be_a_shadow(serve_instance: ServedInstance) -> None:
    seen = Seen()
    servekit.create_backend("v1", seen)
    servekit.create_endpoint("e", "/e", backend="v1")
    assert serve_instance.client.get("/e", headers={"x-servekit-shadow": "1"}).text == "new"
    assert (seen.live, seen.copies) == (1, [])


def test_each_nth_request_is_copied(serve_instance: ServedInstance) -> None:
    seen = Seen()
    serve(Live(), seen, share=0.1)
    for _ in range(40):
        assert serve_instance.client.get("/e").text == "old"
    until(lambda: len(seen.copies) >= 4)
    until(lambda: report()["pairs"] == 4)
    assert report()["sent"] == report()["answered"] == report()["differing"] == 4


def test_what_changes_things_is_copied_only_when_asked_for(serve_instance: ServedInstance) -> None:
    seen = Seen()
    serve(Live(), seen)
    for _ in range(3):
        assert serve_instance.client.post("/e", content=b"data").text == "old"
    assert serve_instance.client.get("/e").text == "old"
    until(lambda: seen.copies)
    assert [copy["method"] for copy in seen.copies] == ["GET"]
    servekit.shadow("e", "v3", share=1.0, noise=0.0, include_unsafe=True)
    assert serve_instance.client.post("/e", content=b"data").text == "old"
    until(lambda: len(seen.copies) == 2)
    assert (seen.copies[1]["method"], seen.copies[1]["body"]) == ("POST", b"data")


def test_a_shadow_that_hangs_is_nobodys_matter(serve_instance: ServedInstance, gate: Gate) -> None:
    serve(Live(), gate, timeout_s=0.2)
    requests = MOST_WAITING * 2
    for _ in range(requests):
        assert serve_instance.client.get("/e").text == "old"
    until(lambda: report()["late"] >= 1)
    told = until(lambda: (found := report())["sent"] + sum(found["dropped"].values()) == requests and found)
    assert gate.came == 1
    assert told["sent"] <= MOST_IN_FLIGHT
    assert told["dropped"].keys() <= {"queue_full", "no_room"}
    assert told["answered"] == told["pairs"] == 0
    stat = servekit.stat()
    assert stat["endpoints"]["e"]["by_status"] == {"200": requests}
    assert stat["backends"]["v3"]["requests"] == 0


def test_the_queue_is_bounded_and_what_is_too_much_is_counted(serve_instance: ServedInstance, gate: Gate) -> None:
    serve(Live(), gate)
    most = MOST_WAITING + MOST_IN_FLIGHT + 20
    for _ in range(most):
        assert serve_instance.client.get("/e").text == "old"
    until(lambda: gate.came == 1)
    until(lambda: dropped("queue_full") > 0)
    gate.open.set()
    told = until(lambda: (found := report())["answered"] + sum(found["dropped"].values()) == most and found)
    assert told["answered"] >= MOST_WAITING
    until(lambda: report()["pairs"] == told["answered"])


@pytest.mark.filterwarnings("ignore")
def test_a_shadow_that_raises_ejects_nothing_and_is_in_no_count(serve_instance: ServedInstance) -> None:
    seen = Seen(ValueError("not ready"))
    serve(Live(), seen, config={"num_replicas": 2})
    for _ in range(30):
        assert serve_instance.client.get("/e").text == "old"
    until(lambda: report()["pairs"] == 30)
    (path,) = report()["paths"]
    assert (path["path"], path["kind"], path["count"]) == ("status", "value", 30)
    assert path["examples"][0]["live"] == "200"
    assert path["examples"][0]["shadow"] == "500"
    assert servekit.events(kind="replica_ejected", backend="v3") == []
    assert servekit.stat()["backends"]["v3"]["by_status"] == {}
    assert servekit.last_requests("failed") == []


def test_a_shadow_without_replicas_drops(serve_instance: ServedInstance) -> None:
    serve(Live(), Seen(), config={"num_replicas": 0})
    assert serve_instance.client.get("/e").text == "old"
    until(lambda: dropped("no_replica") == 1)
    assert report()["sent"] == 0


def test_what_is_too_long_or_comes_in_pieces_is_not_copied(serve_instance: ServedInstance) -> None:
    seen = Seen()

    def answer(request: flask.Request) -> Any:
        if request.args.get("how") == "pieces":
            return flask.Response(iter(["a", "b"]))
        return "x" * (MOST_BODY_BYTES + 1) if request.args.get("how") == "long" else "old"

    serve(answer, seen, include_unsafe=True)
    client = serve_instance.client
    assert client.get("/e?how=pieces").text == "ab"
    assert len(client.get("/e?how=long").text) > MOST_BODY_BYTES
    assert client.post("/e", content=b"x" * (MOST_BODY_BYTES + 1)).text == "old"
    told = until(lambda: (found := report()["dropped"]).get("long_body") and found)
    assert told == {"in_pieces": 2, "long_body": 1}
    assert client.get("/e").text == "old"
    until(lambda: seen.copies)
    assert len(seen.copies) == 1


def test_an_answer_in_pieces_of_the_shadow_fails_alone(serve_instance: ServedInstance) -> None:
    serve(Live(), lambda request: flask.Response(iter(["a", "b"])))
    assert serve_instance.client.get("/e").text == "old"
    until(lambda: report()["failed"] == 1)
    assert serve_instance.client.get("/e").text == "old"
    until(lambda: report()["failed"] == 2)


def test_requests_that_no_version_has_answered_are_not_copied(serve_instance: ServedInstance) -> None:
    serve(Live(), Seen())
    servekit.update_backend_config("v1", {"num_replicas": 0})
    assert serve_instance.client.get("/e").status_code == 503
    until(lambda: dropped("not_answered") == 1)


def test_noise_is_told_from_what_is_new(serve_instance: ServedInstance) -> None:
    lock, counts = threading.Lock(), {"n": 0}

    def noisy(k: int) -> Any:
        def answer(request: flask.Request) -> Any:
            with lock:
                counts["n"] += 1
            return {"k": k, "same": "x", **{f"noise{n}": counts["n"] for n in range(10)}}

        return answer

    serve(noisy(1), noisy(2), noise=0.5)
    for _ in range(20):
        assert serve_instance.client.get("/e").json()["k"] == 1
    # A repeat goes only where no live request has the slot, so some are dropped.
    told = until(lambda: serve_instance.client.get("/e").json()["k"] == 1 and (r := report())["repeats"] >= 15 and r)
    assert [(each["path"], each["kind"]) for each in told["paths"]] == [("/k", "value")]
    assert told["differing"] == told["paths"][0]["count"] == told["pairs"]
    assert told["noisy_paths"] == 10


def test_the_shadow_of_a_version_that_serves_as_well(serve_instance: ServedInstance) -> None:
    """What that version has answered itself is not copied to it."""
    seen = Seen("old")
    serve(Live(), seen)
    servekit.set_traffic("e", {"v1": 0.5, "v3": 0.5})
    for _ in range(20):
        assert serve_instance.client.get("/e").text == "old"
    assert seen.live == 10
    until(lambda: (found := report())["answered"] + sum(found["dropped"].values()) == 10)
    assert len(seen.copies) == report()["answered"]


def test_it_is_stopped_and_begun_again(serve_instance: ServedInstance) -> None:
    seen = Seen()
    serve(Live(), seen)
    assert serve_instance.client.get("/e").text == "old"
    until(lambda: report()["pairs"] == 1)
    with pytest.raises(InUseError, match="is the shadow of 'e'"):
        servekit.delete_backend("v3")
    servekit.set_traffic("e", {"v1": 1.0})
    assert servekit.status()["shadows"]["e"]["backend"] == "v3"
    servekit.stop_shadow("e")
    assert servekit.status()["shadows"] == {}
    assert serve_instance.client.get("/e").text == "old"
    with pytest.raises(NotFoundError, match="has no shadow"):
        servekit.shadow_report("e")
    servekit.shadow("e", "v3", share=1.0, noise=0.0)
    assert (report()["pairs"], report()["sent"]) == (0, 0)
    assert serve_instance.client.get("/e").text == "old"
    until(lambda: report()["pairs"] == 1)
    assert len(seen.copies) == 2
    servekit.delete_endpoint("e")
    servekit.delete_backend("v3")
    assert [each["kind"] for each in servekit.events(endpoint="e")][-3:] == [
        "shadow_stopped",
        "shadow_started",
        "endpoint_deleted",
    ]


def test_a_function_of_the_users_is_refused_where_it_cannot_be_loaded(serve_instance: ServedInstance) -> None:
    servekit.create_backend("v1", Live)
    servekit.create_backend("v3", Live)
    servekit.create_endpoint("e", "/e", backend="v1")
    with pytest.raises(InvalidInputError, match="compare: the controller cannot load it"):
        servekit.shadow("e", "v3", compare="no_such_module:function")
    with pytest.raises(InvalidInputError, match="cannot import __main__"):
        servekit.shadow("e", "v3", redact="__main__:function")
    assert servekit.status()["shadows"] == {}


def test_nothing_is_compared_when_that_is_asked_for(serve_instance: ServedInstance) -> None:
    seen = Seen()
    serve(Live(), seen, compare=None, noise=1.0)
    assert serve_instance.client.get("/e").text == "old"
    until(lambda: report()["answered"] == 1)
    assert (report()["pairs"], report()["repeats_sent"]) == (0, 0)


class Methods:
    def __call__(self, request: flask.Request) -> str:
        return "called"

    def named(self, request: flask.Request) -> str:
        return "named"


def test_a_method_that_clients_may_not_call_there_is_not_called_by_a_copy(serve_instance: ServedInstance) -> None:
    servekit.create_backend("v1", Methods, config={"callable_methods": ["named"]})
    servekit.create_backend("v3", Methods)
    servekit.create_endpoint("e", "/e", backend="v1")
    servekit.shadow("e", "v3", share=1.0, noise=0.0)
    assert serve_instance.client.get("/e", headers={"X-Serve-Call-Method": "named"}).text == "named"
    until(lambda: dropped("not_callable") == 1)
    servekit.update_backend_config("v3", {"callable_methods": ["named"]})
    assert serve_instance.client.get("/e", headers={"X-Serve-Call-Method": "named"}).text == "named"
    until(lambda: report()["pairs"] == 1)
    assert report()["differing"] == 0


def test_a_backend_that_answers_live_requests_gets_one_copy_at_a_time(
    serve_instance: ServedInstance, gate: Gate
) -> None:
    serve(Live(), gate, config={"max_concurrent_queries": 2})
    servekit.create_endpoint("other", "/other", backend="v3")
    for _ in range(10):
        assert serve_instance.client.get("/e").text == "old"
    until(lambda: gate.came == 1)
    for _ in range(10):
        assert serve_instance.client.get("/other").text == "old"
    assert gate.came == 1
    assert report()["sent"] == 1


def test_a_change_of_options_or_traffic_keeps_it_and_history_is_of_traffic(serve_instance: ServedInstance) -> None:
    tables: dict[str, Any] = {
        "endpoints": {"e": {"route": "/e", "traffic": {"v1": 1.0}}},
        "backends": {name: {"target": f"{__name__}:Live"} for name in ("v1", "v3")},
    }
    servekit.apply(servekit.plan(tables))
    before = servekit.history("e")
    servekit.shadow("e", "v3", share=1.0, noise=0.0)
    assert servekit.history("e") == before
    assert servekit.plan(tables).steps == []
    tables["endpoints"]["e"]["timeout_s"] = 30.0
    servekit.apply(servekit.plan(tables))
    assert serve_instance.client.get("/e").text == "old"
    until(lambda: report()["pairs"] == 1)
    del tables["backends"]["v3"]
    with pytest.raises(InUseError, match="is the shadow of 'e'"):
        servekit.plan(tables)
    servekit.stop_shadow("e")
    servekit.apply(servekit.plan(tables))
    assert list(servekit.list_backends()) == ["v1"]


def test_as_the_first_ray_serve_had_it(serve_instance: ServedInstance) -> None:
    seen = Seen()
    servekit.create_backend("v1", Live)
    servekit.create_backend("v3", seen)
    servekit.create_endpoint("e", "/e", ["POST"], backend="v1")
    servekit.shadow_traffic("e", {"v3": 1.0})
    assert serve_instance.client.post("/e").text == "old"
    until(lambda: report()["answered"] == 1)
    assert report()["compare"] is None
    servekit.shadow_traffic("e", "v3", 0.5)
    assert report()["share"] == 0.5
    servekit.shadow_traffic("e", "v3", 0)
    assert servekit.status()["shadows"] == {}
    with pytest.raises(ArgumentError, match="an endpoint has one shadow"):
        servekit.shadow_traffic("e", {"v1": 0.1, "v3": 0.1})
    with pytest.raises(ArgumentError, match="an endpoint has one shadow"):
        servekit.shadow_traffic("e", "v3")

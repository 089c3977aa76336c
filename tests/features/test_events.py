"""What has happened, and what was raised, as an instance tells of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.waiting import until

import servekit
from servekit.control import refusals
from servekit.control.event_ring import MOST_EVENTS
from servekit.errors import BackendStartError, ServekitError
from servekit.testing.instances import ServedInstance

pytestmark = pytest.mark.runtimes("inprocess", "process")


def hello(request: Any) -> str:
    return "hello"


class Fails:
    """In the way that it is told."""

    def __init__(self, how: str = "") -> None:
        if how == "build":
            raise LookupError("no such weights")
        self.how = how

    def __call__(self, request: Any) -> str:
        return {}["no such key"]  # type: ignore[no-any-return]

    def reconfigure(self, user_config: Any) -> None:
        if user_config == "bad":
            raise ValueError("a bad one")

    def check_health(self) -> None:
        if self.how == "ill":
            raise RuntimeError("it is ill")


def raised_here(serve: ServedInstance, backend: str) -> list[dict[str, Any]]:
    """Without what handlers of other tests have raised in the same instance."""
    return [each for each in serve.failures(backend) if each["file"] == __file__]


def last(serve: ServedInstance) -> int:
    """The number of the last event."""
    events = serve.events()
    return int(events[-1]["number"]) if events else 0


def kinds(serve: ServedInstance, since: int, **about: Any) -> list[str]:
    """Of what people have done."""
    events = serve.events(since, **about)
    return [each["kind"] for each in events if not each["kind"].startswith(("replica_", "ingress_", "refusals_"))]


def test_changes_are_told_with_who_made_them(serve: ServedInstance) -> None:
    began = last(serve)
    serve.create_backend("b", hello)
    serve.create_endpoint("e", "/e", backend="b")
    serve.create_backend("c", hello, config={"num_replicas": 0})
    serve.set_traffic("e", {"b": 0.5, "c": 0.5})
    serve.update_backend_config("b", {"num_replicas": 2, "max_queued_requests": 7})
    serve.restart_backend("b")
    serve.delete_endpoint("e")
    serve.delete_backend("c")
    assert kinds(serve, began) == [
        *("backend_created", "endpoint_created", "traffic_set", "backend_created", "traffic_set"),
        *("backend_scaled", "backend_changed", "backend_restarted", "endpoint_deleted", "backend_deleted"),
    ]
    assert kinds(serve, began, backend="c") == ["backend_created", "backend_deleted"]
    assert kinds(serve, began, endpoint="e", kind="traffic_set") == ["traffic_set", "traffic_set"]
    traffic = serve.events(began, kind="traffic_set")[-1]
    assert (traffic["text"], traffic["detail"]) == ("endpoint e has traffic: b 0.5, c 0.5", "it was: b 1")
    assert "(pid " in traffic["who"]
    ready = until(lambda: [each for each in serve.events(began, backend="b") if each["kind"] == "replica_ready"])
    ended = until(lambda: serve.events(began, backend="b", kind="replica_ended"))
    assert {each["who"] for each in ready + ended} == {""}


def test_a_change_that_fails_is_put_back_and_told(serve: ServedInstance) -> None:
    began = last(serve)
    with pytest.raises(BackendStartError):
        serve.create_backend("b", Fails, "build")
    assert kinds(serve, began) == ["backend_created", "backend_put_back"]
    (back,) = serve.events(began, kind="backend_put_back")
    assert back["text"] == "backend b is gone again"
    assert "no such weights" in back["detail"]
    failed = until(lambda: serve.events(began, backend="b", kind="replica_failed"))
    assert "LookupError: no such weights" in failed[0]["text"]


def test_deploys_and_rollbacks(serve: ServedInstance) -> None:
    def tables(**config: Any) -> dict[str, Any]:
        backend = {"target": f"{__name__}:Fails", "config": {"user_config": "good", **config}}
        return {"endpoints": {"e": {"route": "/e", "traffic": {"b": 1.0}}}, "backends": {"b": backend}}

    began = last(serve)
    serve.apply(serve.plan(tables()))
    assert kinds(serve, began) == ["deploy_began", "backend_created", "endpoint_created", "traffic_set", "deploy_done"]
    assert serve.events(began, kind="deploy_began")[0]["detail"] == "create backend b; create endpoint e"
    second = last(serve)
    with pytest.raises(BackendStartError):
        serve.apply(serve.plan(tables(user_config="bad")))
    assert kinds(serve, second) == ["deploy_began", "backend_changed", "backend_put_back", "deploy_failed"]
    (failed,) = serve.events(second, kind="deploy_failed")
    assert "what was served before is back" in failed["text"]
    assert "a bad one" in failed["detail"]
    serve.create_backend("c", hello)
    serve.set_traffic("e", {"c": 1.0})
    third = last(serve)
    serve.rollback("e")
    assert kinds(serve, third) == ["rollback_began", "traffic_set", "rollback_done"]
    assert [each["endpoint"] for each in serve.events(third, endpoint="e")] == ["e"] * 3
    serve.apply(serve.plan(tables()))
    fourth = last(serve)
    serve.apply(serve.plan(tables()))  # Nothing to do, and so nothing to tell.
    assert kinds(serve, fourth) == []


@pytest.mark.runtimes("inprocess")
def test_refusals_begin_and_end(serve: ServedInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "QUIET_S", 0.1)
    began = last(serve)
    serve.create_endpoint("e", "/e")
    for _ in range(3):
        assert serve.client.get("/e").status_code == 503
    assert serve.client.post("/e").status_code == 405
    (first,) = until(lambda: serve.events(began, kind="refusals_began"))
    assert (first["text"], first["detail"], first["endpoint"]) == (
        "endpoint e refuses requests: no_traffic",
        "no_traffic",
        "e",
    )
    (ended,) = until(lambda: serve.events(began, kind="refusals_ended"))
    assert "endpoint e has refused 3 requests" in ended["text"]


@pytest.mark.runtimes("inprocess")
def test_a_replica_that_fails_again_and_again_is_a_few_events(serve: ServedInstance) -> None:
    began = last(serve)
    serve.create_backend("b", Fails, "build", wait=False)
    until(lambda: any(each["count"] > 2 for each in serve.events(began, kind="replica_failed")))
    failed = serve.events(began, kind="replica_failed")
    assert len(failed) == 3
    assert failed[-1]["first_at"] < failed[-1]["at"]
    assert len(serve.events(began, kind="replica_started")) == 3
    assert until(lambda: [each for each in raised_here(serve, "b") if each["count"] > 4])[0]["what"] == "build"


@pytest.mark.runtimes("inprocess")
def test_the_last_two_thousand_are_kept(serve: ServedInstance) -> None:
    serve.create_endpoint("e", "/e")
    serve.create_backend("b", hello, config={"num_replicas": 0})
    began = last(serve)
    for _ in range(MOST_EVENTS + 1):
        serve.set_traffic("e", {"b": 1.0})
    events = serve.events()
    assert len(events) == MOST_EVENTS
    assert events[-1]["number"] >= began + MOST_EVENTS + 1
    assert serve.events(since=events[-2]["number"]) == events[-1:]


def test_what_handlers_raise_is_grouped_by_where(serve: ServedInstance) -> None:
    serve.create_backend("b", Fails, config={"user_config": "good"})
    serve.create_endpoint("e", "/e", backend="b")
    before = {id_["request_id"] for id_ in serve.failures()}
    ids = [serve.client.get("/e").headers["x-request-id"] for _ in range(5)]
    (call,) = until(lambda: [each for each in raised_here(serve, "b") if each["count"] == 5])
    assert (call["what"], call["type"], call["function"], call["file"]) == (
        "call",
        "KeyError",
        "Fails.__call__",
        __file__,
    )
    assert (call["endpoint"], call["request_id"]) == ("e", ids[-1])
    assert ids[-1] not in before
    assert call["first_at"] <= call["last_at"]
    assert call["traceback"].endswith("KeyError: 'no such key'")
    with pytest.raises(BackendStartError):
        serve.update_backend_config("b", {"user_config": "bad"})
    refused = until(lambda: [each for each in raised_here(serve, "b") if each["what"] == "reconfigure"])
    assert [(each["type"], each["function"]) for each in refused] == [("ValueError", "Fails.reconfigure")]
    with pytest.raises(BackendStartError):
        serve.create_backend("broken", Fails, "build")
    (build,) = raised_here(serve, "broken")  # Told before the replica's end was.
    assert (build["what"], build["type"], build["function"]) == ("build", "LookupError", "Fails.__init__")
    assert "no such weights" in build["traceback"]


class Front:
    """Calls ``inner`` by a handle, in the way that the request says."""

    def __init__(self) -> None:
        self.inner = servekit.get_handle("inner")

    def __call__(self, request: Any) -> str:
        how = request.args["how"]
        called = self.inner.options(method_name="items") if how == "items" else self.inner
        try:
            list(called.remote().result(30))
        except LookupError as error:
            return str(error)
        return "nothing was raised"


class Inner:
    def __call__(self, request: Any) -> str:
        raise LookupError("called")

    def items(self, request: Any) -> Iterator[int]:
        yield 1
        raise LookupError("an item")


def test_what_a_handle_calls_and_is_raised_is_told_as_well(serve: ServedInstance) -> None:
    serve.create_backend("inner", Inner)
    serve.create_endpoint("inner", backend="inner")
    serve.create_backend("front", Front)
    serve.create_endpoint("front", "/front", backend="front")
    ids = {how: serve.client.get("/front", params={"how": how}).headers["x-request-id"] for how in ("call", "items")}
    found = until(lambda: len(each := raised_here(serve, "inner")) == 2 and each)
    assert [(each["what"], each["type"], each["function"], each["count"]) for each in found] == [
        ("call", "LookupError", "Inner.__call__", 1),
        ("call", "LookupError", "Inner.items", 1),
    ]
    assert [each["request_id"] for each in found] == [*ids.values()]
    assert {each["endpoint"] for each in found} == {"inner"}
    assert raised_here(serve, "front") == []


def test_a_health_check_that_fails(serve: ServedInstance) -> None:
    began = last(serve)
    serve.create_backend("b", Fails, "ill", config={"health_check_period_s": 0.1})
    event = until(lambda: serve.events(began, backend="b", kind="replica_unhealthy"))[0]
    assert "check_health() failed" in event["text"]
    assert "it is ill" in event["detail"]
    group = until(lambda: [each for each in raised_here(serve, "b") if each["what"] == "check_health"])[0]
    assert (group["type"], group["function"]) == ("RuntimeError", "Fails.check_health")


def test_a_kind_that_there_is_not(serve: ServedInstance) -> None:
    with pytest.raises(ServekitError, match="no kind of events; did you mean 'traffic_set'"):
        serve.events(kind="trafic_set")

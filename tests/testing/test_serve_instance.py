"""The fixture `serve_instance`: what people test their services with, and whether it tells the truth."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.waiting import until

import servekit
from servekit import errors, inprocess
from servekit.interfaces import BackendView, Request, RequestAdapter, RequestInfo, Response, RoutingPolicy
from servekit.testing.instances import open_host, serve

DEADLINE_S = 20.0


def hello(request: Any) -> str:
    return f"hello {request.args.get('name', 'world')}"


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    def __call__(self, request: Any) -> dict[str, int]:
        self.count += 1
        return {"count": self.count}

    def peek(self, request: Any) -> dict[str, int]:
        return {"count": self.count}


# -- the whole road ---------------------------------------------------------------------------------------


def test_a_service_answers(serve_instance: Any) -> None:
    servekit.create_backend("hello", hello)
    servekit.create_endpoint("greet", "/greet", backend="hello")
    response = serve_instance.client.get("/greet?name=you")
    assert (response.status_code, response.text) == (200, "hello you")
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("number", range(20))
def test_each_test_has_an_instance_of_its_own(serve_instance: Any, number: int) -> None:
    assert servekit.list_endpoints() == {}
    servekit.create_backend("counter", Counter, number)
    servekit.create_endpoint("count", "/count", backend="counter")
    assert serve_instance.client.get("/count").json() == {"count": number + 1}


def test_the_instance_ends_with_its_test() -> None:
    before = threading.enumerate()
    with open_host("inprocess") as host, serve(host) as served:
        servekit.create_backend("hello", hello, config={"num_replicas": 3})
        assert len(_threads_of_instances(before)) >= 4
        directory = served.directory
    assert not os.path.exists(directory)
    assert _threads_of_instances(before) == []
    with pytest.raises(errors.NotRunningError):
        servekit.list_backends()


class Stuck:
    """Takes the first call, and holds the thread of its replica until ``opened`` has something in it."""

    def __init__(self, begun: threading.Event, opened: threading.Event) -> None:
        self.begun = begun
        self.opened = opened

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, *_: Any) -> str:
        self.begun.set()
        assert self.opened.wait(DEADLINE_S)
        return "late"


@pytest.mark.parametrize("stuck", [False, True], ids=["idle", "stuck"])
def test_no_descriptor_is_left_of_an_instance(stuck: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where a handler hangs, whose thread ends when it pleases, with what it has open."""
    monkeypatch.setattr(inprocess, "STOP_TIMEOUT_S", 0.2)
    begun, opened = threading.Event(), threading.Event()
    threads = threading.enumerate()
    with open_host("inprocess") as host:
        with serve(host):
            pass  # What is opened once in a process is open now.
        before = set(os.listdir("/proc/self/fd"))
        with serve(host) as served:
            servekit.create_backend("stuck", Stuck(begun, opened))
            servekit.create_endpoint("stuck", "/stuck", ["GET", "POST"], backend="stuck", timeout_s=0.1)
            servekit.create_backend("hello", hello, config={"num_replicas": 2})
            servekit.create_endpoint("hello", "/hello", backend="hello")
            assert served.client.get("/hello").status_code == 200
            assert servekit.get_handle("hello").remote is not None
            if stuck:
                assert served.client.get("/stuck").status_code == 504
                assert begun.wait(DEADLINE_S)
                # More than a socket takes, which the replica does not read.
                assert served.client.post("/stuck", content=bytes(2_000_000)).status_code == 504
        opened.set()
        until(lambda: set(threading.enumerate()) <= set(threads))
        assert set(os.listdir("/proc/self/fd")) <= before


def test_a_tmpdir_may_be_too_long_for_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path.joinpath(*["x" * 100] * 3)
    folder.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with open_host("inprocess") as host, serve(host) as served:
        assert served.directory.startswith(str(folder))
        servekit.create_backend("hello", hello)
        servekit.create_endpoint("greet", "/greet", backend="hello")
        assert served.client.get("/greet").text == "hello world"
        assert servekit.get_handle("greet").remote is not None
    assert list(folder.iterdir()) == []


def test_a_client_may_be_async_and_give_up(serve_instance: Any) -> None:
    begun, opened = threading.Event(), threading.Event()
    servekit.create_backend("stuck", Stuck(begun, opened))
    servekit.create_endpoint("stuck", "/stuck", backend="stuck")
    servekit.create_backend("pieces", lambda request: (b"x" * 1000 for _ in range(1000)))
    servekit.create_endpoint("pieces", "/pieces", backend="pieces")

    async def ask() -> None:
        transport = httpx.AsyncHTTPTransport(uds=serve_instance.http_socket)
        async with httpx.AsyncClient(transport=transport, base_url=serve_instance.url) as client:
            answers = await asyncio.gather(*(client.get("/pieces") for _ in range(20)))
            assert [len(answer.content) for answer in answers] == [1_000_000] * 20
            stuck = asyncio.ensure_future(client.get("/stuck"))
            await asyncio.to_thread(begun.wait, DEADLINE_S)
            stuck.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stuck

    try:
        asyncio.run(ask())
        until(lambda: servekit.stat()["endpoints"].get("stuck", {}).get("by_status") == {"499": 1})
    finally:
        opened.set()


def _threads_of_instances(before: list[threading.Thread]) -> list[str]:
    added = [thread.name for thread in threading.enumerate() if thread not in before]
    return [name for name in added if name.startswith(("servekit", "r1-", "r2-", "r3-"))]


def test_the_original_object_runs(serve_instance: Any) -> None:
    seen: list[str] = []

    def handler(request: Any) -> str:
        seen.append(request.path)
        return "seen"

    servekit.create_backend("b", handler)
    servekit.create_endpoint("e", "/e/<path:rest>", backend="b")
    serve_instance.client.get("/e/one/two")
    assert seen == ["/e/one/two"]


def test_targets_are_pickled_for_the_same_errors(serve_instance: Any) -> None:
    thread = threading.Thread()

    def handler(request: Any) -> str:
        return str(thread)

    with pytest.raises(errors.UnpicklableTargetError, match="handler.*'thread'.*cannot be pickled"):
        servekit.create_backend("b", handler)
    with pytest.raises(errors.UnpicklableTargetError, match="init argument 1"):
        servekit.create_backend("b", Counter, thread)
    assert servekit.list_backends() == {}


def test_a_handler_that_raises_costs_one_request(serve_instance: Any) -> None:
    def handler(request: Any) -> str:
        if "bad" in request.args:
            raise KeyError("the reason")
        return "good"

    servekit.create_backend("b", handler)
    servekit.create_endpoint("e", "/e", backend="b")
    response = serve_instance.client.get("/e?bad", headers={"x-request-id": "my-id"})
    assert response.status_code == 500
    assert "my-id" in response.text
    assert "the reason" not in response.text
    assert serve_instance.client.get("/e").text == "good"


@pytest.mark.parametrize("result", [None, object(), float("nan"), (1, 2, 3, 4)])
def test_a_result_that_is_none_costs_one_request(serve_instance: Any, result: object) -> None:
    results = [result]
    servekit.create_backend("b", lambda request: results.pop() if results else "good")
    servekit.create_endpoint("e", "/e", backend="b")
    assert serve_instance.client.get("/e").status_code == 500
    assert serve_instance.client.get("/e").text == "good"


def test_an_init_that_raises_leaves_nothing_behind(serve_instance: Any) -> None:
    class Broken:
        def __init__(self) -> None:
            raise OSError("no weights here")

        def __call__(self, request: Any) -> str:
            return ""

    with pytest.raises(errors.BackendStartError, match="no weights here") as caught:
        servekit.create_backend("broken", Broken)
    assert "Traceback" in str(caught.value)
    assert "__init__" in str(caught.value)
    assert servekit.list_backends() == {}


# -- HTTP as Flask's users know it ----------------------------------------------------------------------------


def test_methods_are_as_in_flask(serve_instance: Any) -> None:
    servekit.create_backend("b", lambda request: request.method)
    servekit.create_endpoint("get", "/get", backend="b")
    servekit.create_endpoint("post", "/post", methods=["POST"], backend="b")
    client = serve_instance.client
    head = client.head("/get")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "4")
    options = client.options("/get")
    assert (options.status_code, options.headers["allow"]) == (200, "GET, HEAD, OPTIONS")
    wrong = client.get("/post")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "OPTIONS, POST")
    assert client.post("/post").text == "POST"


def test_routes_are_as_in_flask(serve_instance: Any) -> None:
    servekit.create_backend("b", lambda request: {name: repr(value) for name, value in request.view_args.items()})
    servekit.create_endpoint("user", "/users/<int:id>", backend="b")
    servekit.create_endpoint("thing", "/things/<uuid:id>/", backend="b")
    client = serve_instance.client
    assert client.get("/users/7").json() == {"id": "7"}
    assert client.get("/users/seven").status_code == 404
    number = uuid.uuid4()
    assert client.get(f"/things/{number}/").json() == {"id": repr(number)}
    moved = client.get(f"/things/{number}?a=b")
    assert (moved.status_code, moved.headers["location"]) == (308, f"/things/{number}/?a=b")
    assert client.get("/-/routes").json() == {
        "/users/<int:id>": ["user", ["GET"]],
        "/things/<uuid:id>/": ["thing", ["GET"]],
    }


def test_a_mounted_endpoint_has_its_subtree(serve_instance: Any) -> None:
    servekit.create_backend("b", lambda request: f"{request.method} {request.path}")
    servekit.create_endpoint("app", "/app", mount=True, backend="b")
    client = serve_instance.client
    assert client.delete("/app/a/b").text == "DELETE /app/a/b"
    assert client.get("/app").text == "GET /app"
    assert client.get("/application").status_code == 404


def test_unknown_paths_say_where_to_look(serve_instance: Any) -> None:
    response = serve_instance.client.get("/nowhere")
    assert response.status_code == 404
    assert "/-/routes" in response.text
    assert serve_instance.client.get("/-/healthz").status_code == 200


def test_bodies_and_text_survive_the_road(serve_instance: Any) -> None:
    servekit.create_backend("b", lambda request: request.get_data())
    servekit.create_backend("p", lambda request: request.path + "|" + request.args["q"])
    servekit.create_endpoint("echo", "/echo", methods=["POST"], backend="b")
    servekit.create_endpoint("path", "/café", backend="p")
    body = os.urandom(3_000_000)
    assert serve_instance.client.post("/echo", content=body).content == body
    assert serve_instance.client.get("/café", params={"q": "ü ?&"}).text == "/café|ü ?&"


def test_a_method_is_called_only_where_the_config_lists_it(serve_instance: Any) -> None:
    servekit.create_backend("b", Counter, 5, config={"callable_methods": ["peek"]})
    servekit.create_endpoint("e", "/e", backend="b")
    client = serve_instance.client
    assert client.get("/e", headers={"X-SERVE-CALL-METHOD": "peek"}).json() == {"count": 5}
    refused = client.get("/e", headers={"X-SERVE-CALL-METHOD": "__init__"})
    assert (refused.status_code, "callable_methods" in refused.text) == (400, True)
    servekit.update_backend_config("b", {"callable_methods": []})
    assert client.get("/e", headers={"X-SERVE-CALL-METHOD": "peek"}).status_code == 400


# -- traffic -------------------------------------------------------------------------------------------------


def test_the_split_is_exact(serve_instance: Any) -> None:
    servekit.create_backend("a", lambda request: "a")
    servekit.create_backend("b", lambda request: "b")
    servekit.create_endpoint("e", "/e")
    servekit.set_traffic("e", {"a": 0.9, "b": 0.1})
    answers = [serve_instance.client.get("/e").text for _ in range(100)]
    assert answers.count("a") == 90
    assert all(abs(answers[:n].count("b") - n * 0.1) <= 1 for n in range(100))


def test_the_seed_gives_the_backend_first(serve_instance: Any) -> None:
    servekit.create_backend("simple_backend", hello)
    servekit.create_endpoint("simple_endpoint", "/simple")
    servekit.set_traffic("simple_backend", {"simple_endpoint": 1.0})
    assert servekit.get_traffic("simple_endpoint") == {"simple_backend": 1.0}
    assert serve_instance.client.get("/simple").text == "hello world"


@pytest.mark.parametrize(
    "weights", [{"a": 0.5}, {"a": -1.0, "b": 2.0}, {"a": float("nan")}, {"gone": 1.0}, {}, {"a": "x"}]
)
def test_bad_traffic_leaves_the_old(serve_instance: Any, weights: dict[str, Any]) -> None:
    servekit.create_backend("a", hello)
    servekit.create_backend("b", hello)
    servekit.create_endpoint("e", "/e", backend="a")
    with pytest.raises(ValueError, match=r"."):
        servekit.set_traffic("e", weights)
    assert servekit.get_traffic("e") == {"a": 1.0}
    assert serve_instance.client.get("/e").status_code == 200


def test_without_traffic_or_replicas_the_answer_comes_at_once(serve_instance: Any) -> None:
    servekit.create_backend("b", hello, config={"num_replicas": 0})
    servekit.create_endpoint("none", "/none")
    servekit.create_endpoint("empty", "/empty", backend="b")
    assert "no traffic" in serve_instance.client.get("/none").text
    response = serve_instance.client.get("/empty")
    assert (response.status_code, "num_replicas" in response.text) == (503, True)
    servekit.update_backend_config("b", {"num_replicas": 1})
    assert serve_instance.client.get("/empty").status_code == 200


# -- load -----------------------------------------------------------------------------------------------------


class Gate:
    """A handler that answers when the test says so."""

    def __init__(self, started: list[str], opened: dict[str, bool]) -> None:
        self.started = started
        self.opened = opened

    def __call__(self, request: Any) -> str:
        self.started.append(request.args["n"])
        until(lambda: self.opened["now"])
        return str(request.args["n"])


def test_a_full_queue_is_said_at_once(serve_instance: Any) -> None:
    started: list[str] = []
    opened = {"now": False}
    servekit.create_backend("b", Gate, started, opened, config={"max_queued_requests": 1})
    servekit.create_endpoint("e", "/e", backend="b")
    with ThreadPoolExecutor(8) as pool:
        # One runs, one is handed over ahead (the window starts at one beyond the slot), one waits in the queue.
        requests = [pool.submit(serve_instance.client.get, f"/e?n={n}") for n in range(8)]
        until(lambda: sum(request.done() for request in requests) == 5)
        opened["now"] = True
        answers = [request.result() for request in requests]
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [503] * 5
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 503)


def test_a_late_answer_is_a_504_and_holds_its_slot(serve_instance: Any) -> None:
    started: list[str] = []
    opened = {"now": False}
    servekit.create_backend("b", Gate, started, opened)
    servekit.create_endpoint("e", "/e", backend="b", timeout_s=0.1)
    late = serve_instance.client.get("/e?n=1")
    assert (late.status_code, "0.1 s" in late.text) == (504, True)
    second = serve_instance.client.get("/e?n=2")
    assert second.status_code == 504
    assert started == ["1"], "the slot is held until the handler ends"
    opened["now"] = True
    until(lambda: serve_instance.client.get("/e?n=3").status_code == 200)
    assert "2" not in started, "what has expired is not begun"


def test_changes_under_load_lose_nothing(serve_instance: Any) -> None:
    servekit.create_backend("a", lambda request: "a", config={"num_replicas": 2})
    servekit.create_backend("b", lambda request: "b")
    servekit.create_endpoint("e", "/e", methods=["GET", "POST"], backend="a")
    load = serve_instance.assert_no_drops
    with load("/e", rate_per_s=2000) as gets, load("/e", method="POST", rate_per_s=2000) as posts:
        for replicas in (4, 1, 3):
            servekit.update_backend_config("a", {"num_replicas": replicas})
            gets.more(5)
        servekit.set_traffic("e", {"a": 0.5, "b": 0.5})
        posts.more(5)
        servekit.set_traffic("e", {"b": 1.0})
        servekit.delete_backend("a")
    assert {decision.backend for decision in serve_instance.decisions} == {"a", "b"}


# -- plugins ----------------------------------------------------------------------------------------------------


class LastPolicy(RoutingPolicy):
    def __init__(self) -> None:
        self.asked = 0
        self.weights: list[Mapping[str, float]] = []

    def traffic_changed(self, weights: Mapping[str, float]) -> None:
        self.weights.append(dict(weights))

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        self.asked += 1
        assert request.headers["x-who"] == "me"
        return backends[-1]


def test_a_policy_may_be_given_by_instance(serve_instance: Any) -> None:
    policy = LastPolicy()
    servekit.create_backend("a", lambda request: "a")
    servekit.create_backend("b", lambda request: "b")
    servekit.create_endpoint("e", "/e", policy=policy)
    servekit.set_traffic("e", {"a": 0.9, "b": 0.1})
    assert serve_instance.client.get("/e", headers={"X-Who": "me"}).text == "b"
    assert policy.asked == 1
    assert policy.weights[-1] == {"a": 0.9, "b": 0.1}
    assert serve_instance.client.get("/e").status_code == 500, "a policy that raises is a 500"


class Upper(RequestAdapter):
    def decode(self, request: Request) -> str:
        return request.body.decode()

    def encode(self, result: str) -> Response:
        return Response(201, [("content-type", "text/upper")], result.upper().encode())


def test_an_adapter_may_be_given_by_instance(serve_instance: Any) -> None:
    servekit.create_backend("b", lambda text: text + "!", adapter=Upper())
    servekit.create_endpoint("e", "/e", methods=["POST"], backend="b")
    response = serve_instance.client.post("/e", content="hey")
    assert (response.status_code, response.headers["content-type"], response.text) == (201, "text/upper", "HEY!")


def test_unknown_plugins_and_options_are_refused_at_once(serve_instance: Any) -> None:
    with pytest.raises(errors.UnknownPluginError, match="did you mean 'weighted'"):
        servekit.create_endpoint("e", "/e", policy="wieghted")
    with pytest.raises(errors.PluginOptionsError, match="no option 'sticky'"):
        servekit.create_endpoint("e", "/e", policy_options={"sticky": True})
    with pytest.raises(errors.UnknownPluginError, match="request adapter"):
        servekit.create_backend("b", hello, adapter="flsk")
    with pytest.raises(errors.UnknownPluginError, match="replica runtime"):
        servekit.create_backend("b", hello, runtime="nomad")
    with pytest.raises(errors.InvalidInputError, match="did you mean 'num_replicas'"):
        servekit.create_backend("b", hello, config={"num_replica": 2})
    assert (servekit.list_endpoints(), servekit.list_backends()) == ({}, {})


# -- the rest of the surface -------------------------------------------------------------------------------------


def test_status_and_stat_tell_what_is_there(serve_instance: Any) -> None:
    servekit.create_backend("b", hello, config={"num_replicas": 2})
    servekit.create_endpoint("e", "/e", backend="b")
    for _ in range(10):
        serve_instance.client.get("/e")
    replicas = servekit.status()["backends"]["b"]["replicas"]
    assert [replica["state"] for replica in replicas] == ["ready", "ready"]
    assert {"id", "state", "pid", "node", "outstanding", "started"} <= replicas[0].keys()
    until(lambda: servekit.stat()["endpoints"].get("e", {}).get("requests") == 10)
    assert servekit.stat()["backends"]["b"]["by_status"] == {"200": 10}


def test_an_instance_is_current_while_its_test_runs(serve_instance: Any) -> None:
    with pytest.raises(errors.AlreadyRunningError):
        servekit.init(runtime="process")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_child_of_a_fork_leaves_it_alone(serve_instance: Any) -> None:
    servekit.create_backend("b", hello)
    servekit.create_endpoint("e", "/e", backend="b")
    handle = servekit.get_handle("e")

    def child() -> None:
        with serve_instance.new_client() as client:
            assert client.get("/e").status_code == 200, "to its HTTP the child is a process like any other"
        for act in (servekit.status, handle.remote, lambda: servekit.get_handle("e")):
            with pytest.raises(errors.NotRunningError, match="forked"):
                act()
        servekit.shutdown()
        with pytest.raises(errors.NotRunningError, match="no servekit instance"):
            servekit.status()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert serve_instance.client.get("/e").status_code == 200
    assert os.path.isdir(serve_instance.directory)


def test_after_shutdown_whatever_is_asked_says_so(recwarn: pytest.WarningsRecorder) -> None:
    with open_host("inprocess") as host, serve(host) as served:
        instance = served.instance
        assert isinstance(instance, inprocess.InProcessInstance)
        assert "at http://servekit" in repr(instance)
    for act in (
        instance.status,
        instance.list_backends,
        instance.connect,
        lambda: instance.create_endpoint("e"),
        lambda: instance.create_backend("b", hello),
        lambda: instance.get_handle("e"),
        lambda: instance.submit(asyncio.sleep(0)),
    ):
        with pytest.raises(errors.NotRunningError, match="instance 'in-process' was shut down here"):
            act()
    assert repr(instance) == "<servekit instance 'in-process' shut down>"
    instance.shutdown()
    assert [str(each.message) for each in recwarn if "never awaited" in str(each.message)] == []

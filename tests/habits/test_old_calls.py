"""Calls as Ray Serve's first API had them, and what of them is different on purpose."""

from __future__ import annotations

import concurrent.futures
import inspect
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import servekit as serve
from servekit.config import Autoscaling
from servekit.errors import AlreadyRunningError, ArgumentError, InvalidInputError, NotFoundError, NotRunningError
from servekit.old_names import IN_RAY_SERVE


def hello(request: Any) -> str:
    return "hello"


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends, "the condition did not come about"
        time.sleep(0.01)


class Methods:
    """As the old test of methods has it: without ``__call__``."""

    def method(self, request: Any, word: str = "hello") -> str:
        return word

    def check_health(self) -> None: ...

    def _private(self, request: Any) -> str:
        raise AssertionError


def test_a_class_without_call_is_called_by_its_methods_names(serve_instance: Any) -> None:
    serve.create_endpoint("methods", "/methods")
    serve.create_backend("methods", Methods)
    serve.set_traffic("methods", {"methods": 1.0})
    assert serve.get_backend_config("methods")["callable_methods"] == ["method"]
    client = serve_instance.client
    assert client.get("/methods", headers={"X-SERVE-CALL-METHOD": "method"}).text == "hello"
    assert client.get("/methods", headers={"X-SERVE-CALL-METHOD": "check_health"}).status_code == 400
    assert client.get("/methods", headers={"X-SERVE-CALL-METHOD": "_private"}).status_code == 400
    assert client.get("/methods").status_code == 400
    handle = serve.get_handle("methods")
    assert handle.options("method").remote().result() == "hello"
    assert handle.options(method_name="method", timeout_s=9).remote("hi").result() == "hi"


def test_the_methods_that_are_named_are_all(serve_instance: Any) -> None:
    class More(Methods):
        def own(self, request: Any) -> str:
            return "own"

    serve.create_backend("own", More)
    assert serve.get_backend_config("own")["callable_methods"] == ["own"], "what it inherits is to be named"
    serve.create_backend("more", More, config={"callable_methods": ["method"]})
    assert serve.get_backend_config("more")["callable_methods"] == ["method"]


def test_a_handle_before_its_endpoint(serve_instance: Any) -> None:
    with pytest.raises(NotFoundError):
        serve.get_handle("later")
    handle = serve.get_handle("later", missing_ok=True)
    with pytest.raises(NotFoundError, match="no endpoint 'later'"):
        handle.remote()
    serve.create_backend("b", hello)
    serve.create_endpoint("later", backend="b")
    assert handle.remote().result() == "hello"
    assert serve_instance.get_handle("later", missing_ok=True).remote().result() == "hello"


def test_a_config_as_an_object_is_all_of_it(serve_instance: Any) -> None:
    serve.create_backend("b", hello, config=serve.BackendConfig(num_replicas=2, max_queued_requests=5))
    serve.update_backend_config("b", {"num_replicas": 1})
    assert serve.get_backend_config("b")["max_queued_requests"] == 5
    serve.update_backend_config("b", serve.BackendConfig(num_replicas=2))
    found = serve.get_backend_config("b")
    assert (found["num_replicas"], found["max_queued_requests"]) == (2, 1000)


def test_a_batch_size_of_one_needs_no_mark(serve_instance: Any) -> None:
    serve.create_backend("b", hello, config={"max_batch_size": 1})
    serve.create_endpoint("e", "/e", ["get", "post", "GET"], backend="b")
    assert serve.list_endpoints()["e"]["methods"] == ["GET", "POST"]
    assert serve_instance.client.post("/e").text == "hello"


def test_a_class_that_accepts_batches_and_the_size_of_one(serve_instance: Any) -> None:
    @serve.accept_batch
    class Batcher:
        def __call__(self, requests: list[Any], numbers: Any = None) -> list[Any]:
            return [serve.context.batch_size] * serve.context.batch_size

        def double(self, requests: list[Any], numbers: list[int]) -> list[int]:
            return [2 * number for number in numbers]

    serve.create_backend("b", Batcher, config={"max_batch_size": 5})
    serve.create_endpoint("e", "/e", backend="b")
    handle = serve.get_handle("e")
    sizes = [future.result() for future in [handle.remote(1) for _ in range(20)]]
    assert max(sizes) in range(1, 6)
    assert [future.result() for future in [handle.options("double").remote(n) for n in range(5)]] == [0, 2, 4, 6, 8]
    with pytest.raises(NotRunningError):
        _ = serve.context.batch_size
    with pytest.raises(AttributeError, match="no attribute 'web'"):
        _ = serve.context.web


def test_init_again_gives_what_is_there(serve_instance: Any) -> None:
    assert serve.init() is serve.current()
    with pytest.raises(AlreadyRunningError):
        serve.init(name="other")


def test_names_with_a_slash(serve_instance: Any) -> None:
    serve.create_backend("a/b", hello)
    serve.create_endpoint("c/d", "/e", backend="a/b")
    assert serve_instance.client.get("/e").text == "hello"
    assert serve.get_handle("c/d").remote().result() == "hello"
    serve.delete_endpoint("c/d")
    serve.delete_backend("a/b")


def test_limits_as_a_dict_are_refused_by_their_names() -> None:
    with pytest.raises(InvalidInputError, match="http_limits: body_bytes must be a whole number"):
        serve.init(runtime="process", http_limits={"body_bytes": "1"})


PAGE = (Path(__file__).parents[2] / "docs" / "from_ray_serve.md").read_text()


@pytest.mark.parametrize("old", IN_RAY_SERVE)
def test_a_name_that_is_called_otherwise_is_in_the_page_for_it(old: str) -> None:
    assert re.search(rf"\b{old}\b", PAGE)


@pytest.mark.parametrize("here", sorted(filter(str.isidentifier, IN_RAY_SERVE.values())))
def test_the_name_for_it_is_one_of_this_package(here: str) -> None:
    fields = [*serve.BackendConfig.__struct_fields__, *Autoscaling.__struct_fields__]
    arguments = [*inspect.signature(serve.init).parameters, *inspect.signature(serve.create_endpoint).parameters]
    assert here in [*serve.__all__, *fields, *arguments] or here == "nothing"


def test_a_result_that_is_not_there_in_time(serve_instance: Any) -> None:
    Waits.began.clear()
    Waits.go_on.clear()
    serve.create_backend("b", Waits)
    serve.create_endpoint("e", backend="b")
    call = serve.get_handle("e").remote()
    with pytest.raises(concurrent.futures.TimeoutError, match="no answer within -1 s; the call goes on"):
        call.result(-1)
    with pytest.raises(ArgumentError, match=r"result\(\): timeout must be a number or None, not str: '3'"):
        call.result("3")  # type: ignore[arg-type]
    Waits.go_on.set()
    assert call.result(30) == "answered"


class Waits:
    """Answers when it is told to, and never if it is not."""

    began, go_on = threading.Event(), threading.Event()

    def __call__(self, request: Any) -> str:
        self.began.set()
        self.go_on.wait(60)
        return "answered"


def test_what_a_replica_has_may_end(serve_instance: Any) -> None:
    Waits.began.clear()
    Waits.go_on.clear()
    serve.create_backend("b", Waits)
    serve.create_endpoint("e", backend="b")
    call = serve.get_handle("e").remote()
    assert Waits.began.wait(30)
    threading.Timer(0.1, Waits.go_on.set).start()
    serve.update_backend_config("b", {"drain_timeout_s": 30})
    serve.update_backend_config("b", {"num_replicas": 0})
    assert call.result(30) == "answered"


@pytest.mark.processes
def test_limits_as_a_dict() -> None:
    with serve.init(runtime="process", http_port=0, http_limits={"body_bytes": 5}) as instance:
        assert httpx.post(f"{instance.url}/e", content=b"123456").status_code == 413


@pytest.mark.processes
def test_an_instance_without_http() -> None:
    with serve.init(runtime="process", http_host=None) as instance:
        assert instance.url == ""
        assert "without HTTP" in repr(instance)
        serve.create_backend("b", hello)
        serve.create_endpoint("e", "/e", backend="b")
        assert serve.get_handle("e").remote().result() == "hello"


@pytest.mark.processes
def test_a_replica_that_is_cut_off_is_gone(real: serve.Instance) -> None:
    def forever(request: Any) -> None:
        time.sleep(600)

    serve.create_backend("b", forever, config={"drain_timeout_s": 0.2})
    serve.create_endpoint("e", "/e", backend="b")
    asked: list[int] = []
    asking = threading.Thread(target=lambda: asked.append(httpx.get(f"{real.url}/e", timeout=60).status_code))
    asking.start()
    until(lambda: serve.status()["backends"]["b"]["replicas"][0]["outstanding"] == 1)
    serve.delete_endpoint("e")
    serve.delete_backend("b")
    asking.join(30)
    assert asked in ([502], [404]), asked

"""From a request to its endpoint: paths, methods, ids, and what the core answers itself."""

from __future__ import annotations

import json
import uuid
from typing import Any
from urllib.parse import unquote

import pytest

from servekit.tallies import DURATION_US
from servekit.wire.data_frames import data_codec


def requests_in(slots: list[int]) -> int:
    return sum(slots[:DURATION_US])


@pytest.fixture
def served(world: Any) -> Any:
    world.apply(world.backend(), world.endpoint())
    return world


def test_a_request_goes_to_the_replica_and_its_answer_back(served: Any) -> None:
    asked = served.ask(method="POST", query=b"a=1", body=b"hello", headers=[("x-one", "1"), ("x-one", "2")])
    (call,) = served.calls("r1")
    request = call.request
    assert (request.method, request.path, request.query_string, request.body) == ("POST", "/x", b"a=1", b"hello")
    assert (request.endpoint, request.route, request.client, request.mount) == ("e", "/x", "192.0.2.1", False)
    assert request.headers == [(b"x-one", b"1"), (b"x-one", b"2")]
    assert (request.view_args, request.call_method) == (None, None)
    assert 59_000 < call.timeout_ms <= 60_001
    served.answer("r1", call, b"there", status=201)
    assert (asked.status, asked.text) == (201, "there")
    assert asked.headers == [("x-request-id", request.id), ("content-type", "text/plain")]


def test_an_unknown_path(served: Any) -> None:
    asked = served.ask("/nowhere")
    assert asked.status == 404
    assert "'/nowhere'" in asked.text
    assert "/-/routes" in asked.text
    assert asked.header("x-request-id")
    ((key, slots),) = served.counted.items()
    assert key == ("", "", "GET", 404, "not_found")
    assert requests_in(slots) == 1


def test_a_path_that_lacks_the_slash_at_its_end(world: Any) -> None:
    world.apply(world.backend(), world.endpoint(route="/dir/é/"))
    asked = world.ask("/dir/é", query=b"a=1&b=%20")
    assert (asked.status, asked.header("location")) == (308, "/dir/%C3%A9/?a=1&b=%20")


@pytest.mark.parametrize("sent", [b"/dir/%E9", b"/dir/a%2Fb", b"http://h/dir/%E9?a=1"])
def test_a_path_that_lacks_the_slash_keeps_its_bytes(world: Any, sent: bytes) -> None:
    world.apply(world.backend(), world.endpoint(route="/dir/<path:name>/"))
    path = unquote(sent.removeprefix(b"http://h").partition(b"?")[0].decode())
    asked = world.ask(path, query=sent.partition(b"?")[2], sent_target=sent)
    wanted = sent.removeprefix(b"http://h").decode().partition("?")
    assert (asked.status, asked.header("location")) == (308, "".join((wanted[0], "/", *wanted[1:])))


@pytest.mark.parametrize(
    ("methods", "allow"),
    [(("GET",), "GET, HEAD, OPTIONS"), (("POST",), "OPTIONS, POST"), (("PUT", "GET"), "GET, HEAD, OPTIONS, PUT")],
)
def test_a_method_that_is_not_allowed(world: Any, methods: tuple[str, ...], allow: str) -> None:
    world.apply(world.backend(), world.endpoint(methods=methods))
    asked = world.ask(method="PATCH")
    assert (asked.status, asked.header("allow")) == (405, allow)
    assert world.calls("r1") == []


def test_options_is_answered_as_flask_does(served: Any) -> None:
    asked = served.ask(method="OPTIONS")
    assert (asked.status, asked.header("allow"), asked.text) == (200, "GET, HEAD, OPTIONS, POST", "")
    assert served.calls("r1") == []


@pytest.mark.parametrize("mounted", [True, False])
def test_options_of_the_server_go_to_no_endpoint(world: Any, mounted: bool) -> None:
    world.apply(world.backend(), *([world.endpoint(route="/", methods=(), mount=True)] if mounted else []))
    asked = world.ask("*", method="OPTIONS")
    assert (asked.status, asked.text) == (200, "")
    assert world.calls("r1") == []


def test_options_that_the_endpoint_lists_goes_to_the_handler(world: Any) -> None:
    world.apply(world.backend(), world.endpoint(methods=("OPTIONS",)))
    asked = world.ask(method="OPTIONS")
    assert not asked.answered
    assert len(world.calls("r1")) == 1


def test_head_goes_to_the_handler_where_get_does(world: Any) -> None:
    world.apply(world.backend(), world.endpoint(methods=("GET",)), world.endpoint("p", route="/p", methods=("POST",)))
    assert not world.ask(method="HEAD").answered
    assert world.calls("r1")[0].request.method == "HEAD"
    assert world.ask("/p", method="HEAD").status == 405


def test_a_mounted_endpoint_takes_every_method_and_all_below_its_route(world: Any) -> None:
    world.apply(world.backend(max_concurrent_queries=9), world.endpoint(route="/app", methods=(), mount=True))
    for method, path in [("PATCH", "/app/a/b"), ("OPTIONS", "/app"), ("ANY", "/app/")]:
        assert not world.ask(path, method=method).answered
    assert [call.request.path for call in world.calls("r1")] == ["/app/a/b", "/app", "/app/"]
    assert all(call.request.mount and call.request.route == "/app" for call in world.calls("r1"))
    assert world.ask("/apple").status == 404


def test_what_a_pattern_matched_crosses_the_wire_as_it_is(world: Any) -> None:
    world.apply(
        world.backend(max_concurrent_queries=9),
        world.endpoint("u", route="/u/<uuid:key>"),
        world.endpoint("i", route="/i/<int:number>"),
        world.endpoint("f", route="/f/<float:number>/<path:rest>"),
    )
    key, codec = uuid.UUID(int=77), data_codec()
    large = 10**30
    for path in (f"/u/{key}", "/i/7", f"/i/{large}", "/f/1.5/a/b"):
        assert not world.ask(path).answered, path
    crossed = [codec.decode(codec.encode(call)).request.view_args for call in world.calls("r1")]
    assert crossed == [{"key": key}, {"number": 7}, {"number": large}, {"number": 1.5, "rest": "a/b"}]


def test_a_number_with_too_many_digits_is_not_found(world: Any) -> None:
    world.apply(world.backend(), world.endpoint(route="/i/<int:number>"))
    assert world.ask("/i/" + "1" * 5000).status == 404


# -- request ids ----------------------------------------------------------------------------------------------


def test_a_request_id_is_taken_over(served: Any) -> None:
    asked = served.ask(headers=[("x-request-id", "abc-1\\^!")])
    assert served.calls("r1")[0].request.id == "abc-1\\^!"
    served.answer("r1", served.calls("r1")[0])
    assert asked.header("x-request-id") == "abc-1\\^!"


def test_request_ids_are_made_and_differ(served: Any) -> None:
    first, second = served.ask("/nowhere"), served.ask("/nowhere")
    ids = [asked.header("x-request-id") for asked in (first, second)]
    assert all(ids)
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    "given", ["", "a\tb", "é", "\x7f", "x" * 129, "a b", "a]", "[a", "a] GET /x 200 client=6.6.6.6 [request b"]
)
def test_a_request_id_that_would_not_be_safe_in_a_log_is_replaced(served: Any, given: str) -> None:
    asked = served.ask("/nowhere", headers=[("x-request-id", given)])
    made = asked.header("x-request-id")
    assert made
    assert made != given
    assert made.isprintable()


# -- methods of a class backend ---------------------------------------------------------------------------------


def test_a_listed_method_may_be_called(world: Any) -> None:
    world.apply(world.backend(callable_methods=("train",)), world.endpoint())
    assert not world.ask(headers=[("x-serve-call-method", "train")]).answered
    assert world.calls("r1")[0].request.call_method == "train"


def test_a_method_that_is_not_listed_may_not(world: Any) -> None:
    world.apply(world.backend(callable_methods=("train",)), world.endpoint())
    asked = world.ask(headers=[("x-serve-call-method", "__init__")])
    assert asked.status == 400
    assert "'__init__'" in asked.text
    assert "callable_methods" in asked.text
    assert world.calls("r1") == []


# -- what is servekit's own ----------------------------------------------------------------------------------------


def test_the_list_of_routes(world: Any) -> None:
    world.apply(
        world.backend(),
        world.endpoint("simple", route="/simple", methods=("GET",)),
        world.endpoint("app", route="/app", methods=(), mount=True),
        world.endpoint("hidden", route=None),
    )
    asked = world.ask("/-/routes")
    assert (asked.status, asked.header("content-type")) == (200, "application/json")
    assert json.loads(asked.text) == {"/simple": ["simple", ["GET"]], "/app": ["app", ["*"]]}


@pytest.mark.parametrize(("route", "mount"), [("/", True), ("/<path:rest>", False), ("/<a>/<b>", False)])
def test_no_endpoint_takes_what_is_servekits_own(world: Any, route: str, mount: bool) -> None:
    world.apply(world.backend(), world.endpoint(route=route, mount=mount))
    world.router.builtin.ready = True
    assert world.ask("/-/healthz").text == "ok\n"
    assert world.ask("/-/other").status == 404
    assert not world.ask("/a/b").answered


def test_own_paths_take_get_head_and_options_alone(world: Any) -> None:
    assert world.ask("/-/routes", method="POST").header("allow") == "GET, HEAD, OPTIONS"
    assert world.ask("/-/routes", method="OPTIONS").status == 200


# -- what is counted and observed -----------------------------------------------------------------------------------


def test_finished_requests_are_counted_and_observed(served: Any) -> None:
    asked = served.ask()
    assert served.records == []
    served.answer("r1", served.calls("r1")[0], status=418)
    (record,) = served.records
    assert (record.endpoint, record.backend, record.replica) == ("e", "b", "r1")
    assert (record.method, record.path, record.status) == ("GET", "/x", 418)
    assert record.id == asked.header("x-request-id")
    assert record.latency_s >= 0
    ((key, slots),) = served.counted.items()
    assert key == ("e", "b", "GET", 418, "")
    assert requests_in(slots) == 1

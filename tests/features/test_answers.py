"""A first test on every runtime: what the fixture gives is an instance that answers."""

from __future__ import annotations

from servekit.testing.instances import ServedInstance


def hello(request: object) -> str:
    return "hello"


def test_a_function_answers_on_every_runtime(serve: ServedInstance) -> None:
    serve.create_backend("hello", hello)
    serve.create_endpoint("hello", "/hello", backend="hello")
    assert serve.client.get("/hello").text == "hello"


def test_the_next_test_finds_the_instance_empty(serve: ServedInstance) -> None:
    assert serve.list_endpoints() == {}
    assert serve.list_backends() == {}
    assert serve.client.get("/hello").status_code == 404

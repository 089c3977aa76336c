"""The fixture `serve_instance`: what people test their services with."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import servekit


def hello(request: Any) -> str:
    return f"hello {request.args.get('name', 'world')}"


def test_a_service_answers(serve_instance: Any) -> None:
    servekit.create_backend("hello", hello)
    servekit.create_endpoint("greet", "/greet", backend="hello")
    response = serve_instance.client.get("/greet?name=you")
    assert (response.status_code, response.text) == (200, "hello you")


@pytest.mark.parametrize("number", range(100))
def test_many(serve_instance: Any, number: int) -> None:
    servekit.create_backend("hello", hello)
    servekit.create_endpoint("greet", "/greet", backend="hello")
    assert serve_instance.client.get(f"/greet?name={number}").text == f"hello {number}"

"""An in-process instance with one service, at which mistakes are made; and a real one where processes matter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import servekit as serve
from servekit import api


class Model:
    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, request: Any, bias: int = 0) -> str:
        return f"from {self.path}"

    def train(self, request: Any) -> str:
        return "trained"


@pytest.fixture
def served(serve_instance: Any) -> Any:
    serve.create_backend("model", Model, "weights.bin")
    serve.create_endpoint("model", "/model", backend="model")
    return serve_instance


@pytest.fixture(scope="session")
def _real() -> Iterator[serve.Instance]:
    with serve.init(runtime="process", http_port=0) as instance:
        api.leave_current()
        yield instance


@pytest.fixture
def real(_real: serve.Instance) -> Iterator[serve.Instance]:
    """A real instance on the runtime ``process``, current and empty."""
    api.make_current(_real)
    yield _real
    for endpoint in serve.list_endpoints():
        serve.delete_endpoint(endpoint)
    for backend in serve.list_backends():
        serve.delete_backend(backend)
    api.leave_current()

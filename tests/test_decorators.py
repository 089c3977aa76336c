from __future__ import annotations

import functools
from typing import Any

import cloudpickle
import pytest

import servekit
from servekit.decorators import accepts_batches, takes_batches
from servekit.errors import InvalidInputError


@servekit.accept_batch
def function(requests: list[Any]) -> list[Any]:
    return requests


class Model:
    @servekit.accept_batch
    def __call__(self, requests: list[Any]) -> list[Any]:
        return requests

    @servekit.accept_batch
    async def later(self, requests: list[Any]) -> list[Any]:
        return requests

    def single(self, request: Any) -> Any:
        return request


def generator(requests: list[Any]) -> Any:
    yield requests


class Streamer:
    def __call__(self, requests: list[Any]) -> Any:
        yield requests


def test_a_class_is_marked_with_its_methods() -> None:
    @servekit.accept_batch
    class Batcher:
        def method(self, requests: list[Any]) -> list[Any]:
            return requests

    batcher = Batcher()
    assert all(map(accepts_batches, [batcher, batcher.method]))
    assert takes_batches(Batcher)
    assert takes_batches(Model)
    assert not takes_batches(Streamer)


def test_what_is_marked() -> None:
    model = Model()
    assert all(map(accepts_batches, [function, functools.partial(function), model, model.__call__, model.later]))
    assert not any(map(accepts_batches, [model.single, generator, print, "text", None]))


def test_a_mark_travels() -> None:
    @servekit.accept_batch
    def local(requests: list[Any]) -> list[Any]:
        return requests

    class Local(Model):
        pass

    assert accepts_batches(cloudpickle.loads(cloudpickle.dumps(local)))
    assert accepts_batches(cloudpickle.loads(cloudpickle.dumps(Local))())


def test_a_wrapper_keeps_it() -> None:
    @functools.wraps(function)
    def wrapper(requests: list[Any]) -> list[Any]:
        return function(requests)

    assert accepts_batches(wrapper)


@pytest.mark.parametrize(
    ("handler", "message"),
    [(Streamer, "list of generators"), (generator, "list of generators"), (Model(), "functions, methods and classes")],
)
def test_what_cannot_be_marked(handler: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        servekit.accept_batch(handler)

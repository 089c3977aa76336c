"""What `create_backend` reads of a target: its adapter, what is warned of, what is refused, then or later; and that
handlers are taken that are used in another way than the code of their class or function says by itself."""

from __future__ import annotations

import functools
import logging
from typing import Any

import flask
import msgspec
import pytest

import servekit
from servekit import handler_shape
from servekit.annotations import is_typed
from servekit.config import BackendConfig
from servekit.decorators import takes_nothing
from servekit.errors import InvalidInputError


def with_database(function: Any) -> Any:
    @functools.wraps(function)
    def given(*args: Any, **kwargs: Any) -> Any:
        return function(*args, database="db", **kwargs)

    return given


def by_position(function: Any) -> Any:
    @functools.wraps(function)
    def given(request: Any) -> Any:
        return function(request, "db")

    return given


@with_database
def by_name(request: Any, database: str) -> str:
    return database


@by_position
def second(request: Any, database: str) -> str:
    return database


class Decorated:
    @with_database
    def __init__(self, database: str) -> None:
        self.database = database

    @with_database
    def __call__(self, request: Any, database: str) -> str:
        return database


@pytest.mark.parametrize("target", [by_name, second, Decorated])
def test_a_decorator_may_give_arguments(target: Any) -> None:
    assert handler_shape.requires("target", target) == ""


def test_a_decorator_may_give_those_of_init() -> None:
    handler_shape.check_arguments("Decorated", Decorated, (), {})


class Assigned:
    def __init__(self) -> None:
        self.compiled = functools.partial(self._method, 1)
        setattr(self, "named", self.compiled)  # noqa: B010

    def _method(self, size: int, request: Any) -> str:
        return "it"

    def __call__(self, request: Any) -> str:
        return "called"


class Inherited(Assigned):
    pass


class Forwarding:
    def __getattr__(self, name: str) -> Any:
        return lambda request: name

    def __call__(self, request: Any) -> str:
        return "called"


@pytest.mark.parametrize(
    ("target", "method"),
    [(Assigned, "compiled"), (Assigned, "named"), (Inherited, "compiled"), (Forwarding, "anything")],
)
def test_an_object_may_have_methods_that_its_class_lacks(target: Any, method: str) -> None:
    shape = handler_shape.shape_of(target, "flask", None)
    handler_shape.check_config("target", shape, BackendConfig(callable_methods=(method,)))


def test_a_method_that_nothing_makes_is_refused() -> None:
    shape = handler_shape.shape_of(Assigned, "flask", None)
    with pytest.raises(InvalidInputError, match="callable_methods has 'compile', which target lacks"):
        handler_shape.check_config("target", shape, BackendConfig(callable_methods=("compile",)))


class Unreadable:
    """As `inspect` finds a function in Python 3.14 whose annotation names what type checkers alone import."""

    @property
    def __signature__(self) -> Any:
        raise NameError("name 'Request' is not defined")

    def __call__(self, request: Any) -> str:
        return "called"


def test_a_handler_whose_annotations_cannot_be_read_is_taken_as_it_is() -> None:
    assert handler_shape.requires("target", Unreadable()) == ""
    assert not is_typed(Unreadable())
    assert not takes_nothing(Unreadable())


# -- adapters and warnings ---------------------------------------------------------------------------------------------


class Point(msgspec.Struct):
    x: int


class Shop:
    """Without a ``__call__``: all of its methods have types, or take nothing."""

    def more(self, point: Point) -> Point:
        return Point(point.x + 1)

    def nothing(self) -> str:
        return "nothing"


class Mixed:
    def more(self, point: Point) -> Point:
        return point

    def page(self, request: flask.Request) -> str:
        return request.path


class Trainer:
    def __call__(self, request: Any) -> str:
        return "called"

    def train(self, request: Any) -> str:
        return "trained"


def points() -> list[Point]:
    return [Point(1)]


def of_dict(payload: dict) -> Any:  # type: ignore[type-arg]
    return payload


def of_bytes(payload: bytes) -> str:
    return type(payload).__name__


def partly(point: Point, n=3) -> int:  # type: ignore[no-untyped-def]
    return int(point.x + n)


def of_any(request: Any) -> str:
    return type(request).__module__


@servekit.accept_batch
def of_batches(requests: list[flask.Request]) -> list[str]:
    return ["hello" for _ in requests]


@pytest.mark.parametrize(
    ("target", "adapter"),
    [(Shop, "json"), (points, "json"), (of_dict, "json"), (Mixed, "flask"), (of_bytes, "flask"), (of_any, "flask")],
)
def test_the_adapter_that_is_chosen(serve_instance: Any, target: Any, adapter: str) -> None:
    servekit.create_backend("b", target)
    assert servekit.list_backends()["b"]["adapter"] == adapter


def test_what_is_chosen_serves(serve_instance: Any) -> None:
    for target in (Shop, points, of_dict):
        servekit.create_backend(target.__name__, target)
        servekit.create_endpoint(target.__name__, f"/{target.__name__}", ["GET", "POST"], backend=target.__name__)
    client = serve_instance.client
    named = {"x-serve-call-method": "more"}
    assert client.post("/Shop", json={"x": 1}, headers=named).json() == {"x": 2}
    assert client.get("/Shop", headers={"x-serve-call-method": "nothing"}).json() == "nothing"
    assert client.get("/points").json() == [{"x": 1}]
    assert client.post("/of_dict", json={"a": [1]}).json() == {"a": [1]}
    assert client.post("/of_dict", json=[1]).status_code == 422
    assert "get" in client.get("/-/openapi.json").json()["paths"]["/points"]


def test_a_handler_that_gets_a_request_in_the_place_of_what_it_names_is_warned_of_once(
    serve_instance: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "servekit"):
        servekit.create_backend("b", of_bytes)
        servekit.create_endpoint("e", "/e", backend="b")
    (warned,) = [record.getMessage() for record in caplog.records if "annotated" in record.getMessage()]
    assert "backend 'b': the parameter 'payload' is annotated bytes, which is not validated" in warned
    assert "gets a flask.Request" in warned
    assert "adapter='json' or adapter='flask'" in warned
    assert serve_instance.client.get("/e").text == "Request"


@pytest.mark.parametrize("target", [of_any, of_batches, points, Trainer, Shop])
def test_others_are_not(serve_instance: Any, caplog: pytest.LogCaptureFixture, target: Any) -> None:
    with caplog.at_level(logging.WARNING, "servekit"):
        servekit.create_backend("b", target)
    assert [record.getMessage() for record in caplog.records if "annotat" in record.getMessage()] == []


def test_nor_is_one_whose_adapter_is_named(serve_instance: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "servekit"):
        servekit.create_backend("b", partly, adapter="flask")
        servekit.create_endpoint("e", "/e", backend="b")
    assert not [record for record in caplog.records if "annotat" in record.getMessage()]


def test_one_that_is_partly_typed_gets_no_route(serve_instance: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "servekit"):
        servekit.create_backend("b", partly)
    assert any("an endpoint with a route refuses it" in record.getMessage() for record in caplog.records)
    with pytest.raises(InvalidInputError, match="'n' has no annotation, and others have.*adapter='json'"):
        servekit.create_endpoint("e", "/e", backend="b")
    servekit.create_endpoint("e", backend="b")
    assert list(servekit.list_endpoints()) == ["e"]


@pytest.mark.parametrize(
    ("config", "reason"),
    [({"callable_methods": ["trian"]}, "did you mean 'train'"), ({"max_batch_size": 4}, "accept_batch")],
)
def test_a_change_is_checked_before_anything_changes(serve_instance: Any, config: dict[str, Any], reason: str) -> None:
    servekit.create_backend("b", Trainer)
    before = servekit.get_backend_config("b")
    with pytest.raises(InvalidInputError, match=reason):
        servekit.update_backend_config("b", config)
    assert servekit.get_backend_config("b") == before

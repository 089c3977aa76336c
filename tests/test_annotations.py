"""Which handlers say what they take."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import typing
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Optional, TypedDict, TypeVar

import flask
import msgspec
import pytest

import servekit
from servekit.annotations import doubt_of, is_typed, parameters_of
from servekit.interfaces import Request

pydantic = pytest.importorskip("pydantic")

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]

T = TypeVar("T")


class Item(msgspec.Struct):
    x: int


class Model(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    x: int


class Of(pydantic.BaseModel, Generic[T]):  # type: ignore[name-defined,misc]
    x: T


@dataclasses.dataclass
class Point:
    x: int


class Row(TypedDict):
    x: int


class Size(enum.Enum):
    S = 1


def struct(item: Item) -> None: ...
def model(item: Model, q: int = 3) -> None: ...
def point(point: Point, row: Row) -> None: ...
def generic(item: Of[int]) -> None: ...
def models(items: list[Item], size: Size | None = None) -> None: ...
def maybe(item: Optional[Item], request: Request) -> None: ...  # noqa: UP045
def plain(user: int) -> None: ...
def by_name(*, at: datetime.datetime = datetime.datetime.min) -> None: ...
def floats(xs: list[float], m: dict[str, tuple[int, ...]]) -> None: ...
def constrained(n: Annotated[int, msgspec.Meta(ge=1)], mode: Literal["a", "b"]) -> None: ...


def of_list(values: list) -> None: ...  # type: ignore[type-arg]
def of_anything_inside(values: dict[str, Any], more: list[Any]) -> None: ...
def of_dict(values: dict) -> None: ...  # type: ignore[type-arg]
def no_parameters() -> list[Item]: ...  # type: ignore[empty-body]
def one_model() -> Of[int]: ...


def passing(function: Any) -> Any:
    @functools.wraps(function)
    def passing_on(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return passing_on


def reading(function: Any) -> Any:
    @functools.wraps(function)
    def read(request: Any) -> Any:
        return function(msgspec.json.decode(request.get_data(), type=Item))

    return read


class OfClass:
    def __call__(self, item: Item) -> None: ...


class OfStatic:
    @staticmethod
    def __call__(item: Item) -> None: ...


class OfBatches:
    @servekit.accept_batch
    async def __call__(self, items: list[Item]) -> list[Any]:
        return items


TYPED = [
    struct,
    model,
    point,
    generic,
    models,
    maybe,
    plain,
    by_name,
    floats,
    constrained,
    OfClass,
    OfStatic,
    OfBatches,
]
TYPED += [of_list, of_anything_inside, of_dict, no_parameters, one_model]
TYPED += [OfClass(), OfClass().__call__, passing(struct), functools.partial(model, q=4)]


@pytest.mark.parametrize("target", TYPED, ids=lambda target: getattr(target, "__name__", type(target).__name__))
def test_every_parameter_says_what_json_or_a_url_can_give(target: Any) -> None:
    assert is_typed(target)


def anything(request) -> None: ...  # type: ignore[no-untyped-def]
def of_flask(request: flask.Request) -> None: ...
def of_any(request: Any) -> None: ...
@servekit.accept_batch
def of_batches(requests: list) -> None: ...  # type: ignore[type-arg]
@servekit.accept_batch
def of_any_batches(requests: list[Any]) -> None: ...
def of_requests(requests: list[flask.Request]) -> None: ...
def of_bytes(request: bytes) -> None: ...
def of_text() -> str: ...  # type: ignore[empty-body]
def of_plain_dict() -> dict[str, int]: ...  # type: ignore[empty-body]
def of_unknown(request: Unknown) -> None: ...
def of_request(request: Request) -> None: ...
def maybe_request(request: Request | None, item: Item) -> None: ...
def first_is_not(request, item: Item | None = None) -> None: ...  # type: ignore[no-untyped-def]
def one_is_not(item: Item, request: flask.Request) -> None: ...
def of_several(*items: Item) -> None: ...
def of_names(item: Item, **more: int) -> None: ...
def none() -> None: ...


class Without:
    pass


UNTYPED = [anything, of_flask, of_any, of_batches, of_requests, of_unknown, of_request, first_is_not, one_is_not]
UNTYPED += [of_any_batches, of_bytes, of_text, of_plain_dict, of_several, of_names, none]
UNTYPED += [lambda request: request, Without, len, print, int, "module:attr"]
UNTYPED += [maybe_request, reading(struct), flask.Flask("x"), functools.partial(anything), typing.Any, 3]


@pytest.mark.parametrize("target", UNTYPED, ids=lambda target: getattr(target, "__name__", type(target).__name__))
def test_any_other_handler_does_not(target: Any) -> None:
    assert not is_typed(target)


def test_a_class_of_the_enclosing_function_is_found_where_the_handler_uses_it() -> None:
    class Local(msgspec.Struct):
        x: int

    def handler(item: Local) -> Any:
        return Local(item.x)

    assert is_typed(handler)


def test_what_a_partial_has_bound_by_name_is_not_the_requests() -> None:
    assert [parameter.name for parameter in parameters_of(functools.partial(model, q=4))] == ["item"]
    assert not is_typed(functools.partial(anything, request=1))


UserId = typing.NewType("UserId", int)


class Opaque:
    pass


class Like(typing.Protocol):
    path: str


class OwnRequest(flask.Request):
    pass


def of_new_type(user: UserId) -> None: ...
def of_opaque(thing: Opaque) -> None: ...
def of_not_found(thing: Unknown) -> None: ...
def with_a_bare_one(item: Item, n=3) -> None: ...  # type: ignore[no-untyped-def]
def bare_second(a: int, b) -> None: ...  # type: ignore[no-untyped-def]
def opaque_first(thing: Opaque, item: Item) -> None: ...


@pytest.mark.parametrize(
    ("target", "name", "is_meant_typed", "said"),
    [
        (of_bytes, "request", False, "is annotated bytes, which is not validated"),
        (of_new_type, "user", False, "which is not validated"),
        (of_opaque, "thing", False, "is annotated Opaque"),
        (of_not_found, "thing", False, "'Unknown', a name that is not to be found"),
        (of_request, "request", False, "servekit's Request"),
        (of_several, "items", False, "takes whatever comes"),
        (with_a_bare_one, "n", True, "has no annotation"),
        (bare_second, "b", True, "has no annotation"),
        (of_names, "more", True, "takes whatever comes"),
        (opaque_first, "thing", True, "is annotated Opaque"),
        (one_is_not, "request", True, "is annotated Request"),
    ],
)
def test_what_keeps_a_handler_from_being_typed(target: Any, name: str, is_meant_typed: bool, said: str) -> None:
    doubt = doubt_of(target)
    assert doubt is not None
    assert (doubt.parameter.name, doubt.is_meant_typed) == (name, is_meant_typed)
    assert said in str(doubt)


def own(request: OwnRequest, n: int = 3) -> None: ...
def like(request: Like) -> None: ...
def maybe_flask(request: flask.Request | None) -> None: ...
def named(request: flask_of_checkers.Request, n: int) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def of_object(request: object, n: int = 3) -> None: ...
@servekit.accept_batch
def of_flask_batches(requests: list[flask.Request], ns: list[int]) -> None: ...


REQUESTS = [anything, of_flask, of_any, of_batches, of_any_batches, of_flask_batches, first_is_not, none, of_object]
REQUESTS += [own, like, maybe_flask, named, struct, "module:attr", print]


@pytest.mark.parametrize("target", REQUESTS, ids=lambda target: getattr(target, "__name__", type(target).__name__))
def test_there_is_no_doubt_of_one_that_takes_a_request(target: Any) -> None:
    assert doubt_of(target) is None

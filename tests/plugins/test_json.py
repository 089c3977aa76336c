"""The adapter `json`: what handlers get, what is refused, and what goes back."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import http
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, TypedDict

import msgspec
import pytest

from servekit.errors import InvalidInputError, ResultError
from servekit.interfaces import Request, RequestAdapter, Response
from servekit_json import create_adapter, servekit_register_request_adapters
from servekit_json.adapter import JsonAdapter
from servekit_json.validators import REFERENCE

pydantic = pytest.importorskip("pydantic")


class Item(msgspec.Struct):
    price: float
    count: int = 1


class Order(msgspec.Struct, forbid_unknown_fields=True):
    items: Annotated[list[Item], msgspec.Meta(max_length=3)]
    tags: dict[str, int] = {}
    rooms: dict[int, str] = {}


class ItemModel(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    price: float


class OrderModel(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    items: list[ItemModel]


@dataclasses.dataclass
class Point:
    x: int


class Pair(TypedDict):
    one: int


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


def total(order: Order) -> Any:
    return {"total": sum(item.price * item.count for item in order.items)}


def total_of_model(order: OrderModel) -> OrderModel:
    return OrderModel(items=[ItemModel(price=sum(item.price for item in order.items))])


def answer(
    handler: Any, body: Any = b"", *, query: str = "", path: dict[str, Any] | None = None, **options: Any
) -> Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = Request("POST", "/", query.encode(), [], content, "e", "/", "request-1", "", path)
    adapter, fitted = create_adapter(**options).fit(handler, batches=False)
    return adapter.call(fitted, request)


def call(handler: Any, body: Any = b"", **more: Any) -> tuple[int, Any]:
    response = answer(handler, body, **more)
    assert dict(response.headers)["Content-Type"] == "application/json"
    assert isinstance(response.body, bytes)
    return response.status, json.loads(response.body)


def problems(answered: tuple[int, Any]) -> list[tuple[list[Any], str]]:
    assert answered[0] == 422
    assert (answered[1]["error"]["type"], answered[1]["error"]["request_id"]) == ("invalid_request", "request-1")
    return [(problem["loc"], problem["msg"]) for problem in answered[1]["error"]["problems"]]


def test_the_plugin_gives_the_adapter_and_its_options() -> None:
    factory = servekit_register_request_adapters()["json"]
    assert isinstance(factory(strict=True, max_problems=3), RequestAdapter)
    with pytest.raises(ValueError, match="max_problems is 0"):
        factory(max_problems=0)


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "loc", "said"),
    [
        (
            {"items": [{"price": 1}, {"price": 2}, {"price": "free"}]},
            ["items", 2, "price"],
            "Expected `float`, got `str`",
        ),
        ({"items": [{"price": 1}, {}]}, ["items", 1, "price"], "Object missing required field `price`"),
        ({"items": [], "coupon": "x"}, ["coupon"], "Object contains unknown field `coupon`"),
        ({"items": [{"price": 1}] * 4}, ["items"], "Expected `array` of length <= 3"),
        ({"items": [], "tags": {"a": "b"}}, ["tags", "..."], "Expected `int`, got `str`"),
        ({"items": [], "rooms": {"a": "b"}}, ["rooms"], "Expected `int`, got `str`"),
        ([], [], "Expected `object`, got `array`"),
    ],
)
def test_a_body_that_does_not_fit_is_a_422_that_says_where(body: Any, loc: list[Any], said: str) -> None:
    assert problems(call(total, body)) == [(["body", *loc], said)]


def test_the_message_is_the_first_problem() -> None:
    body = {"items": [{"price": 1}, {"price": "free"}, {}]}
    assert call(total, body)[1]["error"]["message"] == "body.items[1].price: Expected `float`, got `str`"
    message = call(total_of_model, body)[1]["error"]["message"]
    assert message.startswith("body.items[1].price: Input should be a valid number")
    assert message.endswith(" (1 more)")


def test_pydantic_names_every_problem_up_to_a_number() -> None:
    body = {"items": [{"price": 1}, {"price": "free"}, {}, {"price": None}]}
    found = problems(call(total_of_model, body))
    assert [loc for loc, _ in found] == [["body", "items", n, "price"] for n in (1, 2, 3)]
    assert found[1][1] == "Field required"
    assert len(problems(call(total_of_model, body, max_problems=2))) == 2


@pytest.mark.parametrize("handler", [total, total_of_model])
@pytest.mark.parametrize("body", [b"", b"{", b"price=1", b"\xff", b'{"items": [], "\xff": 1}'])
def test_what_is_no_json_is_a_400(handler: Any, body: bytes) -> None:
    status, answered = call(handler, body)
    assert (status, answered["error"]["type"]) == (400, "bad_json")
    assert [problem["loc"] for problem in answered["error"]["problems"]] == [["body"]]


def test_an_empty_body_is_called_so() -> None:
    for handler in (total, total_of_model):
        assert call(handler, b"")[1]["error"]["message"] == "body: the body is empty; JSON is expected"


@pytest.mark.parametrize("body", [b'{"items": [{"price": NaN}]}', b'{"items": [{"price": -Infinity}]}'])
def test_what_json_does_not_have_is_no_json(body: bytes) -> None:
    for handler in (total, total_of_model):
        status, answered = call(handler, body)
        assert (status, answered["error"]["type"]) == (400, "bad_json")
    assert call(total_of_model, {"items": [], "note": "NaN"})[0] == 200


def test_keys_that_are_unknown_stand_in_brackets() -> None:
    def handler(rooms: dict[str, dict[str, int]]) -> Any:
        return rooms

    assert call(handler, {"a": {"b": "x"}})[1]["error"]["message"] == "body[...][...]: Expected `int`, got `str`"


def test_what_is_nested_too_deeply_is_a_400() -> None:
    def anything(value: list[Any]) -> Any:
        return value

    assert call(anything, b"[" * 100_000 + b"]" * 100_000)[0] == 400


def test_strict_or_not() -> None:
    body = {"items": [{"price": "2.5"}]}
    for strict, statuses in [(None, (422, 200)), (True, (422, 422)), (False, (200, 200))]:
        assert (call(total, body, strict=strict)[0], call(total_of_model, body, strict=strict)[0]) == statuses


def test_dataclasses_typed_dicts_lists_and_what_is_optional() -> None:
    def pair(pair: Pair | None = None) -> Any:
        return {"pair": pair}

    assert call(lambda_of(Point), {"x": 1}) == (200, {"x": 1})
    assert call(pair, {"one": 1}) == (200, {"pair": {"one": 1}})
    assert call(pair, b"") == (200, {"pair": None})
    assert call(lambda_of(list[Item]), [{"price": 1}]) == (200, [{"price": 1.0, "count": 1}])
    assert call(lambda_of(list[ItemModel]), [{"price": 1}]) == (200, [{"price": 1.0}])


@dataclasses.dataclass(frozen=True)
class Defaults:
    a: int
    kind: ClassVar[str] = "k"
    b: str | None = None
    c: list[Point] = dataclasses.field(default_factory=list)
    d: int = 3
    inner: Defaults | None = None


@dataclasses.dataclass
class AllDefaults:
    a: int = 1


class Holder(msgspec.Struct):
    one: AllDefaults


def test_a_dataclass_keeps_its_defaults_on_the_way_back() -> None:
    def nested(value: dict[str, list[Defaults]]) -> Any:
        return value

    def held(value: Holder) -> Any:
        return value

    inner = {"a": 2, "b": None, "c": [], "d": 3, "inner": None}
    assert call(nested, {"x": [{"a": 1, "inner": {"a": 2}}]}) == (200, {"x": [{**inner, "a": 1, "inner": inner}]})
    assert call(held, {"one": {}}) == (200, {"one": {"a": 1}})


def lambda_of(annotation: Any) -> Any:
    def handler(value: Any) -> Any:
        return value

    handler.__annotations__ = {"value": annotation}
    return handler


def test_a_parameter_that_is_not_annotated_is_the_body_as_it_is() -> None:
    assert call(lambda data: data["x"], {"x": [1]}) == (200, [1])


# -- path and query ----------------------------------------------------------------------------------------------------


def everything(
    n: int,
    f: float,
    b: bool,
    s: str,
    at: datetime.datetime,
    size: Size,
    mode: Literal["fast", "slow"],
    id: uuid.UUID | None = None,
    price: Decimal = Decimal("1.5"),
) -> Any:
    return [n, f, b, s, at, size, mode, id, price]


QUERY = "n=3&f=1.5&b=true&s=a%20b&at=2026-01-02T00:00:00&size=l&mode=fast"


def test_plain_values_are_read_from_the_query() -> None:
    expected = [3, 1.5, True, "a b", "2026-01-02T00:00:00", "l", "fast", None, "1.5"]
    assert call(everything, query=QUERY) == (200, expected)
    assert call(everything, query=f"n=9&{QUERY}&id={uuid.UUID(int=1)}&price=2&other=x") == (
        200,
        [*expected[:7], str(uuid.UUID(int=1)), "2"],
    )


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_of_the_query_are_finite(value: str) -> None:
    def handler(a: float, b: Annotated[float, pydantic.Field(ge=-1)] | None = None) -> Any:
        return [a, b]

    assert problems(call(handler, query=f"a={value}")) == [(["query", "a"], f"Expected a finite number, got '{value}'")]
    assert call(handler, query=f"a=1&b={value}")[0] == 422


def test_every_parameter_that_does_not_fit_is_named() -> None:
    found = problems(call(everything, query="n=x&f=1&b=maybe&at=now&size=m&mode=fast"))
    assert [loc for loc, _ in found] == [["query", name] for name in ("n", "b", "s", "at", "size")]
    assert found[0][1] == "Expected `int`, got 'x'"
    assert found[2][1] == "the parameter is missing"


def test_a_variable_of_the_route_is_read_from_the_path() -> None:
    def handler(user: int, item: Item, q: int = 3) -> Any:
        return [user, item.price, q]

    assert call(handler, {"price": 2}, path={"user": 7}) == (200, [7, 2.0, 3])
    assert call(handler, {"price": 2}, path={"user": "7"}, query="user=8&q=4") == (200, [7, 2.0, 4])
    found = problems(call(handler, {"price": "x"}, path={"user": "x"}, query="q=y"))
    assert [loc for loc, _ in found] == [["path", "user"], ["body", "price"], ["query", "q"]]


def test_constraints_hold_for_either_library() -> None:
    def handler(a: Annotated[int, msgspec.Meta(ge=1)], b: Annotated[int, pydantic.Field(ge=1)]) -> Any:
        return [a, b]

    assert call(handler, query="a=1&b=2") == (200, [1, 2])
    assert [loc for loc, _ in problems(call(handler, query="a=0&b=0"))] == [["query", "a"], ["query", "b"]]


def test_the_request_is_there_for_whoever_wants_it() -> None:
    def handler(request: Request, q: int = 1) -> Any:
        return [request.id, q]

    assert call(handler, query="q=2") == (200, ["request-1", 2])


def test_parameters_may_be_by_position_or_by_name_alone() -> None:
    def handler(a: int, /, b: int, *, c: int = 3) -> Any:
        return [a, b, c]

    assert call(handler, query="a=1&b=2") == (200, [1, 2, 3])


def test_a_handler_without_a_parameter() -> None:
    assert call(lambda: {"a": 1}, b"anything") == (200, {"a": 1})


# -- what goes back ----------------------------------------------------------------------------------------------------

RESULTS = [
    (Item(2.0), {"price": 2.0, "count": 1}),
    (ItemModel(price=2.0), {"price": 2.0}),
    ([ItemModel(price=2.0)], [{"price": 2.0}]),
    ({"items": [Item(2.0)]}, {"items": [{"price": 2.0, "count": 1}]}),
    (Point(3), {"x": 3}),
    ("text", "text"),
    (1, 1),
    (True, True),
    ([None], [None]),
    (Size.LARGE, "l"),
    (
        {"at": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), "n": None},
        {"at": "2026-01-02T00:00:00Z", "n": None},
    ),
    ((1, 2, "x", 4), [1, 2, "x", 4]),
]


@pytest.mark.parametrize(("result", "expected"), RESULTS, ids=lambda value: str(value)[:30])
def test_results(result: Any, expected: Any) -> None:
    assert call(lambda: result) == (200, expected)


def test_a_status_of_ones_own() -> None:
    assert call(lambda: ({"a": 1}, 201)) == (201, {"a": 1})
    response = answer(lambda: (Item(1.0), 202, {"X-A": "b"}))
    assert (response.status, ("X-A", "b") in response.headers) == (202, True)
    sold_out = Response(409, [("Content-Type", "application/json")], b'"sold out"')
    assert answer(lambda: sold_out) is sold_out


@pytest.mark.parametrize("status", [http.HTTPStatus.CREATED, "201 Made"])
def test_a_status_is_what_flask_takes_for_one(status: Any) -> None:
    assert call(lambda: ({"a": 1}, status)) == (201, {"a": 1})
    assert call(lambda: ({"a": 1}, status, {"X-A": "b"})) == (201, {"a": 1})
    assert create_adapter().answer_item(({"a": 1}, status), None).status == 201  # type: ignore[arg-type]


def test_headers_of_ones_own_take_the_place_of_the_adapters() -> None:
    response = answer(lambda: ({"a": 1}, {"content-type": "application/problem+json"}))
    assert (response.status, response.headers) == (200, [("content-type", "application/problem+json")])


def test_a_tuple_is_a_list_where_the_handler_says_so() -> None:
    def pair() -> tuple[int, int]:
        return 1, 200

    assert call(pair) == (200, [1, 200])


def test_none_is_null_where_the_handler_says_so() -> None:
    def maybe() -> Item | None:
        return None

    def never() -> None:
        return None

    class Local(msgspec.Struct):
        x: int

    def of_local(item: Local) -> None:
        assert isinstance(item, Local)

    assert call(maybe) == call(never) == call(of_local, {"x": 1}) == (200, None)
    for silent in (lambda: None, lambda_of(Item)):
        with pytest.raises(ResultError, match="returned None, or ended without a return statement"):
            create_adapter().fit(silent, batches=False)[0].encode(None)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (b"bytes", "returned bytes, which are no JSON"),
        (object(), "result has the type object"),
        (Item, "result has the type msgspec._core.StructMeta"),
        ({"a": object()}, r"result\['a'\] has the type object"),
        ({"a": [Item(float("nan"))]}, r"result\['a'\]\[0\]\['price'\] is nan"),
        ([{"x": float("inf"), "y": None}], r"result\[0\]\['x'\] is inf"),
    ],
)
def test_what_is_no_result(result: Any, said: str) -> None:
    with pytest.raises(ResultError, match=said):
        JsonAdapter().encode(result)


def test_generators_are_streamed_as_lines_and_closed() -> None:
    closed = []

    def items() -> Iterator[Any]:
        try:
            yield Item(1.0)
            yield [1]
        finally:
            closed.append("sync")

    body: Any = answer(lambda: items()).body
    assert b"".join(body) == b'{"price":1.0,"count":1}\n[1]\n'
    body = answer(lambda: items()).body
    next(body)
    body.close()
    assert closed == ["sync", "sync"]


def test_async_generators_are_streamed_as_lines_and_closed() -> None:
    import asyncio

    closed = []

    async def items() -> AsyncIterator[Any]:
        try:
            yield Item(1.0)
            yield [1]
        finally:
            closed.append("async")

    async def check() -> None:
        body: Any = answer(items).body
        assert [line async for line in body] == [b'{"price":1.0,"count":1}\n', b"[1]\n"]
        body = answer(items).body
        await anext(body)
        await body.aclose()

    asyncio.run(check())
    assert closed == ["async", "async"]


def test_a_validation_error_of_the_handlers_own_is_its_fault() -> None:
    def handler(order: Order) -> Any:
        msgspec.json.decode(b'"x"', type=int)

    with pytest.raises(msgspec.ValidationError):
        call(handler, {"items": []})


# -- handlers that cannot be served ------------------------------------------------------------------------------------


class Opaque:
    pass


def of_something(order: Opaque) -> None: ...
def of_a_name(order: Ordre) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def of_two(order: Order, item: Item) -> None: ...
def of_whatever(*orders: Order) -> None: ...
def of_names(**orders: Order) -> None: ...
def of_one(order: Order) -> None: ...
def of_list(orders: list[Order], n: list[int] = []) -> None: ...  # noqa: B006
def of_nothing() -> None: ...


@pytest.mark.parametrize(
    ("handler", "batches", "said"),
    [
        (of_something, False, "'order' of the handler of_something is annotated as .*Opaque.*, which no request"),
        (of_a_name, False, "annotated as 'Ordre', which is not to be found where the handler runs"),
        (of_two, False, "order, item of the handler of_two would all be the body"),
        (of_whatever, False, "'orders' of the handler of_whatever takes whatever comes"),
        (of_names, False, "takes whatever comes"),
        (of_one, True, r"is given a list: annotate it as list\[…\]"),
        (of_list, True, "'n' of the handler of_list, which accepts batches, has a default"),
        (of_nothing, True, "of_nothing accepts batches, and takes nothing"),
    ],
)
def test_a_handler_that_no_request_can_be_given_to_is_refused(handler: Any, batches: bool, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        create_adapter().fit(handler, batches=batches)


# -- methods, handles, types -------------------------------------------------------------------------------------------


class Shop:
    def __call__(self, order: Order) -> Any:
        return {"items": len(order.items)}

    def first(self, items: list[Item]) -> Item:
        return items[0]


def test_the_methods_of_an_object_are_handlers_of_their_own() -> None:
    shop = Shop()
    assert call(shop, {"items": []}) == (200, {"items": 0})
    assert call(shop.first, [{"price": 1}]) == (200, {"price": 1.0, "count": 1})
    assert call(shop.first, {"items": []})[0] == 422


def test_types_for_the_document() -> None:
    def handler(user: int, order: OrderModel, q: Size = Size.SMALL) -> list[Item]:
        """Place an order.

        Whatever it has.
        """
        raise NotImplementedError

    types = create_adapter().fit(handler, batches=False)[0].types()
    assert types is not None
    assert (types.summary, types.description) == ("Place an order.", "Whatever it has.")
    assert types.parameters[0] == {"name": "user", "required": True, "schema": {"type": "integer"}}
    assert types.parameters[1]["required"] is False
    assert types.parameters[1]["schema"]["default"] == "s"
    assert types.body == {"$ref": "#/components/schemas/OrderModel"}
    assert types.result == {"type": "array", "items": {"$ref": "#/components/schemas/Item"}}
    assert set(types.schemas) == {"OrderModel", "ItemModel", "Item", "Size"}
    assert create_adapter().types() is None


class Outcome(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    total: float = pydantic.Field(default=float("nan"), alias="sum")

    @pydantic.computed_field  # type: ignore[untyped-decorator]
    @property
    def double(self) -> float:
        return self.total * 2


def test_the_result_is_described_as_it_is_encoded() -> None:
    def handler(outcome: Outcome, n: float = float("nan")) -> Outcome:
        return outcome

    types = create_adapter().fit(handler, batches=False)[0].types()
    assert types is not None
    assert (types.body, types.result) == ({"$ref": f"{REFERENCE}Outcome"}, {"$ref": f"{REFERENCE}OutcomeResult"})
    assert types.schemas["Outcome"]["properties"] == {"sum": {"title": "Sum", "type": "number"}}
    assert set(types.schemas["OutcomeResult"]["properties"]) == {"total", "double"}
    assert call(handler, {"sum": 1}) == (200, {"total": 1.0, "double": 2.0})
    assert types.parameters[0]["schema"] == {"type": "number"}


def test_structs_are_validated_where_there_is_no_pydantic(tmp_path: Any) -> None:
    (tmp_path / "pydantic.py").write_text("raise ModuleNotFoundError('no', name='pydantic')")
    program = """
import msgspec
from servekit.interfaces import Request
from servekit_json import create_adapter

class Item(msgspec.Struct):
    price: float

def handler(item: Item):
    return {"seen": item}

for body in (b'{"price": 1}', b'{"price": ""}'):
    adapter, fitted = create_adapter().fit(handler, batches=False)
    answer = adapter.call(fitted, Request("POST", "/", b"", [], body, "e", "/", "1", ""))
    print(answer.status, answer.body.decode())
"""
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60, check=True
    )
    said = "Expected `float`, got `str`"
    error = {"type": "invalid_request", "message": f"body.price: {said}", "request_id": "1"}
    problem = {"loc": ["body", "price"], "msg": said}
    first, second = done.stdout.splitlines()
    assert first == '200 {"seen":{"price":1.0}}'
    assert json.loads(second.removeprefix("422 ")) == {"error": {**error, "problems": [problem]}}

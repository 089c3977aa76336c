"""Made of what servekit gives to plugin authors, and nothing else."""

import dataclasses
import json
from typing import Annotated, Any

import msgspec
import pydantic
import pytest
from servekit_validated import ValidatedAdapter

import servekit as serve
from servekit.interfaces import Request, Response
from servekit.testing.conformance import RequestAdapterTests, Seen

# -- servekit's kit ----------------------------------------------------------------------------------------------------


class Carried(msgspec.Struct):
    data: str


class CarriedModel(pydantic.BaseModel):
    data: str


class JsonTests(RequestAdapterTests):
    content_type = "application/json"
    sets_status = sets_headers = streams = False
    only_call = True
    carrier: Any

    def make_adapter(self):
        return ValidatedAdapter()

    def request_body(self, data):
        return json.dumps({"data": data.decode("latin-1")}).encode()

    def answered_data(self, body):
        return json.loads(body)["data"].encode("latin-1")

    def body_of(self, argument):
        return argument.data.encode("latin-1")

    def result(self, answer):
        return self.carrier(data=answer.body.decode("latin-1"))

    def handler(self, act):
        def handler(argument: self.carrier):
            return self.result(act(Seen(self.body_of(argument))))

        return handler


class TestStructs(JsonTests):
    carrier = Carried


class TestModels(JsonTests):
    carrier = CarriedModel


class TestResponses(JsonTests):
    """A `Response` goes out as it is, so that everything can be said by it."""

    sets_status = sets_headers = streams = True
    carrier = Carried

    def answered_data(self, body):
        return body

    def result(self, answer):
        return answer


# -- what is validated, and what is said -------------------------------------------------------------------------------


class Item(msgspec.Struct):
    price: float
    count: int = 1


class Order(msgspec.Struct, forbid_unknown_fields=True):
    items: Annotated[list[Item], msgspec.Meta(max_length=3)]
    tags: dict[str, int] = {}
    rooms: dict[int, str] = {}


class ItemModel(pydantic.BaseModel):
    price: float


class OrderModel(pydantic.BaseModel):
    items: list[ItemModel]


@dataclasses.dataclass
class Point:
    x: int


def total(order: Order):
    return {"total": sum(item.price * item.count for item in order.items)}


def total_of_model(order: OrderModel) -> OrderModel:
    return OrderModel(items=[ItemModel(price=sum(item.price for item in order.items))])


def call(handler, body, adapter=None):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = Request("POST", "/", b"", [], content, "e", "/", "request-1", "")
    response = (adapter or ValidatedAdapter()).call(handler, request)
    assert dict(response.headers)["Content-Type"] == "application/json"
    return response.status, json.loads(response.body)


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
def test_a_body_that_does_not_fit_is_a_422_that_says_where(body, loc, said):
    assert call(total, body) == (422, {"detail": [{"loc": loc, "msg": said}]})


def test_pydantic_names_every_problem_up_to_a_number():
    body = {"items": [{"price": 1}, {"price": "free"}, {}, {"price": None}]}
    status, answer = call(total_of_model, body)
    assert status == 422
    assert [problem["loc"] for problem in answer["detail"]] == [["items", n, "price"] for n in (1, 2, 3)]
    assert answer["detail"][1]["msg"] == "Field required"
    assert len(call(total_of_model, body, ValidatedAdapter(max_problems=2))[1]["detail"]) == 2


@pytest.mark.parametrize("handler", [total, total_of_model])
@pytest.mark.parametrize("body", [b"", b"{", b"price=1", b"\xff", b'{"items": [], "\xff": 1}'])
def test_what_is_no_json_is_a_400(handler, body):
    status, answer = call(handler, body)
    assert status == 400
    assert [problem["loc"] for problem in answer["detail"]] == [[]]


def test_what_is_nested_too_deeply_is_a_400():
    def anything(value: list):
        return value

    assert call(anything, b"[" * 100_000 + b"]" * 100_000)[0] == 400


@pytest.mark.parametrize("handler", [total, total_of_model])
def test_strict_or_not(handler):
    body = {"items": [{"price": "2.5"}]}
    assert call(handler, body)[0] == 422
    assert "2.5" in json.dumps(call(handler, body, ValidatedAdapter(strict=False))[1])


RESULTS = [
    (Item(2.0), {"price": 2.0, "count": 1}),
    (ItemModel(price=2.0), {"price": 2.0}),
    ([ItemModel(price=2.0)], [{"price": 2.0}]),
    ({"items": [Item(2.0)]}, {"items": [{"price": 2.0, "count": 1}]}),
    (Point(3), {"x": 3}),
]


@pytest.mark.parametrize(("result", "answer"), RESULTS)
def test_results(result, answer):
    def handler(point: Point):
        return result

    assert call(handler, {"x": 1}) == (200, answer)


@pytest.mark.parametrize("result", [None, "text", b"bytes", 1, Item, Point, {"a": object()}])
def test_what_is_no_result(result):
    with pytest.raises(TypeError):
        ValidatedAdapter().encode(result)


class Shop:
    def __call__(self, order: Order):
        return {"items": len(order.items)}

    def first(self, items: list[Item]):
        return items[0]


def test_the_methods_of_an_object_are_handlers_of_their_own():
    shop, adapter = Shop(), ValidatedAdapter()
    for _ in range(3):
        assert call(shop, {"items": []}, adapter) == (200, {"items": 0})
        assert call(shop.first, [{"price": 1}], adapter) == (200, {"price": 1.0, "count": 1})
        assert call(shop.first, {"items": []}, adapter)[0] == 422
    assert len(adapter._schemas) == 2


class Opaque:
    pass


def without(order): ...
def of_nothing(): ...
def of_something(order: Opaque): ...
def of_a_name(order: "Ordre"): ...  # noqa: F821


@pytest.mark.parametrize(
    ("handler", "error", "said"),
    [
        (without, TypeError, r"the handler without does not say what it wants: write `def without\(order: Order\)`"),
        (of_nothing, TypeError, "does not say what it wants"),
        (of_something, NotImplementedError, "no body can be validated against .*Opaque"),
        (of_a_name, TypeError, "cannot be read .*Ordre"),
    ],
)
def test_a_handler_that_asks_for_nothing_of_use_is_told_so(handler, error, said):
    with pytest.raises(error, match=said):
        call(handler, {})


def test_a_validation_error_of_the_handlers_own_is_its_fault():
    def handler(order: Order):
        msgspec.json.decode(b'"x"', type=int)

    with pytest.raises(msgspec.ValidationError):
        call(handler, {"items": []})


# -- installed ---------------------------------------------------------------------------------------------------------


def test_an_endpoint(serve_instance):
    serve.create_backend("total", total, adapter="validated")
    serve.create_endpoint("total", "/total", methods=["POST"], backend="total")
    post = serve_instance.client.post
    assert post("/total", json={"items": [{"price": 2, "count": 3}]}).json() == {"total": 6.0}
    refused = post("/total", json={"items": [{"price": "2"}]})
    assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["items", 0, "price"])


def test_options(serve_instance):
    serve.create_backend("total", total, adapter="validated", adapter_options={"strict": False})
    serve.create_endpoint("total", "/total", methods=["POST"], backend="total")
    assert serve_instance.client.post("/total", json={"items": [{"price": "2"}]}).json() == {"total": 2.0}
    with pytest.raises(ValueError, match="did you mean 'strict'"):
        serve.create_backend("other", total, adapter="validated", adapter_options={"strikt": False})
    with pytest.raises(ValueError, match="max_problems is 0"):
        ValidatedAdapter(max_problems=0)


def test_a_status_of_ones_own(serve_instance):
    def refuse(order: Order):
        return Response(409, [("Content-Type", "application/json")], b'{"detail": "sold out"}')

    serve.create_backend("refuse", refuse, adapter="validated")
    serve.create_endpoint("refuse", "/refuse", methods=["POST"], backend="refuse")
    answer = serve_instance.client.post("/refuse", json={"items": []})
    assert (answer.status_code, answer.json()) == (409, {"detail": "sold out"})

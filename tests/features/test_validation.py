"""Models in, models out, on every runtime: by annotation, in batches, by handles, and in the OpenAPI document."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from tests.support.runtimes import NOT_ON_RAY

import servekit
from servekit import errors
from servekit.testing.instances import ServedInstance

pydantic = pytest.importorskip("pydantic")

# Ray has a part in which models a replica can import, and none in how they are read and written.
pytestmark = NOT_ON_RAY


class Item(msgspec.Struct):
    price: float


class Order(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    items: list[float]


def total(order: Order, factor: int = 1) -> float:
    """What an order costs."""
    return factor * sum(order.items)


async def rename(user: int, item: Item) -> Item:
    return Item(item.price + user)


async def counted(n: int) -> AsyncIterator[Item]:
    for number in range(n):
        yield Item(float(number))


class Shop:
    def __init__(self, factor: int = 2) -> None:
        self.factor = factor

    def __call__(self, item: Item) -> float:
        return item.price * self.factor

    def more(self, item: Item, by: int) -> float:
        return item.price + by

    def opaque(self, item: Shop) -> None: ...

    def nothing(self) -> str:
        return "nothing"


def untyped(request: Any) -> str:
    return type(request).__module__


@servekit.accept_batch
def doubled(items: list[Item], plus: list[int]) -> list[Any]:
    if any(item.price < 0 for item in items):
        raise ValueError("negative")
    return [Item(2 * item.price + more) for item, more in zip(items, plus, strict=True)]


@servekit.accept_batch
async def doubled_later(items: list[Item], plus: list[int]) -> list[Any]:
    return [Item(2 * item.price + more) for item, more in zip(items, plus, strict=True)]


def serve_it(
    serve: ServedInstance, target: Any, route: str = "/e", *, adapter: str | None = None, **config: Any
) -> Any:
    serve.create_backend("b", target, config=config, adapter=adapter)
    serve.create_endpoint("e", route, ["GET", "POST"], backend="b")
    return serve.client


def adapter_of(serve: ServedInstance) -> Any:
    return serve.list_backends()["b"]["adapter"]


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_the_annotations_choose_the_adapter(serve: ServedInstance) -> None:
    client = serve_it(serve, total)
    assert adapter_of(serve) == serve.status()["backends"]["b"]["adapter"] == "json"
    assert client.post("/e?factor=2", json={"items": [1, 2]}).json() == 6.0
    refused = client.post("/e?factor=x", json={"items": [1, "free"]})
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/json")
    error = refused.json()["error"]
    assert [problem["loc"] for problem in error["problems"]] == [["body", "items", 1], ["query", "factor"]]
    assert error["request_id"] == refused.headers["x-request-id"]


def test_without_them_it_is_what_it_was(serve: ServedInstance) -> None:
    assert serve_it(serve, untyped).get("/e").text == "flask.wrappers"
    assert adapter_of(serve) == "flask"


def test_who_names_an_adapter_gets_it(serve: ServedInstance) -> None:
    client = serve_it(serve, untyped, adapter="json")
    assert adapter_of(serve) == "json"
    assert client.post("/e", json={"a": 1}).json() == "builtins"


def test_an_async_def_and_a_variable_of_the_route(serve: ServedInstance) -> None:
    client = serve_it(serve, rename, "/users/<int:user>")
    assert client.post("/users/7", json={"price": 1}).json() == {"price": 8.0}
    assert client.post("/users/7", json={}).json()["error"]["problems"][0]["loc"] == ["body", "price"]


def test_a_generator_is_streamed_as_lines(serve: ServedInstance) -> None:
    answer = serve_it(serve, counted).get("/e?n=2")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.text == '{"price":0.0}\n{"price":1.0}\n'


def test_methods_of_a_class(serve: ServedInstance) -> None:
    client = serve_it(serve, Shop, callable_methods=["more", "opaque", "nothing"])
    assert client.post("/e", json={"price": 2}).json() == 4.0
    named = {
        name: {"x-serve-call-method": name, "accept": "application/json"} for name in ("more", "opaque", "nothing")
    }
    assert client.post("/e?by=3", json={"price": 2}, headers=named["more"]).json() == 5.0
    assert client.post("/e", headers=named["nothing"]).json() == "nothing"
    refused = client.post("/e", json={"price": 2}, headers=named["opaque"])
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "method_not_callable")
    assert "the method 'opaque' cannot be called: the parameter 'item'" in refused.json()["error"]["message"]
    assert client.post("/e", json={"price": 2}).json() == 4.0


@pytest.mark.runtimes("inprocess", "process", "ray")
def test_by_handles_arguments_are_the_handlers_own(serve: ServedInstance) -> None:
    serve_it(serve, total)
    handle = servekit.get_handle("e")
    assert handle.remote(Order(items=[1, 2]), factor=3).result() == 9
    with pytest.raises(TypeError, match="order"):
        handle.remote().result()


@pytest.mark.parametrize("target", [doubled, doubled_later])
def test_in_a_batch_one_that_does_not_fit_is_refused_alone(serve: ServedInstance, target: Any) -> None:
    client = serve_it(serve, target, max_batch_size=8, batch_wait_timeout=0.2)
    bodies: list[Any] = [{"price": 1}, {"price": "x"}, {"price": 2}, {}, {"price": 3}]
    for _ in range(3):
        with ThreadPoolExecutor(len(bodies)) as threads:
            answers = list(threads.map(lambda body: client.post("/e?plus=1", json=body), bodies))
        assert [answer.status_code for answer in answers] == [200, 422, 200, 422, 200]
        assert [answers[n].json() for n in (0, 2, 4)] == [{"price": 3.0}, {"price": 5.0}, {"price": 7.0}]
        assert answers[1].json()["error"]["problems"][0]["loc"] == ["body", "price"]
    assert client.post("/e", json={"price": 1}).json()["error"]["problems"][0]["loc"] == ["query", "plus"]


def test_a_batch_that_raises_is_a_500_and_handles_have_batches_too(serve: ServedInstance) -> None:
    client = serve_it(serve, doubled, max_batch_size=4)
    assert client.post("/e?plus=1", json={"price": -1}).status_code == 500
    assert servekit.get_handle("e").remote(Item(1.0), 5).result() == Item(7.0)
    assert servekit.get_handle("e").remote(Item(1.0), plus=6).result() == Item(8.0)


def of_two(item: Item, order: Order) -> None: ...


def test_a_handler_that_no_request_fits_is_refused_when_it_is_created(serve: ServedInstance) -> None:
    with pytest.raises(errors.BackendStartError, match="item, order of the handler of_two would all be the body"):
        serve.create_backend("b", of_two)


def test_the_document(serve: ServedInstance) -> None:
    client = serve_it(serve, total)
    serve.create_backend("other", untyped)
    serve.create_endpoint("other", "/other", backend="other")
    answer = client.get("/-/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert document["openapi"] == "3.1.0"
    assert list(document["paths"]) == ["/e"]
    post, get = document["paths"]["/e"]["post"], document["paths"]["/e"]["get"]
    assert post["summary"] == "What an order costs."
    (factor,) = post["parameters"]
    assert (factor["name"], factor["in"], factor["required"], factor["schema"]["default"]) == (
        "factor",
        "query",
        False,
        1,
    )
    assert post["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Order"}
    assert post["responses"]["200"]["content"]["application/json"]["schema"] == {"type": "number"}
    assert "requestBody" not in get
    assert document["components"]["schemas"]["Order"]["properties"]["items"]["type"] == "array"


def test_the_document_stays_while_a_backend_has_no_replica(serve: ServedInstance) -> None:
    client = serve_it(serve, total)
    serve.update_backend_config("b", {"num_replicas": 0})
    assert list(client.get("/-/openapi.json").json()["paths"]) == ["/e"]
    serve.set_traffic("e", {"b": 1.0})
    serve.delete_endpoint("e")
    assert client.get("/-/openapi.json").json()["paths"] == {}

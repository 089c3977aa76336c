"""The OpenAPI document, of what the backends of a snapshot say."""

from __future__ import annotations

import json
import zlib
from typing import Any

import msgspec
import pytest

from servekit.interfaces import HandlerTypes

ITEM = {"type": "object", "properties": {"price": {"type": "number"}}}
OWN = {"ServekitErrorBody", "ServekitErrorRecord", "ServekitProblem"}
REF = "#/components/schemas/"


def typed(backend: Any, **fields: Any) -> Any:
    return msgspec.structs.replace(backend, types=zlib.compress(msgspec.json.encode(HandlerTypes(**fields))))


def item(schema: Any = ITEM) -> Any:
    order = {"type": "array", "items": {"$ref": REF + "Item"}}
    return {"body": {"$ref": REF + "Order"}, "schemas": {"Item": schema, "Order": order}}


def document(world: Any) -> Any:
    asked = world.ask("/-/openapi.json")
    assert (asked.status, asked.header("content-type")) == (200, "application/json")
    return json.loads(asked.text)


def test_nothing_has_types(world: Any) -> None:
    world.apply(world.backend(), world.endpoint())
    found = document(world)
    assert (found["openapi"], found["paths"], found["components"]) == ("3.1.0", {}, {})
    assert world.ask("/-/openapi.json", method="POST").status == 405


def test_paths_methods_and_variables_of_the_route(world: Any) -> None:
    parameters = [{"name": name, "required": False, "schema": {"type": "integer"}} for name in ("id", "q")]
    world.apply(
        typed(world.backend(), parameters=parameters, result={"type": "string"}, summary="S", description="D"),
        world.endpoint("my end", route="/u/<int:id>/<name>", methods=("GET", "PUT", "PURGE")),
        world.endpoint("hidden", route=None),
    )
    (path,) = document(world)["paths"].items()
    assert path[0] == "/u/{id}/{name}"
    assert set(path[1]) == {"get", "put"}
    put = path[1]["put"]
    assert put["parameters"] == [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}},
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}},
        {"name": "q", "in": "query", "required": False, "schema": {"type": "integer"}},
    ]
    assert (put["operationId"], put["summary"], put["description"]) == ("my_end_put", "S", "D")
    assert put["responses"]["200"]["content"] == {"application/json": {"schema": {"type": "string"}}}
    assert put["responses"]["422"]["content"]["application/json"]["schema"] == {"$ref": REF + "ServekitErrorBody"}


def test_a_body_is_there_where_the_method_has_one(world: Any) -> None:
    world.apply(typed(world.backend(), **item(), body_required=False), world.endpoint(methods=()))
    operations = document(world)["paths"]["/x"]
    assert {"get", "post", "delete", "patch"} <= set(operations)
    assert {method for method, operation in operations.items() if "requestBody" in operation} == {
        "post", "put", "patch", "options", "trace",
    }  # fmt: skip
    assert operations["post"]["requestBody"]["required"] is False


@pytest.mark.parametrize(
    ("other", "names"), [(ITEM, {"Item", "Order"}), ({"type": "string"}, {"Item", "Item_2", "Order", "Order_2"})]
)
def test_schemas_of_the_same_name_stay_apart_where_they_differ(world: Any, other: Any, names: set[str]) -> None:
    world.apply(
        typed(world.backend(), **item()),
        typed(world.backend("c", ("r2",)), **item(other)),
        world.endpoint("one", route="/1"),
        world.endpoint("two", route="/2", weights={"c": 1.0}),
    )
    found = document(world)
    assert set(found["components"]["schemas"]) == names | OWN
    body = found["paths"]["/2"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    suffix = "_2" if len(names) > 2 else ""
    assert body == {"$ref": f"{REF}Order{suffix}"}
    schemas = found["components"]["schemas"]
    assert schemas[f"Order{suffix}"]["items"] == {"$ref": f"{REF}Item{suffix}"}
    assert schemas[f"Item{suffix}"] == other


def test_the_backend_of_the_greatest_weight_counts_that_has_types(world: Any) -> None:
    world.apply(
        typed(world.backend(), summary="b"),
        typed(world.backend("c", ("r2",)), summary="c"),
        world.backend("d", ("r3",)),
        world.endpoint(weights={"b": 0.1, "c": 0.3, "d": 0.6}),
    )
    assert document(world)["paths"]["/x"]["get"]["summary"] == "c"


def test_an_endpoint_whose_types_make_no_sense_is_left_out(world: Any) -> None:
    world.apply(
        typed(world.backend(), parameters=[{"schema": {}}]),
        typed(world.backend("c", ("r2",)), summary="S"),
        world.endpoint("one", route="/1"),
        world.endpoint("two", route="/2", weights={"c": 1.0}),
    )
    assert list(document(world)["paths"]) == ["/2"]


def test_the_document_follows_the_snapshot(world: Any) -> None:
    world.apply(typed(world.backend(), summary="old"), world.endpoint())
    assert document(world)["paths"]["/x"]["get"]["summary"] == "old"
    world.apply(typed(world.backend(), summary="new"))
    assert document(world) == document(world)
    assert document(world)["paths"]["/x"]["get"]["summary"] == "new"
    world.apply(world.endpoint("e", route="/y"))
    assert list(document(world)["paths"]) == ["/y"]


def test_two_endpoints_never_have_one_operation_id(world: Any) -> None:
    backend = typed(world.backend(), result={})
    world.apply(backend, *(world.endpoint(name, route=f"/{name[0]}{name[1]}") for name in ("a b", "a_b", "a-b")))
    ids = [operation["operationId"] for path in document(world)["paths"].values() for operation in path.values()]
    assert len(set(ids)) == len(ids)
    assert "a_b_get" in ids


def test_of_two_endpoints_with_one_path_one_is_named_in_the_log(world: Any, caplog: Any) -> None:
    world.apply(
        typed(world.backend(), result={}),
        world.endpoint("by name", route="/u/<id>", methods=("GET",)),
        world.endpoint("by number", route="/u/<int:id>", methods=("GET",)),
        world.endpoint("by user", route="/u/<float:user>", methods=("PUT",)),
        world.endpoint("other", route="/u/<int(min=3):id>", methods=("POST",)),
    )
    paths = document(world)["paths"]
    assert {path: set(operations) for path, operations in paths.items()} == {"/u/{id}": {"get", "post"}}
    assert paths["/u/{id}"]["get"]["operationId"] == "by_name_get"
    assert [record.args[0] for record in caplog.records] == ["by number", "by user"]


def test_braces_of_a_route_are_no_variable(world: Any) -> None:
    world.apply(typed(world.backend(), result={}), world.endpoint(route="/br{x}/<id>", methods=("GET",)))
    ((path, operations),) = document(world)["paths"].items()
    assert path == "/br%7Bx%7D/{id}"
    assert [parameter["name"] for parameter in operations["get"]["parameters"]] == ["id"]


def test_what_is_no_json_is_described_where_there_is_a_body(world: Any) -> None:
    world.apply(
        typed(world.backend(), **item()),
        typed(world.backend("c", ("r2",)), result={}),
        world.endpoint("one", route="/1", methods=("GET", "POST")),
        world.endpoint("two", route="/2", methods=("GET",), weights={"c": 1.0}),
    )
    paths = document(world)["paths"]
    for operation, statuses in [
        (paths["/1"]["post"], {"200", "400", "422"}),
        (paths["/1"]["get"], {"200", "400", "422"}),
        (paths["/2"]["get"], {"200", "422"}),
    ]:
        assert set(operation["responses"]) == statuses


def test_nothing_of_servekits_code_is_told(world: Any) -> None:
    world.apply(typed(world.backend(), result={}), world.endpoint())
    schemas = document(world)["components"]["schemas"]
    assert schemas["ServekitErrorBody"]["description"] == "What JSON says of an error."
    assert set(schemas) == OWN

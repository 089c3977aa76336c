"""The OpenAPI document: of the endpoints whose backends say what their handlers take and give."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from servekit.error_answers import ServekitErrorBody
from servekit.ingress.endpoint import Endpoint
from servekit.interfaces import HandlerTypes
from servekit.routes import VARIABLE

_log = logging.getLogger("servekit.ingress")

_SCHEMAS = "#/components/schemas/"
_METHODS = ("GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE")
_BODILESS = ("GET", "HEAD", "DELETE")
"""Methods whose bodies mean nothing (RFC 9110, 9.3)."""


class Document:
    """The document of an ingress worker's endpoints, made anew when they have changed."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = endpoints
        self._of: list[tuple[Endpoint, bytes]] = []
        self._made = b""

    def encoded(self) -> bytes:
        described = [(endpoint, _types(endpoint)) for endpoint in self._endpoints.values() if endpoint.route]
        if described != self._of or not self._made:
            self._of, self._made = described, msgspec.json.encode(_document(described))
        return self._made


def _document(described: Iterable[tuple[Endpoint, bytes]]) -> dict[str, Any]:
    """Version 3.1.0, of endpoints and what their backends say: see `Capabilities`."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    templates: dict[str, str] = {}
    """Paths by what they match: in OpenAPI, two that differ in the names of their variables alone are the same."""
    ids: set[str] = set()
    for endpoint, packed in sorted(described, key=lambda one: one[0].name):
        if not packed:
            continue
        if not schemas:
            schemas.update(msgspec.json.schema_components([ServekitErrorBody], ref_template=_SCHEMAS + "{name}")[1])
        methods = [method for method in endpoint.entry.methods or _METHODS if method in _METHODS]
        own = _template(endpoint)
        path = templates.setdefault(re.sub(r"{[^}]*}", "{}", own), own)
        if path != own or any(method.lower() in paths.get(path, ()) for method in methods):
            _log.warning(
                "the OpenAPI document is without the endpoint %r: another endpoint has the path %r there already",
                endpoint.name,
                path,
            )
            continue
        try:
            types = _with_own_names(msgspec.json.decode(zlib.decompress(packed)), schemas)
            operations = {method.lower(): _operation(endpoint, method, types) for method in methods}
        except Exception:  # A plugin's adapter may have said anything; the other endpoints are described.
            _log.exception("the OpenAPI document is without endpoint %r", endpoint.name)
            continue
        for operation in operations.values():
            while operation["operationId"] in ids:  # "a b" and "a-b" are the same there.
                operation["operationId"] += "_"
            ids.add(operation["operationId"])
        paths.setdefault(path, {}).update(operations)
    components = {"schemas": schemas} if schemas else {}
    info = {"title": "servekit", "version": "1"}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": components}


def _template(endpoint: Endpoint) -> str:
    """The route as OpenAPI has it: variables in braces, and braces of its own escaped."""
    escaped = endpoint.route_text.replace("{", "%7B").replace("}", "%7D")
    return VARIABLE.sub(lambda found: f"{{{found['name']}}}", escaped)


def _types(endpoint: Endpoint) -> bytes:
    """What its backend says: of several, the one with the greatest weight that says something."""
    by_weight = sorted(endpoint.targets, key=lambda target: -target.weight)
    return next((target.backend.types for target in by_weight if target.backend.types), b"")


def _with_own_names(types: dict[str, Any], schemas: dict[str, Any]) -> HandlerTypes:
    """``types``, whose schemas are among ``schemas`` from now on: under other names, where one means another there."""
    found = msgspec.convert(types, HandlerTypes)
    suffix, number = "", 1
    while any(schemas.get(f"{name}{suffix}", schema) != schema for name, schema in _named(found.schemas, suffix)):
        number += 1
        suffix = f"_{number}"
    renamed = msgspec.convert(_referring(types, set(found.schemas), suffix), HandlerTypes)
    schemas.update({f"{name}{suffix}": schema for name, schema in renamed.schemas.items()})
    return renamed


def _named(schemas: Mapping[str, Any], suffix: str) -> Iterable[tuple[str, Any]]:
    return ((name, _referring(schema, set(schemas), suffix)) for name, schema in schemas.items())


def _referring(value: Any, names: set[str], suffix: str) -> Any:
    """``value``, its references to ``names`` with the suffix."""
    if isinstance(value, dict):
        return {key: _referring(inner, names, suffix) for key, inner in value.items()}
    if isinstance(value, list):
        return [_referring(inner, names, suffix) for inner in value]
    if suffix and isinstance(value, str) and value.startswith(_SCHEMAS) and value[len(_SCHEMAS) :] in names:
        return value + suffix
    return value


def _operation(endpoint: Endpoint, method: str, types: HandlerTypes) -> dict[str, Any]:
    variables = [found["name"] for found in VARIABLE.finditer(endpoint.route_text)]
    known = {parameter["name"]: parameter for parameter in types.parameters}
    parameters = [
        {**known.get(name, {"schema": {"type": "string"}}), "name": name, "in": "path", "required": True}
        for name in variables
    ]
    parameters += [{**one, "in": "query"} for name, one in known.items() if name not in variables]
    error = _content({"$ref": _SCHEMAS + ServekitErrorBody.__name__})
    answer: dict[str, Any] = {"description": "What the handler returned."}
    if types.result is not None:
        answer["content"] = _content(types.result)
    operation: dict[str, Any] = {
        "operationId": re.sub(r"[^A-Za-z0-9_]", "_", f"{endpoint.name}_{method.lower()}"),
        "parameters": parameters,
        "responses": {"200": answer, "422": {"description": "The request does not fit.", "content": error}},
    }
    if types.body is not None:
        operation["responses"]["400"] = {"description": "The body is no JSON.", "content": error}
    if types.summary:
        operation["summary"] = types.summary
    if types.description:
        operation["description"] = types.description
    if types.body is not None and method not in _BODILESS:
        operation["requestBody"] = {"required": types.body_required, "content": _content(types.body)}
    return operation


def _content(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}

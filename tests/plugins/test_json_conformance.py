"""The adapter `json` under servekit's own conformance kit."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from servekit.interfaces import RequestAdapter
from servekit.testing.conformance import RequestAdapterTests, Seen
from servekit_json import create_adapter

pydantic = pytest.importorskip("pydantic")


class Carried(msgspec.Struct):
    data: str


class CarriedModel(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    data: str


class JsonTests(RequestAdapterTests):
    content_type = "application/json"
    sets_status = sets_headers = streams = False
    carrier: Any

    def make_adapter(self) -> RequestAdapter:
        return create_adapter()

    def request_body(self, data: bytes) -> bytes:
        return json.dumps({"data": data.decode("latin-1")}).encode()

    def answered_data(self, body: bytes) -> bytes:
        carried: str = json.loads(body)["data"]
        return carried.encode("latin-1")

    def body_of(self, argument: Any) -> bytes:
        data: bytes = argument.data.encode("latin-1")
        return data

    def result(self, answer: Any) -> Any:
        return self.carrier(data=answer.body.decode("latin-1"))

    def handler(self, act: Any) -> Any:
        def handler(argument: Any) -> Any:
            return self.result(act(Seen(self.body_of(argument))))

        handler.__annotations__ = {"argument": self.carrier}
        return handler


class TestStructs(JsonTests):
    carrier = Carried


class TestModels(JsonTests):
    carrier = CarriedModel


class TestResponses(JsonTests):
    """A `Response` goes out as it is, so that everything can be said by it."""

    sets_status = sets_headers = streams = True
    carrier = Carried

    def answered_data(self, body: bytes) -> bytes:
        return body

    def result(self, answer: Any) -> Any:
        return answer

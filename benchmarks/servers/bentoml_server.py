"""BentoML: one service with every handler. How many workers it has is written in the code, so there are two of them."""

import time
from typing import Any

import bentoml


class Handlers:
    @bentoml.api
    def hello(self) -> str:
        return "hello"

    @bentoml.api
    def sleep(self) -> str:
        time.sleep(0.01)
        return "hello"

    @bentoml.api
    def json(self, document: dict[str, Any], /) -> dict[str, Any]:
        return document

    @bentoml.api
    def upload(self, data: bytes, /) -> int:
        return len(data)

    @bentoml.api
    def download(self, bytes: int) -> bytes:
        return b"\0" * bytes


quiet = {"access": {"enabled": False}}
replicas_1 = bentoml.service(Handlers, workers=1, logging=quiet)
replicas_4 = bentoml.service(Handlers, workers=4, logging=quiet)

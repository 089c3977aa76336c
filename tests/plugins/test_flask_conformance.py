"""The adapter ``flask`` does what every request adapter must."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import flask

from servekit.interfaces import RequestAdapter, Response
from servekit.testing.conformance import RequestAdapterTests
from servekit_flask import create_adapter


class TestFlaskAdapter(RequestAdapterTests):
    def make_adapter(self) -> RequestAdapter:
        return create_adapter()

    def body_of(self, argument: flask.Request) -> bytes:
        return argument.get_data()

    def headers_of(self, argument: flask.Request) -> Iterable[tuple[str, str]]:
        return list(argument.headers)

    def path_of(self, argument: flask.Request) -> str:
        return argument.path

    def query_of(self, argument: flask.Request) -> bytes:
        return argument.query_string

    def result(self, answer: Response) -> Any:
        body: Any = answer.body
        return flask.Response(body, answer.status, answer.headers)

"""The adapter."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import msgspec

from servekit.interfaces import Handler, Request, RequestAdapter, Response
from servekit_validated.problems import Problem, RefusedError
from servekit_validated.schemas import Schema, schema_of

_JSON = [("Content-Type", "application/json")]


class ValidatedAdapter(RequestAdapter):
    """Validates a body against the annotation of the handler's first parameter; a body that does not fit is a 422."""

    def __init__(self, strict: bool = True, max_problems: int = 20) -> None:
        """
        Args:
            strict: False: a number may come as a string, and the like, as msgspec and pydantic have it.
            max_problems: how many problems of one body an answer names, at most.
        """
        if max_problems < 1:
            raise ValueError(f"max_problems is {max_problems}: at least 1 is needed, or a 422 would say nothing")
        self._strict = strict
        self._max_problems = max_problems
        self._schemas: dict[int, tuple[object, Schema]] = {}
        """By the id of the handler's function, which is kept so that no other function gets its id."""

    def decode(self, request: Request) -> Any:
        """The body's JSON, as it is: only `call` knows the handler, and so what it wants."""
        return msgspec.json.decode(request.body)

    def encode(self, result: Any) -> Response:
        """A struct, a model, a dataclass, a dict or a list as JSON; a `Response` as it is."""
        if isinstance(result, Response):
            return result
        if not isinstance(result, dict | list | tuple | msgspec.Struct) and not _is_record(result):
            raise TypeError(
                f"the handler returned {type(result).__name__}; it may return a struct, a model, a dataclass, a dict, "
                "a list or a servekit.interfaces.Response"
            )
        return Response(200, list(_JSON), msgspec.json.encode(result, enc_hook=_plain))

    def call(self, handler: Handler, request: Request) -> Response:
        # Only this may refuse: an exception of the handler's own, a validation error too, is the handler's fault.
        try:
            argument = self._schema_of(handler).validate(request.body)
        except RefusedError as refused:
            return _refusal(refused.status, refused.problems[: self._max_problems])
        return self.encode(handler(argument))

    def _schema_of(self, handler: Handler) -> Schema:
        # A bound method is a new object each time that it is looked up; its function is not.
        function = getattr(handler, "__func__", handler)
        found = self._schemas.get(id(function))
        if found is None:
            found = self._schemas[id(function)] = (function, schema_of(handler, self._strict))
        return found[1]


def _refusal(status: int, problems: list[Problem]) -> Response:
    return Response(status, list(_JSON), msgspec.json.encode({"detail": problems}))


def _is_record(result: Any) -> bool:
    return (dataclasses.is_dataclass(result) and not isinstance(result, type)) or _is_model(result)


def _is_model(value: Any) -> bool:
    # Nobody has a model where nobody has imported pydantic.
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.BaseModel)


def _plain(value: Any) -> Any:
    """For what msgspec does not know."""
    if _is_model(value):
        return value.model_dump(mode="json")
    raise TypeError(f"a {type(value).__name__} cannot become JSON")

"""What the parameters of a handler say, read once; and what a request has for each."""

from __future__ import annotations

import enum
import typing
from inspect import Parameter, getdoc
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qsl

import msgspec

from servekit import jsonable
from servekit.annotations import VARIADIC, bare, is_scalar, item_of, parameters_of, returned
from servekit.decorators import function_of
from servekit.errors import InvalidInputError, ResultError
from servekit.interfaces import Handler, HandlerTypes, Request
from servekit_json.problems import Problem, RefusedError
from servekit_json.validators import Validator, validator_of


class Source(enum.Enum):
    """Where a parameter's value is from."""

    BODY = enum.auto()
    TEXT = enum.auto()
    """The path, where the route has a variable of that name, else the query string."""
    REQUEST = enum.auto()
    """It is the request itself."""


class Wanted(NamedTuple):
    """One parameter."""

    name: str
    source: Source
    validator: Validator
    default: Any
    """`Parameter.empty`: it has none."""
    by_name: bool
    """It is passed by its name."""


class Parameters:
    """Those of one handler."""

    def __init__(self, handler: Handler, *, batches: bool, strict: bool | None) -> None:
        """Raises `InvalidInputError` for a handler whose parameters cannot be given."""
        self._handler = handler
        self._named = name = getattr(handler, "__qualname__", type(handler).__qualname__)
        found = parameters_of(handler)
        if batches and not found:
            raise InvalidInputError(f"the handler {name} accepts batches, and takes nothing: give it a parameter")
        self.wanted = [self._wanted(parameter, batches, strict) for parameter in found]
        self._reads_query = any(wanted.source is Source.TEXT for wanted in self.wanted)
        bodies = [wanted.name for wanted in self.wanted if wanted.source is Source.BODY]
        if len(bodies) > 1:
            raise InvalidInputError(
                f"the parameters {', '.join(bodies)} of the handler {name} would all be the body of the request: make "
                "one model of them; a number, text or a date is read from the path or the query string"
            )
        self.result = _result_of(handler, batches)

    def _wanted(self, parameter: Parameter, batches: bool, strict: bool | None) -> Wanted:
        of = f"the parameter {parameter.name!r} of the handler {self._named}"
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        if parameter.kind in VARIADIC:
            raise InvalidInputError(f"{of} takes whatever comes: name what the handler wants, one parameter for each")
        if isinstance(annotation, str):
            raise InvalidInputError(
                f"{of} is annotated as {annotation!r}, which is not to be found where the handler runs: define it at "
                "the top of a module that replicas can import, and import it outside of `if TYPE_CHECKING:`"
            )
        if batches:
            annotation = _item(annotation, of)
            if parameter.default is not parameter.empty:
                raise InvalidInputError(f"{of}, which accepts batches, has a default; give it none, or use a model")
        source = Source.TEXT if is_scalar(annotation) else Source.BODY
        if annotation is Request:
            annotation, source = Any, Source.REQUEST
        try:
            validator = validator_of(annotation, strict)
        except Exception as error:  # pydantic's are of many kinds.
            raise InvalidInputError(
                f"{of} is annotated as {annotation!r}, which no request can be validated by: use a msgspec struct, a "
                f"pydantic model, a dataclass, or lists and dicts of such ({error})"
            ) from error
        by_name = parameter.kind is parameter.KEYWORD_ONLY
        return Wanted(parameter.name, source, validator, parameter.default, by_name)

    def values(self, request: Request) -> list[Any]:
        """One for each parameter. Raises `RefusedError`, with what is wrong with any of them."""
        query = _query(request) if self._reads_query else {}
        path = request.view_args or {}
        values, problems, kind = [], [], "invalid_request"
        for wanted in self.wanted:
            try:
                values.append(_value(wanted, request, path, query))
            except RefusedError as refused:
                problems += refused.problems
                kind = refused.type if refused.type != "invalid_request" else kind
        if problems:
            raise RefusedError(problems, kind)
        return values

    def types(self) -> HandlerTypes:
        """For the OpenAPI document."""
        types = HandlerTypes([], None, True, None, {})
        for wanted in self.wanted:
            if wanted.source is Source.REQUEST:
                continue
            schema = _schema(wanted.validator, types.schemas)
            required = wanted.default is Parameter.empty
            if wanted.source is Source.BODY:
                types.body, types.body_required = schema or {}, required
            else:
                default = {} if required else _default(wanted.default)
                types.parameters.append({"name": wanted.name, "required": required, "schema": {**schema, **default}})
        if self.result is not None:
            types.result = _schema(self.result, types.schemas, of_result=True) or None
        summary, _, description = (getdoc(function_of(self._handler)) or "").partition("\n")
        types.summary, types.description = summary, description.strip()
        return types


def spread(handler: Handler, parameters: Parameters, *, batches: bool) -> Handler:
    """``handler``, to be called with what `Parameters.values` gives; by a handle, with None and its own arguments."""
    at = sum(not wanted.by_name for wanted in parameters.wanted)
    names = [wanted.name for wanted in parameters.wanted if wanted.by_name]

    def call(values: list[Any] | None, *args: Any, **kwargs: Any) -> Any:
        if values is None:
            return handler(*args, **kwargs)
        return handler(*values[:at], **dict(zip(names, values[at:], strict=True)))

    def call_batch(rows: list[list[Any] | None], *args: Any, **kwargs: Any) -> Any:
        columns = [list(column) for column in zip(*filter(None, rows), strict=True)]
        return call(columns or None, *args, **kwargs)

    return call_batch if batches else call


def _value(wanted: Wanted, request: Request, path: dict[str, Any], query: dict[str, str]) -> Any:
    name, source, validator, default, _ = wanted
    if source is Source.REQUEST:
        return request
    if name in path:
        return validator.from_text(path[name], "path", name)
    if source is Source.TEXT:
        if name in query:
            return validator.from_text(query[name], "query", name)
        if default is Parameter.empty:
            raise RefusedError([Problem(["query", name], "the parameter is missing")])
        return default
    if not request.body:
        if default is Parameter.empty:
            raise RefusedError([Problem(["body"], "the body is empty; JSON is expected")], "bad_json")
        return default
    return validator.from_json(request.body)


def _query(request: Request) -> dict[str, str]:
    """Of a name that comes more than once, the last value."""
    return dict(parse_qsl(request.query_string.decode("latin-1"), keep_blank_values=True))


def _item(annotation: Any, of: str) -> Any:
    """What one request of a batch has, where the handler is given a list of them."""
    annotation = bare(annotation)
    item = item_of(annotation)
    if item is Any or item is not annotation:
        return item
    raise InvalidInputError(f"{of}, which accepts batches, is given a list: annotate it as list[…], not {annotation!r}")


def _result_of(handler: Handler, batches: bool) -> Validator | None:
    """By what is returned; None where that is not said, or is nothing that JSON has."""
    annotation = returned(handler)
    if batches:
        arguments = typing.get_args(annotation)
        annotation = arguments[0] if len(arguments) == 1 else Parameter.empty
    if annotation is Parameter.empty or isinstance(annotation, str):
        return None
    try:
        return validator_of(annotation, None)
    except Exception:  # It is documentation; whatever the handler returns is encoded by what it is.
        return None


def _schema(validator: Validator, named: dict[str, Any], *, of_result: bool = False) -> dict[str, Any]:
    """The schema; what it refers to goes among ``named``. Empty, which is everything, where there is none.

    A model whose result looks otherwise than what is taken has another name there.
    """
    for suffix in ("", "Result") if of_result else ("",):
        try:
            schema, refers_to = _without_nan(list(validator.schema(of_result=of_result, suffix=suffix)))
        except Exception:
            return {}
        if all(named.get(name, one) == one for name, one in refers_to.items()):
            named.update(refers_to)
            return cast("dict[str, Any]", schema)
    return {}


def _default(value: Any) -> dict[str, Any]:
    try:
        return {"default": msgspec.json.decode(jsonable.encode(value))}
    except ResultError:
        return {}


def _without_nan(schema: Any) -> Any:
    """``schema`` without the defaults that JSON does not have: nan, and the infinities."""
    if isinstance(schema, dict):
        kept = {key: value for key, value in schema.items() if key != "default" or _default(value)}
        return {key: _without_nan(value) for key, value in kept.items()}
    return [_without_nan(one) for one in schema] if isinstance(schema, list) else schema

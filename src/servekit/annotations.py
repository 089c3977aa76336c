"""What a handler says of itself by the annotations of its parameters."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import inspect
import sys
import types
import typing
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union

import msgspec

from servekit.decorators import UNKNOWN, accepts_batches, function_of, signature_of, takes_nothing
from servekit.interfaces import Request

_SCALARS = (
    int,
    float,
    bool,
    str,
    type(None),
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    uuid.UUID,
)
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_CONTAINERS = (list, tuple, set, frozenset, dict, Sequence, Mapping, Collection)


class Doubt(NamedTuple):
    """Why a handler whose annotations look typed is not: one parameter."""

    parameter: inspect.Parameter
    is_meant_typed: bool
    """Whether another parameter is a model or a plain value, so that a request in its place would be of no use."""

    def __str__(self) -> str:
        name, annotation = self.parameter.name, self.parameter.annotation
        if self.parameter.kind in VARIADIC:
            return f"the parameter {name!r} takes whatever comes, which no request is validated by"
        if annotation is self.parameter.empty:
            return f"the parameter {name!r} has no annotation, and others have"
        if isinstance(annotation, str):
            return f"the parameter {name!r} is annotated {annotation!r}, a name that is not to be found"
        if annotation is Request:
            return f"the parameter {name!r} is annotated servekit's Request, with no model or plain value beside it"
        shown = annotation.__qualname__ if isinstance(annotation, type) else str(annotation)
        return f"the parameter {name!r} is annotated {shown}, which is not validated"


def is_typed(target: Any, *, batches: bool = False) -> bool:
    """Whether every parameter of a target's handler is annotated with what JSON or a URL can give: a model, a plain
    value, or lists and the like of those; one at least. `Request` may be there beside them. Without parameters, whether
    the result is annotated with a model, or with lists and the like of models.

    Nothing is imported: of a target given as ``"module:attr"`` nothing is known.

    Args:
        batches: the handler is given lists, whatever the mark on itself says.
    """
    parameters = parameters_of(target)
    batches = batches or in_batches(target)
    if not parameters:
        function, skipped = _called(target)
        called = functools.partial(function, None) if skipped and function is not None else function  # None is self.
        return called is not None and not batches and takes_nothing(called) and _holds_model(returned(called))
    wanted = [parameter for parameter in parameters if parameter.annotation is not Request]
    return bool(wanted) and all(_is_given(parameter, batches) for parameter in wanted)


def doubt_of(target: Any, *, batches: bool = False) -> Doubt | None:
    """What keeps a target's handler, whose first parameter is annotated as no request, from being typed; None for one
    that is typed, or that takes a request, or nothing."""
    parameters = parameters_of(target)
    batches = batches or in_batches(target)
    first = next(iter(parameters), None)
    if first is None or first.kind in (first.KEYWORD_ONLY, first.VAR_KEYWORD):
        return None
    if _may_be_request(item_of(first.annotation) if batches else first.annotation):
        return None
    others = [parameter for parameter in parameters if parameter.annotation is not Request]
    not_given = [parameter for parameter in others if not _is_given(parameter, batches)]
    if others and not not_given:
        return None
    return Doubt((not_given or [first])[0], len(not_given) < len(others))


def in_batches(target: Any) -> bool:
    """Whether a function, an object, or the ``__call__`` of a class is marked by `servekit.accept_batch`."""
    called = getattr(target, "__call__", None) if inspect.isclass(target) else target  # noqa: B004
    return accepts_batches(called) or accepts_batches(target)


def item_of(annotation: Any) -> Any:
    """What one request of a batch gives, where the annotation is of a list of such; else the annotation itself."""
    annotation = bare(annotation)
    if annotation is list:
        return Any
    arguments = typing.get_args(annotation)
    return arguments[0] if typing.get_origin(annotation) in (list, Sequence) and len(arguments) == 1 else annotation


def parameters_of(target: Any) -> list[inspect.Parameter]:
    """Those of a function, or of the ``__call__`` of a class or an object, annotations as types where they can be read;
    none where nothing is known. What a `functools.partial` has bound by name is none of a request's."""
    function, skipped = _called(target)
    if function is None:
        return []
    try:
        written = inspect.unwrap(function_of(function) or function)  # type: ignore[arg-type]
        if not hasattr(written, "__annotations__"):
            return []
        parameters = list(signature_of(function).parameters.values())[skipped:]
    except UNKNOWN:
        return []
    bound = function.keywords if isinstance(function, functools.partial) else {}
    return [each.replace(annotation=_read(each.annotation, written)) for each in parameters if each.name not in bound]


def _called(target: Any) -> tuple[Any, int]:
    """What is called of a target, and how many of its parameters are no caller's; None where that is not known."""
    if isinstance(target, str):
        return None, 0
    if not inspect.isclass(target):
        return (target if callable(target) else None), 0
    found = inspect.getattr_static(target, "__call__", None)
    function = getattr(found, "__func__", found)
    return (function if callable(function) else None), 0 if isinstance(found, staticmethod) else 1


def returned(function: Any) -> Any:
    """What a function says that it returns, read as those of its parameters are; `inspect.Parameter.empty` where that
    is not known."""
    try:
        written = inspect.unwrap(function_of(function) or function)  # type: ignore[arg-type]
        annotation = getattr(written, "__annotations__", {}).get("return", inspect.Parameter.empty)
    except UNKNOWN:
        return inspect.Parameter.empty
    return _read(annotation, written)


def is_scalar(annotation: Any) -> bool:
    """Whether one piece of text can be made into it: a number, a date, an enum, or one of several such."""
    annotation = bare(annotation)
    if typing.get_origin(annotation) is Literal:
        return True
    if is_union(annotation):
        return all(map(is_scalar, typing.get_args(annotation)))
    return annotation is None or (
        isinstance(annotation, type) and (annotation in _SCALARS or issubclass(annotation, enum.Enum))
    )


def is_model(annotation: Any) -> bool:
    """Whether it is a class with fields: a struct, a pydantic model, a dataclass or a typed dict. `Request` is one of
    ours, and comes from no body."""
    return isinstance(annotation, type) and (
        (issubclass(annotation, msgspec.Struct) and annotation is not Request)
        or dataclasses.is_dataclass(annotation)
        or is_pydantic_model(annotation)
        or typing.is_typeddict(annotation)
    )


def is_pydantic_model(annotation: Any) -> bool:
    """Asks pydantic only where somebody else has imported it: before that there are no models."""
    pydantic = sys.modules.get("pydantic")
    return isinstance(annotation, type) and pydantic is not None and issubclass(annotation, pydantic.BaseModel)


def bare(annotation: Any) -> Any:
    """Without `typing.Annotated`."""
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (Union, types.UnionType)


def _is_given(parameter: inspect.Parameter, batches: bool) -> bool:
    """Whether JSON or a URL gives what the parameter is annotated with."""
    annotation = item_of(parameter.annotation) if batches else parameter.annotation
    return parameter.kind not in VARIADIC and _is_value(annotation)


def _is_value(annotation: Any, *, inside: bool = False) -> bool:
    """``inside``: of a list or a dict, where anything may be."""
    annotation = bare(annotation)
    if is_scalar(annotation) or is_model(annotation) or annotation in (list, dict) or (inside and annotation is Any):
        return True
    arguments = [argument for argument in typing.get_args(annotation) if argument is not ...]
    origin = typing.get_origin(annotation)
    if not arguments or not (is_union(annotation) or origin in _CONTAINERS):
        return isinstance(origin, type) and is_model(origin)  # A generic model.
    within = inside or origin in (list, dict)
    return all(_is_value(argument, inside=within) for argument in arguments)


def _holds_model(annotation: Any) -> bool:
    annotation = bare(annotation)
    if is_model(annotation) or is_model(typing.get_origin(annotation)):
        return True
    return _is_value(annotation) and any(map(_holds_model, typing.get_args(annotation)))


def _may_be_request(annotation: Any) -> bool:
    """Whether a request may be meant, as far as can be told: by its class, or by its name, where only type checkers
    import it. servekit's own is none that a handler without an adapter gets."""
    annotation = bare(annotation)
    if annotation in (inspect.Parameter.empty, Any, object) or isinstance(annotation, TypeVar):
        return True
    if isinstance(annotation, str):
        return "Request" in annotation or annotation.rpartition(".")[2] in ("Any", "object")
    if is_union(annotation):
        return any(map(_may_be_request, typing.get_args(annotation)))
    if not isinstance(annotation, type) or annotation is Request or is_model(annotation):
        return False
    is_protocol = getattr(annotation, "_is_protocol", False)
    return is_protocol or any(kind.__name__.endswith("Request") for kind in annotation.__mro__)


def _read(annotation: Any, function: Any) -> Any:
    """The annotation as a type, where it is text; that text, where what it names is not to be found."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, getattr(function, "__globals__", {}), _nonlocals(function))
    except Exception:  # Whatever the text does: it may name what type checkers alone import.
        return annotation


def _nonlocals(function: Any) -> dict[str, Any]:
    try:
        return dict(inspect.getclosurevars(function).nonlocals)
    except (TypeError, ValueError):
        return {}

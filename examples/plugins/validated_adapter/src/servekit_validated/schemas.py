"""From a handler to what its bodies are validated by."""

from __future__ import annotations

import inspect
import sys
import typing
from typing import Any, Protocol

import msgspec

from servekit_validated.problems import Problem, RefusedError, problem_of


class Schema(Protocol):
    """What the first parameter of one handler wants."""

    def validate(self, body: bytes) -> Any:
        """The handler's argument; raises `RefusedError` for a body that does not fit."""


def schema_of(handler: Any, strict: bool) -> Schema:
    """By the annotation of the handler's first parameter; raises ``TypeError`` where that says nothing of use."""
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    annotation = _annotation(handler, name)
    if _mentions_a_model(annotation):
        return PydanticSchema(annotation, strict)
    try:
        return MsgspecSchema(annotation, strict)
    except TypeError as error:
        raise TypeError(f"the handler {name} has an annotation that msgspec does not take: {error}") from error


class MsgspecSchema:
    """Structs, dataclasses, typed dicts, and lists and dicts of them. Finds one problem of a body, the first."""

    def __init__(self, annotation: Any, strict: bool) -> None:
        self._decoder = msgspec.json.Decoder(annotation, strict=strict, dec_hook=_unknown)

    def validate(self, body: bytes) -> Any:
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise RefusedError(422, [problem_of(str(error))]) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RefusedError(400, [Problem([], str(error))]) from None
        except RecursionError:
            raise RefusedError(400, [Problem([], "the JSON is nested too deeply")]) from None


class PydanticSchema:
    """Models, and lists and dicts of them."""

    def __init__(self, annotation: Any, strict: bool) -> None:
        import pydantic

        self._errors = pydantic.ValidationError
        self._adapter: Any = pydantic.TypeAdapter(annotation)
        self._strict = strict

    def validate(self, body: bytes) -> Any:
        try:
            # True overrides a model's own strict=False; None leaves it to the model.
            return self._adapter.validate_json(body, strict=True if self._strict else None)
        except self._errors as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            status = 400 if found[0]["type"] == "json_invalid" else 422
            raise RefusedError(status, [Problem(list(one["loc"]), one["msg"]) for one in found]) from None


def _annotation(handler: Any, name: str) -> Any:
    try:
        parameters = inspect.signature(handler, eval_str=True).parameters
    except NameError as error:
        raise TypeError(
            f"the annotation of the handler {name} cannot be read ({error}): define the class at the top of a module "
            "that replicas can import, or leave out `from __future__ import annotations`"
        ) from error
    first = next(iter(parameters.values()), None)
    if first is None or first.annotation is first.empty:
        raise TypeError(f"the handler {name} does not say what it wants: write `def {name}(order: Order)`")
    return first.annotation


def _mentions_a_model(annotation: Any) -> bool:
    pydantic = sys.modules.get("pydantic")
    if pydantic is None:
        return False
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return True
    return any(map(_mentions_a_model, typing.get_args(annotation)))


def _unknown(kind: type, value: Any) -> Any:
    # Neither a TypeError nor a ValueError: msgspec would blame the body for those.
    raise NotImplementedError(f"no body can be validated against {kind}; annotate with a struct, dataclass or model")

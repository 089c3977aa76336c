"""From an annotation to what validates by it: msgspec, or pydantic where the annotation is of pydantic's."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
import typing
from typing import Annotated, Any, Protocol

import msgspec

from servekit.annotations import is_pydantic_model
from servekit_json.problems import Problem, RefusedError, problem_of

REFERENCE = "#/components/schemas/"


class Validator(Protocol):
    """By one annotation."""

    def from_json(self, body: bytes) -> Any:
        """The value that a body has. Raises `RefusedError`."""

    def from_text(self, value: Any, where: str, name: str) -> Any:
        """The value that a parameter's text says, or what the route has made of it. Raises `RefusedError`."""

    def schema(self, *, of_result: bool = False, suffix: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
        """A JSON Schema, and what it refers to by name, which ends with ``suffix``.

        Raises ``TypeError`` or ``ValueError`` where there is none.
        """


def validator_of(annotation: Any, strict: bool | None) -> Validator:
    """Raises ``TypeError`` or ``ValueError`` for an annotation that nothing can be validated by."""
    return (
        PydanticValidator(annotation, strict) if _is_of_pydantic(annotation) else MsgspecValidator(annotation, strict)
    )


class MsgspecValidator:
    """Structs, dataclasses, typed dicts, plain values, and lists and dicts of them. Finds one problem of a body, the
    first."""

    def __init__(self, annotation: Any, strict: bool | None) -> None:
        self._annotation = annotation
        self._decoder = msgspec.json.Decoder(annotation, strict=strict is not False)
        self._completes = _has_defaults(msgspec.inspect.type_info(annotation))
        self.schema()  # What has none, such as a class of no kind it knows, cannot be decoded.

    def from_json(self, body: bytes) -> Any:
        try:
            found = self._decoder.decode(body)
            return _completed(found) if self._completes else found
        except msgspec.ValidationError as error:
            raise RefusedError([problem_of(str(error), "body")]) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RefusedError([Problem(["body"], str(error))], "bad_json") from None
        except RecursionError:
            raise RefusedError([Problem(["body"], "the JSON is nested too deeply")], "bad_json") from None

    def from_text(self, value: Any, where: str, name: str) -> Any:
        try:
            return _finite(msgspec.convert(value, self._annotation, strict=False), where, name)
        except msgspec.ValidationError as error:
            # All that a URL has is text, so that it is text is not what is wrong.
            said = str(error).replace("got `str`", f"got {str(value)[:60]!r}")
            raise RefusedError([problem_of(said, where, name)]) from None

    def schema(self, *, of_result: bool = False, suffix: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
        template = REFERENCE + "{name}" + suffix
        (schema,), named = msgspec.json.schema_components([self._annotation], ref_template=template)
        return schema, {name + suffix: one for name, one in named.items()}


class PydanticValidator:
    """Models, what else pydantic has types for, and lists and dicts of them."""

    def __init__(self, annotation: Any, strict: bool | None) -> None:
        pydantic = sys.modules["pydantic"]  # Imported by whoever made the annotation.
        if not hasattr(pydantic, "TypeAdapter"):
            raise TypeError(f"pydantic {pydantic.VERSION} is too old: version 2 is needed")
        self._errors: type[Exception] = pydantic.ValidationError
        self._annotation = annotation
        self._adapter: Any = pydantic.TypeAdapter(annotation)
        self._strict = strict

    def from_json(self, body: bytes) -> Any:
        if b"NaN" in body or b"Infinity" in body:  # pydantic takes them for numbers, and JSON does not have them.
            MsgspecValidator(msgspec.Raw, None).from_json(body)
        try:
            return self._adapter.validate_json(body, strict=self._strict)
        except self._errors as error:
            raise self._refused(error, "body") from None

    def from_text(self, value: Any, where: str, name: str) -> Any:
        try:
            return _finite(self._adapter.validate_python(value, strict=False), where, name)
        except self._errors as error:
            raise self._refused(error, where, name) from None

    def schema(self, *, of_result: bool = False, suffix: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
        mode, by_alias = "validation", True
        if of_result:  # `model_dump` has the fields' own names, unless the model says otherwise.
            config = getattr(self._annotation, "model_config", {})
            mode, by_alias = "serialization", bool(config.get("serialize_by_alias"))
        template = REFERENCE + "{model}" + suffix
        schema = self._adapter.json_schema(mode=mode, by_alias=by_alias, ref_template=template)
        named = {name + suffix: one for name, one in schema.pop("$defs", {}).items()}
        if is_pydantic_model(self._annotation) and "$ref" not in schema:  # The outermost one stands there itself.
            name = re.sub(r"[^A-Za-z0-9._-]", "_", self._annotation.__name__) + suffix
            return {"$ref": REFERENCE + name}, {**named, name: schema}
        return schema, named

    @staticmethod
    def _refused(error: Any, *within: str) -> RefusedError:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        problems = [Problem([*within, *one["loc"]], one["msg"]) for one in found]
        return RefusedError(problems, "bad_json" if found[0]["type"] == "json_invalid" else "invalid_request")


def _finite(value: Any, where: str, name: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise RefusedError([Problem([where, name], f"Expected a finite number, got '{value}'")])
    return value


def _has_defaults(info: Any) -> bool:
    """Whether a dataclass with defaults is anywhere in a type; one that refers to itself is seen once."""
    seen: set[type] = set()

    def found(part: Any) -> bool:
        if isinstance(part, (list, tuple)):
            return any(map(found, part))
        if not isinstance(part, (msgspec.inspect.Type, msgspec.inspect.Field)):
            return False
        if (kind := getattr(part, "cls", None)) is not None and kind in seen:
            return False
        seen.update(() if kind is None else (kind,))
        if isinstance(part, msgspec.inspect.DataclassType) and not all(field.required for field in part.fields):
            return True
        return any(found(getattr(part, name)) for name in part.__struct_fields__)

    return found(info)


def _completed(value: Any) -> Any:
    """``value``, its dataclasses with their defaults, which msgspec leaves to the class, and does not encode."""
    if isinstance(value, dict):
        for inner in value.values():
            _completed(inner)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for inner in value:
            _completed(inner)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            _completed(getattr(value, name))
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            if hasattr(value, "__dict__") and hasattr(type(value), field.name):
                vars(value).setdefault(field.name, getattr(value, field.name))
            _completed(getattr(value, field.name, None))
    return value


def _is_of_pydantic(annotation: Any) -> bool:
    if "pydantic" not in sys.modules:
        return False
    if typing.get_origin(annotation) is Annotated:
        inner, *metadata = typing.get_args(annotation)
        return _is_of_pydantic(inner) or any(_is_from_pydantic(type(one)) for one in metadata)
    if is_pydantic_model(annotation) or (isinstance(annotation, type) and _is_from_pydantic(annotation)):
        return True
    return any(map(_is_of_pydantic, typing.get_args(annotation)))


def _is_from_pydantic(kind: type) -> bool:
    """Of its own, a dataclass that it has made, or one of the constraints that it shares with others."""
    return kind.__module__.partition(".")[0] in ("pydantic", "annotated_types") or hasattr(
        kind, "__pydantic_validator__"
    )

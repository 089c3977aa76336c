"""What of a handler's result becomes JSON, and how, and which of its parts is the status: what adapters share.

`convert` is the hook for an encoder that meets what it does not know. Where an encoder still fails, `plain` goes over
the whole value: it converts the keys of dicts as well, and names what JSON cannot have by its place.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import operator
import pathlib
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec

from servekit.errors import ResultError

_KEYS = (str, int, float, bool, type(None))
"""What `json` takes for a key. ``True`` becomes ``"true"``, and ``None`` ``"null"``."""
_DEEPEST = 200
"""How deep `plain` goes; the encoders themselves go deeper."""
_OF_MSGSPEC = (
    bytes,
    bytearray,
    memoryview,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    uuid.UUID,
)
"""What msgspec has a form for that others lack, or another form."""
_AS_TEXT = (decimal.Decimal, uuid.UUID, pathlib.PurePath)


def parts_of(result: tuple[Any, ...]) -> tuple[Any, int | None, list[tuple[str, str]] | None]:
    """Body, status and headers of a tuple of two or three, as Flask takes it; None for what is not there.

    A status is a whole number, numpy's too, an `http.HTTPStatus`, or text such as ``"201 Made"``; headers are pairs, or
    a mapping, which may have several values for one. Raises `ResultError` for anything else.
    """
    body, *rest = result
    has_headers = len(rest) == 2 or isinstance(rest[0], (list, tuple)) or hasattr(rest[0], "items")
    headers = rest.pop() if has_headers else None
    status = None if not rest or rest[0] is None else _status(rest[0])
    if headers is None:
        return body, status, None
    try:
        items = headers.items() if hasattr(headers, "items") else headers
        lines = [(str(name), value if isinstance(value, (list, tuple)) else [value]) for name, value in items]
    except (TypeError, ValueError):
        raise ResultError(f"the headers of a result are pairs of text, or a dict, not {str(headers)[:60]}") from None
    return body, status, [(name, str(value)) for name, values in lines for value in values]


def _status(value: Any) -> int:
    with suppress(TypeError, ValueError):
        return int(value.split()[0]) if isinstance(value, str) and value.strip() else operator.index(value)
    raise ResultError(
        f"a result that is a tuple is (body, status) or (body, status, headers), and {str(value)[:60]!r} is no status: "
        "for a list in JSON return a list"
    )


def convert(value: Any) -> Any:
    """What JSON has in the place of ``value``, which `json` does not know; raises ``TypeError`` where it has nothing.

    Only the outermost layer: what is in a set or a dataclass may have to be converted in turn.
    """
    if isinstance(value, of_loaded("numpy", "generic", "ndarray")):
        listed = value.tolist()
        # A long double is its own item; the nearest float is what JSON can say.
        return float(listed) if listed is value or isinstance(listed, of_loaded("numpy", "longdouble")) else listed
    if isinstance(value, of_loaded("pydantic", "BaseModel")):
        return value.model_dump(mode="json") if hasattr(value, "model_dump") else value.dict()
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value, enc_hook=convert, str_keys=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, _AS_TEXT):
        return str(value)
    if isinstance(value, (datetime.date, datetime.time)):  # A datetime is a date.
        return value.isoformat()
    raise TypeError(f"the type {name_of(type(value))} cannot become JSON")


def is_convertible(value: Any) -> bool:
    """Whether `convert` has something for ``value``; whether that can be encoded, only encoding it shows."""
    known = (msgspec.Struct, set, frozenset, enum.Enum, *_AS_TEXT, datetime.date, datetime.time)
    if isinstance(value, (*known, *of_loaded("numpy", "generic", "ndarray"), *of_loaded("pydantic", "BaseModel"))):
        return True
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def plain(value: Any, convert: Callable[[Any], Any] = convert) -> Any:
    """``value`` made of dicts with text for keys, lists, text, numbers, booleans and None.

    Raises `ResultError` for what JSON cannot have, and says where it is: ``result['scores'][2] is nan``.
    """
    return _plain(value, "result", convert, ())


def encode(value: Any) -> bytes:
    """``value`` as JSON, in msgspec's own forms where it has one (a ``datetime`` in ISO 8601, bytes in base64).

    Raises `ResultError` as `plain` does.
    """
    with suppress(TypeError, ValueError, RecursionError):  # What `plain` says of it is better.
        encoded = msgspec.json.encode(value, enc_hook=convert)
        if b"null" in encoded:  # Which msgspec also writes for nan and infinity; `json` raises.
            json.dumps(msgspec.to_builtins(value, enc_hook=convert, str_keys=True), allow_nan=False)
        return encoded
    try:
        return msgspec.json.encode(plain(value, _as_msgspec))
    except UnicodeEncodeError as error:
        raise ResultError(
            f"result has the text {error.object[error.start : error.end]!r}, half of a surrogate pair, which UTF-8 "
            "does not have: leave it out"
        ) from None


def _as_msgspec(value: Any) -> Any:
    if isinstance(value, _OF_MSGSPEC):
        return msgspec.to_builtins(value)
    return convert(value)


def of_loaded(module: str, *names: str) -> tuple[Any, ...]:
    """Those classes of ``module``, if it is imported: a value of a class that nobody has imported is not there."""
    loaded = sys.modules.get(module)
    return tuple(getattr(loaded, name) for name in names if hasattr(loaded, name))


def name_of(kind: type) -> str:
    """As people write it: ``bytes``, ``torch.Tensor``."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _plain(value: Any, where: str, convert: Callable[[Any], Any], within: tuple[int, ...]) -> Any:
    if isinstance(value, enum.Enum):
        return _plain(value.value, where, convert, within)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (str, int)):  # Without what numpy, say, has made of them.
        return str(value) if isinstance(value, str) else _whole(int(value), where)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ResultError(f"{where} is {float(value)}, which JSON does not have: put None or text in its place")
        return float(value)
    if id(value) in within:
        raise ResultError(f"{where} holds itself, which JSON cannot say: leave it out")
    if len(within) > _DEEPEST:
        raise ResultError(f"{where[:60]}… is nested deeper than {_DEEPEST} levels: make the result flatter")
    within = (*within, id(value))
    if isinstance(value, dict):
        return _plain_dict(value, where, convert, within)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, f"{where}[{index}]", convert, within) for index, item in enumerate(value)]
    try:
        converted = convert(value)
    except (TypeError, ValueError) as error:
        for name, inner in _fields(value):  # One of them may be what is at fault.
            _plain(inner, f"{where}.{name}", convert, within)
        what = f"{where} has the type {name_of(type(value))}"
        raise ResultError(f"{what}, which cannot become JSON: {_advice(value, error)}") from error
    return _plain(converted, where, convert, within)


def _whole(value: int, where: str) -> int:
    try:
        str(value)
    except ValueError:  # Python's own limit, `sys.set_int_max_str_digits`.
        raise ResultError(f"{where} is a whole number too long for JSON: make text of it, by hex() say") from None
    return value


def _plain_dict(
    value: dict[Any, Any], where: str, convert: Callable[[Any], Any], within: tuple[int, ...]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        text = _key(key, where, convert)
        if text in found:
            raise ResultError(f"{where} has two keys that are both {text!r} in JSON: rename one")
        found[text] = _plain(item, f"{where}[{key!r}]", convert, within)
    return found


def _key(key: Any, where: str, convert: Callable[[Any], Any]) -> str:
    while not isinstance(key, _KEYS) or isinstance(key, enum.Enum):
        try:
            converted = key.value if isinstance(key, enum.Enum) else convert(key)
            hash(converted)
        except (TypeError, ValueError):
            raise ResultError(
                f"{where} has the key {key!r}, of type {name_of(type(key))}: in JSON keys are text, so make text of it"
            ) from None
        key = converted
    if isinstance(key, str):
        return str(key)
    if isinstance(key, float):
        if not math.isfinite(key):
            raise ResultError(f"{where} has the key {key!r}, which JSON does not have: give it a name")
        return float.__repr__(key)
    return {True: "true", False: "false", None: "null"}[key] if key is None or isinstance(key, bool) else str(int(key))


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Of a struct, dataclass or model, by name."""
    if isinstance(value, type):
        return
    kind = type(value)
    names: Any = getattr(kind, "__struct_fields__", None) or getattr(kind, "model_fields", None)
    if names is None:
        names = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else ()
    for name in names:
        yield name, getattr(value, name)


def _advice(value: Any, error: Exception) -> str:
    for method in ("tolist", "to_dict", "model_dump", "decode"):
        if hasattr(value, method):
            return f"return what its {method}() gives"
    if isinstance(error, TypeError):
        return "make text, a number, a list or a dict of it"
    return str(error)

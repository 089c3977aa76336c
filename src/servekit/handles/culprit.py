"""Finds the part of an object that cannot be pickled."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from servekit.code.modules import is_importable, is_main
from servekit.code.running import nested
from servekit.handles.pickling import PROTOCOL, Pickler
from servekit.rebuild.objects import reduced

PARTS = 1_000
"""How many parts of an object are tried at most."""


class _Step(NamedTuple):
    holder: Any
    how: str
    """The holder's relation to the part: "uses the global 'x'"."""
    part: Any


def blame(name: str, value: Any) -> tuple[str, str] | None:
    """``(what, why)`` for ``value``, which ``name`` describes: "the target m:f uses the global 'db', a
    sqlite3.Connection, which", and the error of pickling that part. None where the value can be pickled."""
    if _error(value) is None:
        return None
    steps = _told(_way_to_culprit(value))
    error = _error(steps[-1].part if steps else value)
    return _sentence(name, value, steps), f"{type(error).__name__}: {error}"


def _way_to_culprit(value: Any) -> list[_Step]:
    """The shortest way to a part that cannot be pickled although all parts of that part can."""
    ways: deque[list[_Step]] = deque([[]])
    can: dict[int, bool] = {id(value): False}
    while ways:
        way = ways.popleft()
        at = way[-1].part if way else value
        is_culprit = True
        for how, part in _parts(at):
            new = id(part) not in can
            if new and len(can) >= PARTS:
                return way
            if new:
                can[id(part)] = _error(part) is None
            if not can[id(part)]:
                is_culprit = False
                if new:
                    ways.append([*way, _Step(at, how, part)])
        if is_culprit:
            return way
    return []


class _Sink:
    def write(self, data: bytes) -> None: ...


def _error(value: Any) -> Exception | None:
    try:
        Pickler(_Sink(), PROTOCOL, lambda _: False).dump(value)
    except Exception as error:
        return error
    return None


def _told(steps: list[_Step]) -> list[_Step]:
    """The steps without those inside of objects of libraries, which do not concern the users of the libraries."""
    own = max((n for n, step in enumerate(steps, 1) if _is_own(step.holder)), default=0)
    for n, step in enumerate(steps):
        if n >= own and step.how.startswith("has the attribute '_"):
            return steps[:n]
    return steps


def _is_own(holder: Any) -> bool:
    """Whether ``holder`` is of the user's own code: a function or class that goes by value, or an object of such a
    class."""
    described = holder if isinstance(holder, (type, types.FunctionType)) else type(holder)
    module = described.__module__
    return isinstance(module, str) and (is_main(module) or not is_importable(module))


def _sentence(name: str, value: Any, steps: list[_Step]) -> str:
    if not steps:
        return name if isinstance(value, (type, types.FunctionType)) else f"{name}, {_kind(value)},"
    links = ", which ".join(step.how for step in steps)
    return f"{name} {links}, {_kind(steps[-1].part)}, which"


def _kind(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    if isinstance(value, types.FunctionType):
        return f"the function {value.__qualname__}"
    kind = type(value)
    text = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"an {text}" if text.lstrip("_")[0].lower() in "aeiou" else f"a {text}"


# -- parts -----------------------------------------------------------------------------------------------------------


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, types.FunctionType):
        yield from _of_function(value)
    elif isinstance(value, types.MethodType):
        yield "is a method of its object", value.__self__
        yield "is the method", value.__func__
    elif isinstance(value, (staticmethod, classmethod, functools.cached_property, property)):
        yield from (
            ("is made of", getattr(value, part)) for part in ("__func__", "func", "fget") if hasattr(value, part)
        )
    elif isinstance(value, functools.partial):
        yield f"calls {_kind(value.func)}", value.func
        yield from ((f"has the argument {n}", part) for n, part in enumerate(value.args, 1))
        yield from ((f"has the argument {name!r}", part) for name, part in value.keywords.items())
    elif isinstance(value, type):
        yield from ((f"inherits from {base.__qualname__}", base) for base in value.__bases__)
        made = (types.GetSetDescriptorType, types.MemberDescriptorType)
        own = [(name, part) for name, part in vars(value).items() if not isinstance(part, made)]
        yield from ((f"has the attribute {name!r}", part) for name, part in own)
    elif isinstance(value, dict):
        yield from ((f"has the item {_short(key)}", part) for key, part in list(value.items()))
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"has the item {n}", part) for n, part in enumerate(value))
    else:
        yield from _of_object(value)


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    with contextlib.suppress(ValueError):  # A variable that has no value yet.
        used = inspect.getclosurevars(function)
        yield from ((f"uses the variable {name!r}", part) for name, part in used.nonlocals.items())
    for code in nested(function.__code__):
        for name in code.co_names:
            if name in function.__globals__:
                yield f"uses the global {name!r}", function.__globals__[name]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):
            yield "uses a variable of the function around it", cell.cell_contents
    yield from (("has a default value", part) for part in function.__defaults__ or ())
    yield from ((f"has the default {name!r}", part) for name, part in (function.__kwdefaults__ or {}).items())
    yield from ((f"has the attribute {name!r}", part) for name, part in vars(function).items())


def _of_object(value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    yield "is an object of its class", kind
    with contextlib.suppress(Exception):  # An object that is refused has no parts that matter.
        reduction = reduced(value, Pickler(_Sink()).by_value)
        if isinstance(reduction, tuple):
            yield from ((f"leads to {_kind(part)}", part) for part in reduction[1])
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        attributes = {}
    yield from ((f"has the attribute {name!r}", part) for name, part in list(attributes.items()))
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            with contextlib.suppress(AttributeError):
                yield f"has the attribute {name!r}", object.__getattribute__(value, name)


def _short(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 40 else f"{text[:37]}..."

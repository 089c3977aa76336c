"""Amends cloudpickle's reductions of functions and classes that go by value.

cloudpickle makes an empty class first, and then sets the class's attributes. That is too late for `msgspec.Struct`,
which lays its fields out when the class is made, and loses the attributes that an enum's ``__init__`` gave to its
members. Of a function's globals cloudpickle takes those that the code names, and not those that only annotations name.
"""

from __future__ import annotations
import __future__

import enum
import functools
import inspect
import pickle
import re
import types
import typing
from typing import Any, TypeAlias

import msgspec

Reduction: TypeAlias = "tuple[Any, ...]"


def remade(obj: Any, reduction: Reduction) -> Reduction:
    """The reduction, amended. Raises `pickle.PicklingError` for a class that could not be made again."""
    if isinstance(obj, types.FunctionType):
        missing = _names_of_annotations(obj)
        if missing:
            reduction[2][1]["__globals__"].update(missing)
        return reduction
    return _class(obj, reduction)


# -- functions -------------------------------------------------------------------------------------------------------

_words = re.compile(r"[^\W\d]\w*").findall


def _names_of_annotations(function: types.FunctionType) -> dict[str, Any]:
    """The globals that a function's annotations name, where these are text (``from __future__ import annotations``).

    Code that reads the annotations, as FastAPI's does, needs these globals too.
    """
    found = [text for text in function.__annotations__.values() if isinstance(text, str)]
    found += _annotations_within(function.__code__)
    names = {name for text in found for name in _words(text)}
    return {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}


def _annotations_within(code: types.CodeType) -> list[str]:
    """The annotations of the functions that this one makes: the compiler puts names and texts by turns into a
    constant."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    if not inner or not code.co_flags & __future__.annotations.compiler_flag:
        return []
    arguments = {"return"}.union(*(const.co_varnames[: _parameters(const)] for const in inner))
    found = [text for const in inner for text in _annotations_within(const)]
    for const in code.co_consts:
        if isinstance(const, tuple) and const and not len(const) % 2 and arguments.issuperset(const[::2]):
            found += [text for text in const[1::2] if isinstance(text, str)]
    return found


def _parameters(code: types.CodeType) -> int:
    flags = inspect.CO_VARARGS, inspect.CO_VARKEYWORDS
    return code.co_argcount + code.co_kwonlyargcount + sum(bool(code.co_flags & flag) for flag in flags)


def named_code(file: str, arguments: tuple[Any, ...]) -> types.CodeType:
    """The code that ``arguments`` make, with ``file`` as its file name, for tracebacks: cloudpickle leaves the name
    out."""
    return types.CodeType(*arguments).replace(co_filename=file)


# -- classes -----------------------------------------------------------------------------------------------------------


def _class(cls: type, reduction: Reduction) -> Reduction:
    attributes = reduction[2][0]
    attributes.pop("__msgspec_cache__", None)  # What msgspec has found out of a dataclass, and finds out again.
    if "__annotations__" in attributes:
        attributes["__annotations__"] = _annotations(cls)
    if isinstance(cls, msgspec.StructMeta):
        return _struct(cls, reduction)
    if isinstance(cls, enum.EnumMeta):
        return _enum(cls, reduction)
    _check_keywords(cls)
    return reduction


def _annotations(cls: type) -> dict[str, Any]:
    """The class's own annotations; text becomes the type that it names, for the class's module elsewhere does not have
    it."""
    own = inspect.get_annotations(cls)
    if not any(isinstance(value, str) for value in own.values()):
        return own
    try:
        found = typing.get_type_hints(cls, include_extras=True)
    except Exception:
        return own  # They may name modules that are imported for type checkers alone.
    return {name: found.get(name, value) for name, value in own.items()}


def _check_keywords(cls: type) -> None:
    inherited = super(cls, cls).__init_subclass__  # type: ignore[arg-type]
    try:
        inspect.signature(inherited).bind()
    except ValueError:
        return
    except TypeError as error:
        raise pickle.PicklingError(
            f"the class {cls.__qualname__} was made with keyword arguments, which nobody knows any more: its "
            f"__init_subclass__ is {error}"
        ) from None


# -- msgspec.Struct --------------------------------------------------------------------------------------------------

_KEPT = ("eq", "order", "frozen", "array_like", "gc", "omit_defaults", "repr_omit_defaults", "forbid_unknown_fields")
_ADDED = ("weakref", "dict", "cache_hash")
"""Options that a class inherits, so that they are given only where its bases do not have them."""


def _struct(cls: Any, reduction: Reduction) -> Reduction:
    make, arguments, (attributes, slots), *rest = reduction
    meta, name, bases, namespace, *more = arguments
    own = [field for field in inspect.get_annotations(cls) if field in cls.__struct_fields__]
    config = cls.__struct_config__
    options = {option: getattr(config, option) for option in _KEPT}
    inherited = [base.__struct_config__ for base in cls.__bases__ if isinstance(base, msgspec.StructMeta)]
    for option in _ADDED:
        if getattr(config, option) and not any(getattr(base, option) for base in inherited):
            options[option] = True
    options["tag"] = False if config.tag is None else config.tag
    if config.tag is not None:
        options["tag_field"] = config.tag_field
    encoded = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    options["rename"] = {field: encoded[field] for field in own if encoded[field] != field} or None
    options["kw_only"] = bool(own) and own[0] not in cls.__match_args__
    early = {key: attributes.pop(key) for key in ("__post_init__", "__match_args__") if key in attributes}
    attributes.pop("__slots__", None)
    metaclass = functools.partial(_make_struct, meta, options, _fields(cls, own))
    return make, (metaclass, name, bases, {**namespace, **early}, *more), (attributes, slots), *rest


def _fields(cls: Any, own: list[str]) -> list[tuple[str, tuple[Any, ...]]]:
    """Each field's name and default: an empty tuple, or a value and whether the value is a factory of defaults."""
    without = len(cls.__struct_fields__) - len(cls.__struct_defaults__)
    found: list[tuple[str, tuple[Any, ...]]] = []
    for name in own:
        at = cls.__struct_fields__.index(name) - without
        default = cls.__struct_defaults__[at] if at >= 0 else msgspec.NODEFAULT
        if default is msgspec.NODEFAULT:
            found.append((name, ()))
        elif type(default) is _FACTORY:
            found.append((name, (default.factory, True)))
        else:
            found.append((name, (default, False)))
    return found


def _make_struct(
    meta: Any,
    options: dict[str, Any],
    fields: list[tuple[str, tuple[Any, ...]]],
    name: str,
    bases: tuple[type, ...],
    namespace: dict[str, Any],
) -> Any:
    namespace["__annotations__"] = {field: object for field, _ in fields}
    for field, default in fields:
        if default:
            value, is_factory = default
            namespace[field] = msgspec.field(default_factory=value) if is_factory else msgspec.field(default=value)
    return meta(name, bases, namespace, **options)


class _Sample(msgspec.Struct):
    items: list[Any] = []


_FACTORY = type(_Sample.__struct_defaults__[0])

# -- enums -----------------------------------------------------------------------------------------------------------

_OF_ENUM = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_"})


def _enum(cls: Any, reduction: Reduction) -> Reduction:
    """The reduction of an enum, with its aliases and with the attributes that members have of their own."""
    make, arguments, (attributes, slots), *rest, setter = reduction
    bases, name, qualname, members, *more = arguments
    aliases = {alias: member.value for alias, member in cls.__members__.items() if alias not in members}
    for alias in aliases:
        attributes.pop(alias, None)
    own = {member.name: {key: value for key, value in vars(member).items() if key not in _OF_ENUM} for member in cls}
    state = ((attributes, slots), {member: kept for member, kept in own.items() if kept}, setter)
    return make, (bases, name, qualname, {**members, **aliases}, *more), state, *rest, _set_enum


def _set_enum(cls: Any, state: tuple[Any, dict[str, dict[str, Any]], Any]) -> None:
    attributes, members, setter = state
    setter(cls, attributes)
    for name, own in members.items():
        vars(cls[name]).update(own)

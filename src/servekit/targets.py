"""From what a user gave `create_backend` to bytes that a replica can build it from."""

from __future__ import annotations

import inspect
import io
from collections.abc import Mapping
from typing import Any

from servekit.errors import InvalidInputError, UnpicklableTargetError
from servekit.handles.culprit import blame
from servekit.handles.pickling import PROTOCOL, Pickler
from servekit.rebuild import name_of
from servekit.replica.target import Target


def text_of(target: Any) -> str:
    """What people call it."""
    if isinstance(target, str):
        return target
    name = getattr(target, "__qualname__", type(target).__qualname__)
    return f"{getattr(target, '__module__', '?')}:{name}"


def pack_target(target: Any, init_args: tuple[Any, ...], init_kwargs: Mapping[str, Any] | None) -> bytes:
    """The target and the arguments of its ``__init__``, pickled.

    Raises `InvalidInputError` for what is no target, and `UnpicklableTargetError` naming what cannot be pickled.
    """
    kwargs = dict(init_kwargs or {})
    if isinstance(target, str):
        module, colon, attribute = target.partition(":")
        if not (colon and module and attribute):
            raise InvalidInputError(f"the target {target!r} is not 'module:attribute'")
    elif not callable(target):
        raise InvalidInputError(
            f"the target {target!r} is neither a function nor a class, and cannot be called; "
            "give create_backend a function, a class, or 'module:attribute'"
        )
    elif not inspect.isclass(target) and (init_args or kwargs):
        raise InvalidInputError(
            f"the target {text_of(target)} is not a class, so it takes no init arguments; leave them out"
        )
    try:
        if _is_object(target):
            return _pack_object(target)
        return _packed(Target(target, tuple(init_args), kwargs))[0]
    except Exception as error:
        raise UnpicklableTargetError(_refusal(target, init_args, kwargs, error)) from error


def _is_object(target: Any) -> bool:
    """Neither a class nor a function: an application, say, or another object that can be called."""
    return not isinstance(target, str) and not inspect.isclass(target) and not inspect.isroutine(target)


def _packed(target: Target) -> tuple[bytes, Pickler]:
    with io.BytesIO() as file:
        pickler = Pickler(file, PROTOCOL)
        pickler.dump(target)
        return file.getvalue(), pickler


def _pack_object(target: Any) -> bytes:
    """As plain pickling does it; and where that does not do, by its name in a module, or else as a copy.

    What a module holds under a name has, under that name, all of it fitting together.
    """
    packed, failure = b"", None
    try:
        packed, pickler = _packed(Target(target))
        if not pickler.helped:
            return packed
    except Exception as error:
        failure = error
    name = name_of(target, Pickler(io.BytesIO()).by_value)
    if name is not None:
        return _packed(Target(":".join(name)))[0]
    if failure is not None:
        raise failure
    return packed


def _refusal(target: Any, init_args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> str:
    """What cannot travel, where it hangs, and what to do about it."""
    parts = {
        f"the target {text_of(target)}": target,
        **{f"init argument {n}": value for n, value in enumerate(init_args, 1)},
        **{f"init argument {name!r}": value for name, value in kwargs.items()},
    }
    blamed = next(filter(None, (blame(name, part) for name, part in parts.items())), None)
    what, reason = blamed or (f"the target {text_of(target)}", f"{type(error).__name__}: {error}")
    advice = "make it in the __init__ of a class target, which runs in the replica, or in the function that uses it"
    if _is_object(target):
        advice = (
            "give create_backend 'module:attribute' instead, which a replica imports; or, for an application, a "
            'function that makes it, with adapter_options={"factory": True}'
        )
    return f"{what} cannot be pickled, and so cannot travel to a replica ({reason}); {advice}"

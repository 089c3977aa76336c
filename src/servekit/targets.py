"""From what a user gave `create_backend` to bytes that a replica can build it from."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import cloudpickle

from servekit import copies
from servekit.errors import InvalidInputError, UnpicklableTargetError
from servekit.handles.pickling import by_value
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
        with by_value(target):
            return bytes(cloudpickle.dumps(Target(target, tuple(init_args), kwargs)))
    except Exception as error:
        raise UnpicklableTargetError(_culprit(target, init_args, kwargs, error)) from error


def _is_object(target: Any) -> bool:
    """Neither a class nor a function: an application, say, or another object that can be called."""
    return not isinstance(target, str) and not inspect.isclass(target) and not inspect.isroutine(target)


def _pack_object(target: Any) -> bytes:
    """As plain pickling does it; and where that does not do, by its name in a module, or else as a copy."""
    failure: Exception | None = None
    helped = False
    try:
        packed, helped = copies.dumps(Target(target))
    except Exception as error:
        failure = error
    if helped or failure is not None:
        name = copies.name_of(target)
        if name is not None:
            return bytes(cloudpickle.dumps(Target(name)))
    if failure is not None:
        raise failure
    return packed


def _culprit(target: Any, init_args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> str:
    parts = {
        f"the target {text_of(target)}": target,
        **{f"init argument {n}": value for n, value in enumerate(init_args, 1)},
        **{f"init argument {name!r}": value for name, value in kwargs.items()},
    }
    for name, part in parts.items():
        try:
            cloudpickle.dumps(part)
        except Exception as own:
            name, error = name, own
            break
    else:
        name = f"the target {text_of(target)}"
    advice = "make what it holds in the __init__ of a class target, which runs in the replica"
    if _is_object(target):
        advice = (
            "give create_backend 'module:attribute' instead, which a replica imports; or, for an application, a "
            'function that makes it, with adapter_options={"factory": True}'
        )
    return f"{name} cannot be pickled, and so cannot travel to a replica ({type(error).__name__}: {error}); {advice}"

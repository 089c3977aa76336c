"""From what a user gave `create_backend` to bytes that a replica can build it from."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import cloudpickle

from servekit.errors import InvalidInputError, UnpicklableTargetError
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
        with _by_value(target):
            return bytes(cloudpickle.dumps(Target(target, tuple(init_args), kwargs)))
    except Exception as error:
        raise UnpicklableTargetError(_culprit(target, init_args, kwargs, error)) from error


@contextlib.contextmanager
def _by_value(target: Any) -> Iterator[None]:
    """While this lasts, what is in the target's module is pickled whole, if no import would find the module.

    pytest's ``--import-mode=importlib`` makes such modules: a replica could not import what refers to them.
    """
    name = getattr(target, "__module__", None)
    module = sys.modules.get(name or "")
    if module is None or name == "__main__" or _is_found(str(name).partition(".")[0]):
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _is_found(module: str) -> bool:
    # Not importlib.util.find_spec, which looks into sys.modules first.
    finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
    return any(find(module, None) is not None for find in finders if find is not None)


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
    return (
        f"{name} cannot be pickled, and so cannot travel to a replica ({type(error).__name__}: {error}); "
        "make what it holds in the __init__ of a class target, which runs in the replica"
    )

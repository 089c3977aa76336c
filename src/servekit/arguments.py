"""What a public function is called with, checked by its own annotations before it does anything."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from servekit.config import BackendConfig, fits, misfit, nearest, short
from servekit.errors import ArgumentError
from servekit.old_names import IN_RAY_SERVE

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, which raises `ArgumentError` where it is called with what its signature and annotations do not
    allow. Of a method, ``self`` is not looked at."""
    signature = inspect.signature(function)
    kinds = functools.cache(lambda: kinds_of(function))
    takes_nothing = not signature.parameters

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if takes_nothing and not args and not kwargs:
            return function(*args, **kwargs)  # `get_context`, which a handler may call for each request.
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            problem = _misfit(signature.parameters, kinds(), args, kwargs) or str(error)
            raise ArgumentError(f"{function.__name__}(): {problem}") from None
        for name, value in bound.arguments.items():
            if name in kinds() and not fits(value, kinds()[name]):
                optional = signature.parameters[name].default is not inspect.Parameter.empty
                rest = _by_name(signature.parameters) if optional and name not in kwargs else ""
                raise ArgumentError(f"{function.__name__}(): {misfit(name, value, kinds()[name])}{rest}")
        return function(*args, **kwargs)

    return call


def kinds_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of its parameters, but for ``*args`` and ``**kwargs``; of a result's there may be none here."""
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = {name: p.annotation for name, p in inspect.signature(function).parameters.items() if p.kind in plain}
    holder: Any = types.SimpleNamespace(
        __annotations__={name: kind for name, kind in taken.items() if kind is not inspect.Parameter.empty}
    )
    return typing.get_type_hints(holder, getattr(inspect.unwrap(function), "__globals__", None))


def _misfit(
    parameters: Mapping[str, inspect.Parameter],
    kinds: Mapping[str, Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> str:
    """Why ``args`` and ``kwargs`` do not fit; empty where Python's own words will do."""
    follow = next((name for name, p in parameters.items() if p.kind is p.VAR_POSITIONAL), "")
    names = [name for name in parameters if name not in ("self", follow)]
    for key in kwargs:
        if key in names:
            continue
        if key == follow:
            return f"there is no argument {key!r}: write its items one by one after {names[1]}, or by init_kwargs={{…}}"
        here = IN_RAY_SERVE.get(key, key)
        for name, kind in kinds.items():
            if any(here in getattr(each, "__struct_fields__", ()) for each in typing.get_args(kind)):
                return f"there is no argument {key!r}; it is a key of {name}, as in {name}={{{here!r}: …}}"
        if key in BackendConfig.__struct_fields__:
            return f"there is no argument {key!r}; it is a key of a backend's config: create_backend(…, config={{…}})"
        hint = nearest(key, names, IN_RAY_SERVE)
        if hint.startswith(".") and "init_kwargs" in names:
            hint = f"; if it is for the target's __init__, write init_kwargs={{{key!r}: …}}{hint}"
        return f"there is no argument {key!r}{hint}"
    placed = [name for name in names if parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    at = len(placed) + ("self" in parameters)
    if len(args) > at and not follow:
        named = next((name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY), "")
        advice = f": write {named}={short(args[at])}" if named and fits(args[at], kinds.get(named)) else ""
        return (
            f"argument {len(placed) + 1}, {short(args[at])}, has no place{advice}. "
            f"By position it takes {', '.join(placed) or 'nothing'}{_by_name(parameters)}"
        )
    return ""


def _by_name(parameters: Mapping[str, inspect.Parameter]) -> str:
    """To end a message about what was given by position."""
    named = [f"{name}=" for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return f". By name it takes {', '.join(named)}" if named else ""

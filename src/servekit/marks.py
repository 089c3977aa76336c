"""What users say of a handler by a decorator."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from servekit.errors import InvalidInputError

_F = TypeVar("_F", bound=Callable[..., Any])
_BATCHES = "__servekit_accepts_batches__"


def accept_batch(handler: _F) -> _F:
    """Mark a handler that answers several requests at once: a function, a class's ``__call__`` or another method.

    It is called with a list of what it would otherwise be called with, of at most ``max_batch_size`` requests, and
    returns a list as long: one result for each, in order. An item that is an exception answers its request as if the
    handler had raised it. The handler may be an ``async def``.

    Raises `InvalidInputError` for a class (mark its ``__call__``) and for a generator function.
    """
    if inspect.isclass(handler):
        raise InvalidInputError(
            f"accept_batch marks functions and methods: mark the __call__ of {handler.__qualname__}"
        )
    if not inspect.isroutine(handler):
        raise InvalidInputError(f"accept_batch marks functions and methods, not a {type(handler).__qualname__}")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise InvalidInputError(
            f"{handler.__qualname__} cannot accept batches: it is a generator function, and would have to return a "
            "list. To stream the answers, return a list of generators"
        )
    setattr(handler, _BATCHES, True)
    return handler


def accepts_batches(handler: object) -> bool:
    """True for what `accept_batch` has marked, and for an object whose ``__call__`` it has."""
    return getattr(function_of(handler), _BATCHES, False) is True


def function_of(handler: object) -> object:
    """The function that is behind a partial, or that is an object's ``__call__``."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler if inspect.isroutine(handler) else getattr(type(handler), "__call__", None)  # noqa: B004

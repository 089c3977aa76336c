"""Decorators for handlers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from servekit.arguments import checked
from servekit.config import short
from servekit.errors import InvalidInputError

_F = TypeVar("_F", bound=Callable[..., Any])
_BATCHES = "__servekit_accepts_batches__"
UNKNOWN = (TypeError, ValueError, NameError)
"""What `inspect` raises where nothing is known of a callable: of some written in C; and from Python 3.14 on, which
reads annotations when they are asked for, where one names what type checkers alone import."""


@checked
def accept_batch(handler: _F) -> _F:
    """Mark a handler that answers several requests at once: a function, a class's ``__call__`` or another method; a
    class: its ``__call__`` and every method that may be called by its name.

    It is called with a list of what it would otherwise be called with, of at most ``max_batch_size`` requests, and
    returns a list as long: one result for each, in order. An item that is an exception answers its request as if the
    handler had raised it. The handler may be an ``async def``.

    Raises `InvalidInputError` for a generator function, and for what is neither a function nor a class.
    """
    if not (inspect.isroutine(handler) or inspect.isclass(handler)):
        raise InvalidInputError(
            f"accept_batch marks functions, methods and classes, not {type(handler).__qualname__}: {short(handler)}"
        )
    called = getattr(handler, "__call__", None) if inspect.isclass(handler) else handler  # noqa: B004
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise InvalidInputError(
            f"{called.__qualname__} cannot accept batches: it is a generator function, and would have to return a "
            "list. To stream the answers, return a list of generators"
        )
    setattr(handler, _BATCHES, True)
    return handler


def accepts_batches(handler: object) -> bool:
    """True for what `accept_batch` has marked, for an object whose ``__call__`` it has, and for a method of a marked
    class."""
    marked = (function_of(handler), handler, getattr(handler, "__self__", None))
    return any(getattr(each, _BATCHES, False) is True for each in marked)


def takes_batches(target: object) -> bool:
    """Whether a target, or a method of it where it is a class, is marked by `accept_batch`."""
    methods = [getattr(target, name, None) for name in dir(target)] if inspect.isclass(target) else []
    return any(map(accepts_batches, [target, *methods]))


def check_batches(max_batch_size: int | None, takes_batches: bool) -> None:
    """Raise `InvalidInputError` where a target takes one request at a time and is to be given more."""
    if (max_batch_size or 1) > 1 and not takes_batches:
        raise InvalidInputError(
            f"max_batch_size is {max_batch_size}, but the handler takes one request at a time: mark it with "
            "@servekit.accept_batch (it then gets a list and returns one as long), or leave max_batch_size out"
        )


def function_of(handler: object) -> object:
    """The function behind a `functools.partial`, or an object's ``__call__``; a function itself."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler if inspect.isroutine(handler) else getattr(type(handler), "__call__", None)  # noqa: B004


def signature_of(handler: Callable[..., Any]) -> inspect.Signature:
    """How ``handler`` is called. Of a decorator's function that takes whatever comes, ``*args``, what is behind it
    counts; one that names what it takes may call what is behind it with something else.

    Raises one of `UNKNOWN`.
    """
    own = inspect.signature(handler, follow_wrapped=False)
    takes_all = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in own.parameters.values())
    return inspect.signature(handler) if takes_all else own


def takes_nothing(handler: Callable[..., Any]) -> bool:
    """Whether ``handler`` takes no positional argument: neither a request nor anything else."""
    try:
        parameters = signature_of(handler).parameters.values()
    except UNKNOWN:
        return False
    return not any(parameter.kind < parameter.KEYWORD_ONLY for parameter in parameters)

"""What surrounds a block of code, or each call of a function, of whichever sort that is."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TypeVar, cast

_F = TypeVar("_F", bound=Callable[..., Any])


class Block:
    """For a ``with`` block, once at a time; or as a decorator, of any number of calls at a time.

    A call of an ``async def`` lasts until it returns, and one of a generator function until its last item was taken:
    where `contextlib` would be done as soon as the coroutine, or the generator, is made.
    """

    def __init__(self, surround: Callable[[], AbstractContextManager[None]]) -> None:
        """``surround``: makes what surrounds one block, or one call."""
        self._surround = surround
        self._entered: AbstractContextManager[None] | None = None

    def __enter__(self) -> None:
        self._entered = self._surround()
        self._entered.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool | None:
        entered, self._entered = self._entered, None
        assert entered is not None
        return entered.__exit__(kind, error, where)

    def __call__(self, function: _F) -> _F:
        return cast("_F", functools.wraps(function)(self._surrounded(function)))

    def _surrounded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        surround = self._surround
        if inspect.iscoroutinefunction(function):
            return _of_coroutines(surround, function)
        if inspect.isasyncgenfunction(function):
            return _of_async_generators(surround, function)
        if inspect.isgeneratorfunction(function):
            return _of_generators(surround, function)

        def call(*args: Any, **kwargs: Any) -> Any:
            with surround():
                return function(*args, **kwargs)

        return call


def _of_coroutines(
    surround: Callable[[], AbstractContextManager[None]], function: Callable[..., Any]
) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        with surround():
            return await function(*args, **kwargs)

    return call


def _of_generators(
    surround: Callable[[], AbstractContextManager[None]], function: Callable[..., Any]
) -> Callable[..., Generator[Any, Any, Any]]:
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with surround():
            return (yield from function(*args, **kwargs))

    return call


def _of_async_generators(
    surround: Callable[[], AbstractContextManager[None]], function: Callable[..., Any]
) -> Callable[..., AsyncIterator[Any]]:
    async def call(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        with surround():
            async with contextlib.aclosing(function(*args, **kwargs)) as items:
                async for item in items:
                    yield item

    return call

"""Code that stands once, for handlers that are called and for those that are awaited.

A flow is a generator. It yields what is to be called next, and is given what that returned, or awaited; what it raised
is raised where the flow yielded. Two drivers run it, as those of httpx's `_auth.py` do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Flow: TypeAlias = Generator[Callable[[], Any], Any, T]


def run(flow: Flow[T]) -> T:
    """Call what the flow yields; returns what it returns."""
    try:
        step = next(flow)
        while True:
            try:
                result = step()
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as end:
        value: T = end.value
        return value


async def run_async(flow: Flow[T]) -> T:
    """As `run`, and await what can be awaited."""
    try:
        step = next(flow)
        while True:
            try:
                result = step()
                if inspect.isawaitable(result):
                    result = await result
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as end:
        value: T = end.value
        return value

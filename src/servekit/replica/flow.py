"""Code that is written once for handlers that are called and for handlers that are awaited.

A flow is a generator. It yields the function that is to be called next, and is given the result of that function. An
error of the function is raised where the flow yielded. Two drivers run flows, as in httpx's `_auth.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Flow: TypeAlias = Generator[Callable[[], Any], Any, T]


def run(flow: Flow[T]) -> T:
    """Call each function that the flow yields; returns the result of the flow."""
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
    """As `run`, and await each result that can be awaited."""
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

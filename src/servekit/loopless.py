"""Calls a ``def`` of the user's as code that no event loop runs.

Such code may call `asyncio.run`, or use code that does: a synchronous client of an async library, an ``async def`` view
of Flask. Python refuses `asyncio.run` where a loop is marked as running in the thread, as servekit's is.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, _enter_task, _leave_task, _set_running_loop, current_task
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


def call_loopless(loop: AbstractEventLoop, function: Callable[..., _T], *args: Any) -> _T:
    """Call ``function(*args)``, which finds no running event loop and no current task; returns its result.

    Args:
        loop: the event loop that runs in this thread. It stands still meanwhile, as it does for any other call.
    """
    task = current_task(loop)
    if task is not None:
        _leave_task(loop, task)
    _set_running_loop(None)
    try:
        return function(*args)
    finally:
        _set_running_loop(loop)
        if task is not None:
            _enter_task(loop, task)

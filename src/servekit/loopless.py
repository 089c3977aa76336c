"""Calls a ``def`` of the user's as code that no event loop runs.

Such code may call `asyncio.run`, or use what does: a synchronous client of an async library, an ``async def`` view of
Flask. Python refuses that where a loop is marked as running in the thread, as servekit's is.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Task, _enter_task, _leave_task, _set_running_loop, current_task
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


def call_loopless(loop: AbstractEventLoop, function: Callable[..., _T], *args: Any) -> _T:
    """What ``function(*args)`` returns, or raises: it finds no running event loop, and no current task.

    Args:
        loop: the one that runs in this thread. It stands still meanwhile, as it does for any other call.
    """
    task = hide(loop)
    try:
        return function(*args)
    finally:
        show(loop, task)


def hide(loop: AbstractEventLoop) -> Task[Any] | None:
    """From now on this thread's running loop is marked as not running; `show` is to be given what this returns.

    For many calls in one turn: Python before 3.12 asks the kernel for the process's number each time.
    """
    task = current_task(loop)
    if task is not None:
        _leave_task(loop, task)
    _set_running_loop(None)
    return task


def show(loop: AbstractEventLoop, task: Task[Any] | None) -> None:
    """The loop and its current task are there again."""
    _set_running_loop(loop)
    if task is not None:
        _enter_task(loop, task)

"""Sets of tasks that run beside their owner, and waiting for an event for a limited time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class TaskSet:
    """Holds tasks until each has ended: the event loop itself keeps only weak references."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run ``work`` as a task of the running event loop."""
        task = asyncio.get_running_loop().create_task(work)
        self.hold(task)
        return task

    def hold(self, task: asyncio.Task[Any]) -> None:
        """Take in a task that runs already."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def __len__(self) -> int:
        return len(self._tasks)

    async def wait(self, timeout_s: float) -> bool:
        """Whether all have ended within ``timeout_s``."""
        if not self._tasks:
            return True
        _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
        return not late

    def cancel(self) -> None:
        """Cancel all tasks."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Cancel all tasks; return when they have ended."""
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def came_within(event: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait for ``event``; returns whether it was set within ``timeout_s``, None: without a limit."""
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except asyncio.TimeoutError:
        return event.is_set()
    return True


async def first_failure(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of ``work`` at a time; raise what fails first, and cancel the rest."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def done_before(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do ``work``, and raise what it raises; where the event is set first, cancel it, and return False."""
    task, other = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([task, other], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        return task.done()
    finally:
        task.cancel()
        other.cancel()
        await asyncio.gather(task, other, return_exceptions=True)


def in_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """The result of a call of the user's code that may never return: in a thread of its own, for which no end of the
    process waits."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = call()
        except StopIteration as raised:  # No future takes it.
            error = RuntimeError(f"it raised {raised!r}")
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # The loop is closed.
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="in_thread", daemon=True).start()
    return future

"""Tasks that run beside their owner, and what they wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class TaskSet:
    """Holds tasks until each has ended: the event loop itself keeps only weak references."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run ``work`` as a task of the running event loop."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def wait(self, timeout_s: float) -> bool:
        """Whether all have ended within ``timeout_s``."""
        if not self._tasks:
            return True
        _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
        return not late

    def cancel(self) -> None:
        """Cancel all."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Cancel all; return when they have ended."""
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def came_within(event: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait for ``event``: whether it came within ``timeout_s``; None: however long that takes."""
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except asyncio.TimeoutError:
        return event.is_set()
    return True

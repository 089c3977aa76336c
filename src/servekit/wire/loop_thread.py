"""An event loop that runs in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading

import uvloop

_CANCEL_TIMEOUT_S = 1.0
_CLOSE_TIMEOUT_S = 5.0


class LoopThread:
    """Runs from its construction on; `close` cancels what runs on the loop, closes the loop and ends the thread."""

    def __init__(self, name: str) -> None:
        self.loop = uvloop.new_event_loop()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """End it. A thread whose loop hangs is left behind, as a daemon."""
        with contextlib.suppress(concurrent.futures.TimeoutError):
            asyncio.run_coroutine_threadsafe(_cancel_tasks(), self.loop).result(_CLOSE_TIMEOUT_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        with contextlib.closing(self.loop):
            self.loop.run_forever()


async def _cancel_tasks() -> None:
    """Cancel all but this one; a task that will not end is left after a second."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_CANCEL_TIMEOUT_S)

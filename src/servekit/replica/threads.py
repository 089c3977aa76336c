"""Threads for handlers that would block the data loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

THREAD_NAME = "servekit-handler-"
"""So begin the names of the threads."""


class Threads:
    """At most ``count`` threads, started when they are needed.

    The threads are daemons: a handler that hangs must not keep the process from ending.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._started = 0
        self._idle = 0
        """Threads that wait, less the work that waits for a thread. Approximate: only a new thread's start depends on
        the number."""
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def submit(self, work: Callable[[], None]) -> None:
        """Have a thread call ``work``, which must not raise. Called on the data loop, while less than ``count`` run."""
        if self._idle <= 0 and self._started < self._count:
            self._started += 1
            threading.Thread(target=self._run, name=f"{THREAD_NAME}{self._started}", daemon=True).start()
        else:
            self._idle -= 1
        self._work.put(work)

    def close(self) -> None:
        """Let each thread end after the work that it does now."""
        for _ in range(self._started):
            self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # The work holds a request.
            self._idle += 1

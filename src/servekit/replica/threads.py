"""Threads in which handlers run that would block the data loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Threads:
    """At most ``count`` threads, started when they are needed.

    They are daemons: a handler that hangs must not keep its process.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._started = 0
        self._idle = 0
        """Threads that wait, less the work that waits for them; approximate, for it decides only when to start one."""
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def submit(self, work: Callable[[], None]) -> None:
        """Have ``work`` done; it must not raise. Called on the data loop, with less than ``count`` under way."""
        if self._idle <= 0 and self._started < self._count:
            self._started += 1
            threading.Thread(target=self._run, name=f"servekit-handler-{self._started}", daemon=True).start()
        else:
            self._idle -= 1
        self._work.put(work)

    def close(self) -> None:
        """Let the threads end after what they do now."""
        for _ in range(self._started):
            self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # It holds a request.
            self._idle += 1

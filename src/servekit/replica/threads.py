"""Threads in which handlers run that would block the data loop, and the way back from them to the loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
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


class Mailbox:
    """Calls to be made on the data loop, in order. Many of them wake it once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], None]] = deque()
        self._planned = False

    def post(self, call: Callable[[], None]) -> None:
        """From any thread. A loop that has ended takes nothing any more."""
        self._calls.append(call)
        self._plan()

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._open)

    def _open(self) -> None:
        self._planned = False
        try:
            while self._calls:
                self._calls.popleft()()
        finally:
            if self._calls:  # One of them failed, which the loop tells; the others are to be made all the same.
                self._plan()

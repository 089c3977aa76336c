"""From any thread to one event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable


class Mailbox:
    """Calls to be made on a loop, in order. Many of them wake it once."""

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

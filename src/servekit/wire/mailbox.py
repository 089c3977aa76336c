"""Calls from any thread to an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable


class Mailbox:
    """Calls to be made on an event loop, in order; the loop is woken once for many of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], None]] = deque()
        self._planned = False

    def post(self, call: Callable[[], None]) -> None:
        """Have the loop make the call; from any thread. On a loop that has ended the call is dropped."""
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
            if self._calls:  # A call has raised, which the loop logs; the others are made all the same.
                self._plan()

"""The events of a WebSocket that the application's `receive` returns."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

ABNORMAL = 1006
"""The close code of a connection that ended without a close frame (RFC 6455, 7.1.5)."""
MOST_EVENTS = 64
MOST_BYTES = 1024 * 1024


class EventQueue:
    """Events in order, the last of which is ``websocket.disconnect``. While the queue is full, `put` waits, and so the
    client is read no further.
    """

    def __init__(self) -> None:
        self._events: deque[tuple[dict[str, Any], int]] = deque()
        self._size = 0
        self._last: dict[str, Any] | None = None
        self._came = asyncio.Event()
        self._taken = asyncio.Event()

    @property
    def is_full(self) -> bool:
        return self._last is None and (len(self._events) >= MOST_EVENTS or self._size > MOST_BYTES)

    async def put(self, event: dict[str, Any], size_bytes: int) -> None:
        """Add an event, and return when the queue has room for more. After `disconnect` this does nothing."""
        if self._last is not None:
            return
        self._events.append((event, size_bytes))
        self._size += size_bytes
        self._came.set()
        while self.is_full:
            self._taken.clear()
            await self._taken.wait()

    def disconnect(self, code: int = ABNORMAL, reason: str = "") -> None:
        """End the queue: behind the last event, `get` returns ``websocket.disconnect``. Only the first call counts."""
        if self._last is None:
            self._last = {"type": "websocket.disconnect", "code": code, "reason": reason}
            self._came.set()
            self._taken.set()

    async def get(self) -> dict[str, Any]:
        while not self._events:
            if self._last is not None:
                return self._last.copy()
            self._came.clear()
            await self._came.wait()
        event, size_bytes = self._events.popleft()
        self._size -= size_bytes
        self._taken.set()
        return event

"""The one thread that writes to the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from servekit.control.store import Store

T = TypeVar("T")


class Writer:
    """Runs calls on the store one after another, off the controller's loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")

    async def call(self, work: Callable[[Store], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._store)

    async def close(self) -> None:
        await self.call(lambda store: store.close())
        self._thread.shutdown()

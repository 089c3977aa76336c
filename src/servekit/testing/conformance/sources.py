"""What the bodies of streamed answers are made of, where the kit makes them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import TypeAlias

from servekit.testing.conformance import exchanges
from servekit.testing.conformance.exchanges import Fault


class _Source:
    """What a streamed answer is made of. After its first piece it waits for ``waits_for``; ``fails``: at its end."""

    def __init__(self, pieces: list[bytes], *, waits_for: threading.Event | None = None, fails: bool = False) -> None:
        self.pieces = pieces
        self.taken = 0
        self.times_closed = 0
        self.was_closed = threading.Event()
        self.waited_in_vain = False
        self._waits_for = waits_for
        self._fails = fails

    def _take(self) -> bytes | None:
        """The next piece; None: there is none."""
        if self.taken == 1 and self._waits_for is not None and not self._waits_for.wait(exchanges.PATIENCE_S):
            self.waited_in_vain, self._waits_for = True, None
        if self.taken == len(self.pieces):
            if self._fails:
                raise Fault("for the kit, in a streamed answer")
            return None
        self.taken += 1
        return self.pieces[self.taken - 1]

    def _close(self) -> None:
        self.times_closed += 1
        self.was_closed.set()


class SyncSource(_Source):
    """An iterator with a ``close``."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = self._take()
        if piece is None:
            raise StopIteration
        return piece

    def close(self) -> None:
        self._close()


class AsyncSource(_Source):
    """An async iterator with an ``aclose``. It takes its time: what reads a long one to its end is late for it."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0.001)
        piece = await asyncio.to_thread(self._take)
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        self._close()


Source: TypeAlias = "SyncSource | AsyncSource"

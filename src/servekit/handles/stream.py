"""What a handler's generator makes, as it arrives at the caller."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from servekit.errors import LinkError
from servekit.handles.failures import unpack_failure
from servekit.handles.parcel import unpack
from servekit.handles.records import Kind, RecordReader
from servekit.wire.credit import Debt


class Inflow:
    """The bytes of a stream between the caller's loop, which feeds it, and whoever reads it. What has been read is
    granted again as credit, so about a window of it waits here at most."""

    def __init__(self, grant: Callable[[int], None]) -> None:
        """``grant(size_bytes)`` is called in the reader's thread."""
        self._grant = grant
        self._pieces: deque[bytes] = deque()
        self._reader = RecordReader()
        self._debt = Debt()
        self._changed = threading.Condition()
        self._wake: Callable[[], None] | None = None
        self._broken: Exception | None = None
        """No more will come; this is raised behind what has."""

    # -- on the caller's loop ------------------------------------------------------------------------------------

    def feed(self, piece: bytes) -> None:
        with self._changed:
            self._pieces.append(piece)
            self._notify()

    def end(self, broken: Exception) -> None:
        """No more will come. A stream that is whole ends with a record that says so, and raises nothing."""
        with self._changed:
            self._broken = self._broken or broken
            self._notify()

    def _notify(self) -> None:
        self._changed.notify()
        wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    # -- in the reader's thread ----------------------------------------------------------------------------------

    def wait_next(self) -> tuple[Kind, bytearray]:
        """The next record. Raises what broke the stream off."""
        while (found := self.next_here()) is None:
            with self._changed:
                while not self._pieces and self._broken is None:
                    self._changed.wait()
        return found

    async def await_next(self) -> tuple[Kind, bytearray]:
        """As `wait_next`, on any event loop."""
        while (found := self.next_here()) is None:
            loop = asyncio.get_running_loop()
            arrived = asyncio.Event()

            def wake(loop: asyncio.AbstractEventLoop = loop, arrived: asyncio.Event = arrived) -> None:
                with contextlib.suppress(RuntimeError):  # That loop has ended, and with it who waited.
                    loop.call_soon_threadsafe(arrived.set)

            with self._changed:
                if self._pieces or self._broken is not None:
                    continue
                self._wake = wake
            await arrived.wait()
        return found

    def next_here(self) -> tuple[Kind, bytearray] | None:
        """The next record, if all of it is here."""
        while (found := self._reader.next()) is None:
            with self._changed:
                if not self._pieces:
                    if self._broken is not None:
                        raise self._broken
                    return None
                piece = self._pieces.popleft()
            self._reader.feed(piece)
            if owed := self._debt.taken(len(piece)):
                self._grant(owed)
        return found


class ResultStream(Iterator[Any], AsyncIterator[Any]):
    """The result of a call whose handler gave a generator: an iterator, and an async iterator, of what that makes.

    `close` or `aclose` ends the generator where it is, and so does letting go of this object. One reader at a time.
    """

    def __init__(self, inflow: Inflow, leave: Callable[[], None]) -> None:
        self._inflow = inflow
        self._leave: Callable[[], None] | None = leave

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next item. Raises what the generator raised."""
        if self._leave is None:
            raise StopIteration
        try:
            record = self._inflow.wait_next()
        except Exception:
            self._leave = None
            raise
        return self._item(*record, StopIteration)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._leave is None:
            raise StopAsyncIteration
        try:
            record = await self._inflow.await_next()
        except Exception:
            self._leave = None
            raise
        return self._item(*record, StopAsyncIteration)

    def close(self) -> None:
        """Read no more: the generator's ``finally`` runs. Again, or after the end: nothing."""
        leave, self._leave = self._leave, None
        if leave is not None:
            self._inflow.end(LinkError("this stream was closed"))
            leave()

    async def aclose(self) -> None:
        """As `close`."""
        self.close()

    def __del__(self) -> None:
        self.close()

    def _item(self, kind: Kind, parcel: bytearray, over: type[Exception]) -> Any:
        """What a record holds; raises what the generator raised, or ``over`` at its end."""
        if kind is Kind.ITEM:
            return unpack(parcel)
        self._leave = None
        raise unpack_failure(parcel) if kind is Kind.FAILURE else over

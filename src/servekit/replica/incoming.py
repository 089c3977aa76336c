"""A request's body that is still arriving: read as a file from another thread, or iterated over on the data loop."""

from __future__ import annotations

import asyncio
import io
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, BinaryIO

from servekit.wire.credit import Debt
from servekit.wire.data_frames import BODY_WINDOW_BYTES, PIECE_BYTES


class _Incoming:
    """What has come of a body, fed on the data loop. What has been read makes room for more: ``grant``."""

    def __init__(self, first: bytes, grant: Callable[[int], None]) -> None:
        """``grant(size_bytes)`` is called where it is read."""
        self._grant: Callable[[int], None] | None = grant
        self._pieces: deque[bytes] = deque([first] if first else ())
        self._debt = Debt(-len(first))
        self._broken: str | None = None
        self.ended = False
        self.waiting_bytes = 0
        """Beyond the first piece, what has come and has not been granted."""

    def feed(self, data: bytes) -> None:
        self._pieces.append(data)
        self.waiting_bytes += len(data)
        self._wake()

    def end(self, broken: str | None = None) -> None:
        """No more will come; ``broken`` says why that is too early."""
        self.ended = True
        self._grant = None  # It leads to the call, and that to this: a cycle that would keep every body.
        self._broken = self._broken or broken
        self._wake()

    @property
    def window_is_full(self) -> bool:
        """Nothing more comes before something is read."""
        return self.waiting_bytes >= BODY_WINDOW_BYTES

    def whole(self) -> bytes:
        """All of an ended body of which nothing was read."""
        return b"".join(self._pieces)

    def _wake(self) -> None:
        """Something has come, or the end."""
        raise NotImplementedError

    def _taken(self, size: int) -> None:
        if (owed := self._debt.taken(size)) and self._grant is not None:
            self.waiting_bytes -= owed
            self._grant(owed)


class IncomingStream(_Incoming, io.RawIOBase):
    """Read in a handler's thread."""

    def __init__(self, first: bytes, grant: Callable[[int], None]) -> None:
        super().__init__(first, grant)
        self._changed = threading.Condition()
        self._offset = 0
        """Of the first piece, what has been read."""

    # -- on the data loop -------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        with self._changed:
            super().feed(data)

    def end(self, broken: str | None = None) -> None:
        with self._changed:
            super().end(broken)

    def _wake(self) -> None:
        self._changed.notify()

    def as_file(self) -> BinaryIO:
        """For the handler's thread: with ``read``, ``readline`` and the like."""
        return io.BufferedReader(self, PIECE_BYTES)

    # -- in the handler's thread ------------------------------------------------------------------------------

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._changed:
            self._await_piece()
            if not self._pieces:
                return 0
            piece = self._pieces[0]
            size = min(len(buffer), len(piece) - self._offset)
            buffer[:size] = memoryview(piece)[self._offset : self._offset + size]
            self._offset += size
            if self._offset == len(piece):
                self._pieces.popleft()
                self._offset = 0
            self._taken(size)
        return size

    def readall(self) -> bytes:
        """All that is left. In pieces as they came, where `io.RawIOBase` would copy each twice."""
        found: list[bytes] = []
        while True:
            with self._changed:
                self._await_piece()
                if not self._pieces:
                    return b"".join(found)
                piece = self._pieces.popleft()[self._offset :]
                self._offset = 0
                self._taken(len(piece))
            found.append(piece)

    def _await_piece(self) -> None:
        while not self._pieces and not self.ended:
            self._changed.wait()
        if self._broken:
            raise ConnectionError(f"the request's body ends early: {self._broken}")


class IncomingPieces(_Incoming):
    """Read on the data loop, by one reader at a time: ``async for piece in …``."""

    def __init__(self, first: bytes, grant: Callable[[int], None]) -> None:
        super().__init__(first, grant)
        self._reader: asyncio.Future[None] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces and not self.ended:
            if self._reader is not None:
                raise RuntimeError("a request's body has one reader at a time")
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if self._broken:
            raise ConnectionError(f"the request's body ends early: {self._broken}")
        if not self._pieces:
            raise StopAsyncIteration
        piece = self._pieces.popleft()
        self._taken(len(piece))
        return piece

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

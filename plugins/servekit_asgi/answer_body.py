"""The body of an answer, made piece by piece: what the application sends, and the core takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable


class ClientGoneError(ConnectionError):
    """What `send` raises once the client is gone (an `OSError`, as the ASGI specification, 2.4, says)."""

    def __init__(self) -> None:
        super().__init__("the client is gone: nobody takes this answer")


class AnswerBody:
    """Pieces that were not taken yet. The core takes them by ``async for``, no faster than the client reads."""

    def __init__(self, limit_bytes: int = 0, on_close: Callable[[], Awaitable[None]] | None = None) -> None:
        """
        Args:
            limit_bytes: above this many that were not taken, `room` waits.
            on_close: awaited when the core closes the body, at the end or early.
        """
        self._limit_bytes = limit_bytes
        self._on_close = on_close
        self._pieces: list[bytes] = []
        self._size = 0
        self._ended = False
        self._error: BaseException | None = None
        self._came = asyncio.Event()
        self._taken = asyncio.Event()
        self.gone = asyncio.Event()
        """Set when nobody takes the pieces any more."""

    @property
    def is_full(self) -> bool:
        return self._size > self._limit_bytes

    # -- by the application's side ---------------------------------------------------------------------------------

    def write(self, piece: bytes) -> None:
        """Add a piece, be it empty. After the end, or when nobody takes it: nothing."""
        if self._ended or self.gone.is_set():
            return
        if piece or not self._pieces:
            self._pieces.append(piece)
            self._size += len(piece)
            self._came.set()

    async def room(self) -> None:
        """Wait until there is room for more. Raises `ClientGoneError` when nobody takes what there is."""
        while self.is_full and not self.gone.is_set():
            self._taken.clear()
            await self._taken.wait()
        if self.gone.is_set():
            raise ClientGoneError

    def end(self, error: BaseException | None = None) -> None:
        """No more pieces. ``error``: it was broken off, and whoever takes the pieces is to know."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._came.set()

    # -- by the core ------------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """All the pieces that there are, as one."""
        while not self._pieces:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._came.clear()
            await self._came.wait()
        pieces = self._pieces
        self._pieces, self._size = [], 0
        self._taken.set()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def aclose(self) -> None:
        """Nobody takes any more, or all has been taken."""
        self.close()
        if self._on_close is not None:
            await self._on_close()

    def close(self) -> None:
        self._pieces, self._size = [], 0
        self.gone.set()
        self._taken.set()

"""The body of an answer that is sent piece by piece: the application writes it, and the core reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable


class ClientGoneError(ConnectionError):
    """Raised by `send` once the client is gone (an `OSError`, as the ASGI specification, 2.4, demands)."""

    def __init__(self) -> None:
        super().__init__("the client is gone: nobody takes this answer")


class AnswerBody:
    """The pieces that the core has not read yet. The core reads by ``async for``, no faster than the client reads."""

    def __init__(self, limit_bytes: int = 0, on_close: Callable[[], Awaitable[None]] | None = None) -> None:
        """
        Args:
            limit_bytes: `room` waits while more than so many bytes have not been read.
            on_close: awaited when the core closes the body, at its end or earlier.
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
        """Set when the core reads no more pieces."""

    @property
    def is_full(self) -> bool:
        return self._size > self._limit_bytes

    # -- by the application's side ---------------------------------------------------------------------------------

    def write(self, piece: bytes) -> None:
        """Add a piece, which may be empty. After `end`, or once ``gone`` is set, this does nothing."""
        if self._ended or self.gone.is_set():
            return
        if piece or not self._pieces:
            self._pieces.append(piece)
            self._size += len(piece)
            self._came.set()

    async def room(self) -> None:
        """Wait until at most ``limit_bytes`` have not been read. Raises `ClientGoneError` once ``gone`` is set."""
        while self.is_full and not self.gone.is_set():
            self._taken.clear()
            await self._taken.wait()
        if self.gone.is_set():
            raise ClientGoneError

    def end(self, error: BaseException | None = None) -> None:
        """End the body. ``error``: the body is broken off, and the reader gets this exception after the last piece."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._came.set()

    # -- by the core ------------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """All the pieces that were written so far, as one."""
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
        """Called by the core when it reads no more, at the end of the body or earlier."""
        self.close()
        if self._on_close is not None:
            await self._on_close()

    def close(self) -> None:
        self._pieces, self._size = [], 0
        self.gone.set()
        self._taken.set()

"""The bodies of answers that go out in pieces, as their readers grant credit."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from servekit.wire.frames import BODY_WINDOW_BYTES, PIECE_BYTES, Chunk
from servekit.wire.link import Link

TURN_S = 100e-6
"""So long may a task go on sending without letting the loop do anything else."""


class StoppedError(Exception):
    """Nobody reads this body any more."""


class LongBody:
    """A body that is there, but too long for one frame. Everything happens on the data loop."""

    def __init__(self, link: Link, call_id: int, body: bytes) -> None:
        self.first = body[:PIECE_BYTES]
        self._link = link
        self._id = call_id
        self._rest = memoryview(body)[PIECE_BYTES:]
        self._unsent = len(self._rest)
        self._credit = BODY_WINDOW_BYTES - len(self.first)

    @property
    def unsent_bytes(self) -> int:
        return len(self._rest)

    def grant(self, size_bytes: int) -> None:
        self._credit += size_bytes

    def push(self) -> int:
        """Send what there is credit for; returns how many bytes fewer are unsent than after the last push."""
        while self._credit > 0 and self._rest:
            piece, self._rest = self._rest[:PIECE_BYTES], self._rest[PIECE_BYTES:]
            self._credit -= len(piece)
            frame: Any = Chunk(self._id, piece)  # type: ignore[arg-type]  # msgspec writes a memoryview as bytes
            self._link.send(frame)
        before, self._unsent = self._unsent, len(self._rest)
        return before - self._unsent

    def stop(self) -> None:
        self._rest = self._rest[:0]


class PieceSender:
    """Sends what an iterable makes from a handler's thread, which waits where there is no credit."""

    def __init__(self, post: Callable[[Callable[[], None]], None], link: Link, call_id: int) -> None:
        """``post`` has a call made on the data loop."""
        self._post = post
        self._link = link
        self._id = call_id
        self._credit = BODY_WINDOW_BYTES
        self._changed = threading.Condition()
        self._stopped = False

    # -- in the handler's thread -----------------------------------------------------------------------------

    def begin(self, answer: Any) -> None:
        """Send the answer with its first piece."""
        self._credit -= len(answer.body)
        self._post(lambda: self._link.send(answer))

    def send(self, piece: bytes) -> None:
        """Send a piece of whatever length; raises `StoppedError` when nobody reads on."""
        if len(piece) > PIECE_BYTES:
            for at in range(0, len(piece), PIECE_BYTES):
                self.send(piece[at : at + PIECE_BYTES])
            return
        with self._changed:
            while self._credit <= 0 and not self._stopped:
                self._changed.wait()
            if self._stopped:
                raise StoppedError
            self._credit -= len(piece)
        if piece:  # An empty one takes no credit, so any number of them could be on the way.
            frame = Chunk(self._id, piece)
            self._post(lambda: self._link.send(frame))

    # -- on the data loop ------------------------------------------------------------------------------------

    def grant(self, size_bytes: int) -> None:
        with self._changed:
            self._credit += size_bytes
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()


class AsyncPieceSender:
    """Sends what an async iterable makes, from the task that drives it, which waits where there is no credit."""

    def __init__(self, link: Link, call_id: int) -> None:
        self._link = link
        self._id = call_id
        self._credit = BODY_WINDOW_BYTES
        self._waiter: asyncio.Future[None] | None = None
        self._stopped = False
        self._turn_began = time.perf_counter()

    def begin(self, answer: Any) -> None:
        """Send the answer with its first piece."""
        self._credit -= len(answer.body)
        self._link.send(answer)

    async def send(self, piece: bytes) -> None:
        """Send a piece of whatever length; raises `StoppedError` when nobody reads on."""
        if len(piece) > PIECE_BYTES:
            for at in range(0, len(piece), PIECE_BYTES):
                await self.send(piece[at : at + PIECE_BYTES])
            return
        while self._credit <= 0 and not self._stopped:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._stopped:
            raise StoppedError
        if piece:
            self._credit -= len(piece)
            self._link.send(Chunk(self._id, piece))
        # An iterable may make piece after piece without waiting for anything; what it made leaves all the same.
        if time.perf_counter() - self._turn_began > TURN_S:
            await asyncio.sleep(0)
            self._turn_began = time.perf_counter()

    def grant(self, size_bytes: int) -> None:
        self._credit += size_bytes
        self._wake()

    def stop(self) -> None:
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

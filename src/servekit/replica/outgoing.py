"""The bodies of answers that go out in pieces, as their readers grant credit."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from servekit.replica.joining import Joiner
from servekit.wire.data_frames import BODY_WINDOW_BYTES, PIECE_BYTES, Chunk
from servekit.wire.link import Link

TURN_S = 100e-6
"""So long may a task go on sending without letting the loop do anything else."""

MADE_BYTES = 16 * 1024
"""Pieces that wait to leave together leave when they are longer than this; a thread that makes them waits for that."""


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

    def __init__(self, post: Callable[[Callable[[], None]], None], link: Link, call_id: int, joiner: Joiner) -> None:
        """``post`` has a call made on the data loop."""
        self._post = post
        self._link = link
        self._id = call_id
        self._joiner = joiner
        self._credit = BODY_WINDOW_BYTES
        self._changed = threading.Condition()
        self._stopped = False
        self._made: list[bytes] = []
        self._made_bytes = 0
        self._called = False
        """`leave` will be called: soon, or by the joiner."""

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
            while (self._credit <= 0 or self._made_bytes > MADE_BYTES) and not self._stopped:
                self._changed.wait()
            if self._stopped:
                raise StoppedError
            if not piece:  # It takes no credit, so any number of them could be on the way.
                return
            self._credit -= len(piece)
            self._made.append(piece)
            self._made_bytes += len(piece)
            if self._called and self._made_bytes <= MADE_BYTES:
                return
            first, self._called = not self._called, True
        self._post(self._leave_first if first else self._push)

    def end(self) -> None:
        """The last piece has been sent."""
        self._post(self._push)

    # -- on the data loop ------------------------------------------------------------------------------------

    def _leave_first(self) -> None:
        self._push()
        self._joiner.add(self)

    def leave(self) -> bool:
        with self._changed:
            self._called = found = bool(self._made)
        self._push()
        return found

    def _push(self) -> None:
        with self._changed:
            made, self._made, self._made_bytes = self._made, [], 0
            self._changed.notify()
        _send_joined(self._link, self._id, made)

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

    def __init__(self, link: Link, call_id: int, joiner: Joiner, *, joins: bool) -> None:
        """``joins``: pieces may leave together. What a WebSocket says does not wait: it may be one half of a talk."""
        self._link = link
        self._id = call_id
        self._joiner = joiner
        self._joins = joins
        self._credit = BODY_WINDOW_BYTES
        self._waiter: asyncio.Future[None] | None = None
        self._stopped = False
        self._turn = -1
        self._turn_began = 0.0
        self._made: list[bytes] = []
        self._made_bytes = 0
        self._rest = b""
        """Of a long piece, what has not been sent."""
        self._joining = False
        """The joiner has it."""

    def begin(self, answer: Any) -> None:
        """Send the answer with its first piece."""
        self._credit -= len(answer.body)
        self._link.send(answer)

    def send(self, piece: bytes) -> bool:
        """Send a piece of whatever length. False: `ready` is to be awaited before the next one."""
        size = len(piece)
        if size > PIECE_BYTES:
            self._rest = piece
            return False
        self._credit -= size
        if self._joining:
            self._made.append(piece)
            self._made_bytes += size
            if self._made_bytes > MADE_BYTES:
                self.push()
        elif piece:
            self._link.send(Chunk(self._id, piece))
            if self._joins:
                self._joining = True
                self._joiner.add(self)
        return self._may_go_on()

    async def ready(self) -> None:
        """Return when there is room for a piece; raises `StoppedError` when nobody reads on."""
        if self._credit > 0 and not self._rest:
            await asyncio.sleep(0)
        while True:
            await self._await_credit()
            if not self._rest:
                return
            part, self._rest = self._rest[:PIECE_BYTES], self._rest[PIECE_BYTES:]
            self._credit -= len(part)
            self._made.append(part)
            self.push()

    async def _await_credit(self) -> None:
        if self._credit <= 0:
            self.push()
        while self._credit <= 0 and not self._stopped:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._stopped:
            raise StoppedError

    def _may_go_on(self) -> bool:
        """An iterable may make piece after piece without waiting for anything: then others get their turn."""
        if self._credit <= 0 or self._stopped:
            return False
        if self._turn != self._joiner.turn or self._turn_began == 0.0:
            self._turn = self._joiner.mark_turn()
            self._turn_began = time.perf_counter()
            return True
        return time.perf_counter() - self._turn_began < TURN_S

    def leave(self) -> bool:
        self._joining = bool(self._made)
        self.push()
        return self._joining

    def push(self) -> None:
        """Send what has gathered."""
        if self._made:
            made, self._made, self._made_bytes = self._made, [], 0
            _send_joined(self._link, self._id, made)

    def grant(self, size_bytes: int) -> None:
        self._credit += size_bytes
        self._wake()

    def stop(self) -> None:
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _send_joined(link: Link, call_id: int, pieces: list[bytes]) -> None:
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    for at in range(0, len(data), PIECE_BYTES):
        link.send(Chunk(call_id, data[at : at + PIECE_BYTES]))

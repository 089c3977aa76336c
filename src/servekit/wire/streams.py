"""The bodies of calls on a link, piece by piece: the end that sends a body, and the end that takes it.

Credit is how much of a body may be sent before its receiver has taken the bytes that came. The sender begins with
`BODY_WINDOW_BYTES`. A piece takes its length of the credit, and is sent, whole, while there is any credit left: so less
than the window and one piece are ever sent and not granted. (An ingress that has no credit left at a handle sends on
the pieces that still come from the replica, and grants the replica nothing: there it may be two windows.) The receiver
grants the bytes that it has taken, and may keep back less than `PIECE_BYTES` of them: so the sender has credit again
once all that it sent was taken.

The first part of a body is in the frame that begins the body, and differs from a piece:

- in an `Answer` the first part takes credit like any piece, and the receiver owes that (an ingress sends handles an
  empty first part);
- in a `Call` or an `Invoke` the first part takes no credit, and nothing is owed for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, BinaryIO, Protocol

from servekit.wire.data_frames import BODY_WINDOW_BYTES, PIECE_BYTES, Chunk, End
from servekit.wire.link import Link


class PieceSource(Protocol):
    """The source of a body's pieces."""

    wake: Callable[[], None] | None
    """To be called when a piece, or the end, has come."""

    @property
    def size(self) -> int:
        """How many bytes can be taken; above 0 while there are any."""

    @property
    def ended(self) -> bool:
        """No more will come than can be taken now."""

    def take(self) -> Any:
        """The next piece, as bytes or a view of them; None when there is none yet."""


class WholeBody:
    """A body that is all there, as a `PieceSource`."""

    __slots__ = ("_rest", "_sent", "ended", "size", "wake")

    def __init__(self, body: bytes | memoryview, sent: Callable[[], None] | None = None) -> None:
        """``sent`` is called when the last piece is taken."""
        self._rest = memoryview(body)
        self._sent = sent
        self.size = len(self._rest)
        self.ended = True
        self.wake: Callable[[], None] | None = None

    def take(self) -> memoryview | None:
        if not self.size:
            return None
        piece, self._rest = self._rest[:PIECE_BYTES], self._rest[PIECE_BYTES:]
        self.size = len(self._rest)
        if not self.size and self._sent is not None:
            self._sent()
        return piece


class Outgoing:
    """The sending end of one body. It lives on the link's event loop."""

    __slots__ = ("_link", "_number", "_pushing", "_source", "credit", "granted", "wake")

    def __init__(self, link: Link, number: int, sent_bytes: int = 0) -> None:
        """``sent_bytes``: the length of an `Answer`'s first part."""
        self._link = link
        self._number = number
        self._source: PieceSource | None = None
        self._pushing = False
        self.credit = BODY_WINDOW_BYTES - sent_bytes
        """How many bytes may yet be sent; below 0, how many the last piece took beyond that."""
        self.granted = False
        """The receiver has begun to take the body."""
        self.wake: Callable[[], None] | None = None
        """Called when there is credit again."""

    def write(self, piece: bytes | memoryview) -> bool:
        """Send a piece of at most `DATA_FRAME_BYTES`; returns whether there is credit for another."""
        self.credit -= len(piece)
        self._link.send(Chunk(self._number, piece))  # type: ignore[arg-type]  # msgspec writes a memoryview as bytes
        return self.credit > 0

    def end(self, *, complete: bool = True, queue_length: int = 0, service_us: int = 0) -> None:
        """The body is over. See `End`."""
        self.stop()
        self._link.send(End(self._number, complete, queue_length, service_us))

    def grant(self, size_bytes: int) -> None:
        """The receiver has taken ``size_bytes`` more."""
        waited = self.credit <= 0
        self.granted = True
        self.credit += size_bytes
        if waited and self.credit > 0 and self.wake is not None:
            self.wake()

    def follow(self, source: PieceSource) -> None:
        """Send the pieces of ``source``, as they come and as there is credit, and then the end."""
        self._source = source
        self.wake = source.wake = self._push
        self._push()

    def stop(self) -> None:
        """Send nothing more of the source."""
        source, self._source, self.wake = self._source, None, None
        if source is not None:
            source.wake = None

    def _push(self) -> None:
        source = self._source
        if source is None or self._pushing:
            return
        self._pushing = True  # A piece that is taken may make room for the next, whose arrival would call this.
        while self.credit > 0 and (piece := source.take()) is not None:
            self.write(piece)
        self._pushing = False
        if source.ended and not source.size and self._source is source:
            self.end()


class Incoming:
    """The receiving end of one body: the pieces that have come, and have not been taken yet. It is a `PieceSource`.

    The link's event loop feeds the body. One reader at a time takes pieces, in any thread or on any event loop.
    """

    __slots__ = (
        "_arrived",
        "_grant",
        "_lock",
        "_owed_bytes",
        "_pieces",
        "broken",
        "ended",
        "granted",
        "received_bytes",
        "size",
        "wake",
    )

    def __init__(self, grant: Callable[[int], None], first: bytes = b"", *, owes_first: bool = False) -> None:
        """
        Args:
            grant: ``grant(size_bytes)`` lets the sender send so much more; called in the reader's thread.
            first: the first part.
            owes_first: the first part took credit, as in an `Answer`.
        """
        self._grant = grant
        self._pieces: deque[bytes] = deque([first] if first else ())
        self._owed_bytes = 0 if owes_first else -len(first)
        self._lock = threading.Lock()
        self._arrived: threading.Condition | None = None
        """Threads wait at this. Made when the first one does: to notify nobody would cost each piece more than all else
        here."""
        self.size = len(first)
        self.received_bytes = 0
        """All that have come behind the first part."""
        self.ended = False
        self.broken: Exception | None = None
        """Raised once the pieces that have come are taken."""
        self.granted = False
        """Credit was granted, so the sender knows that the body is being taken."""
        self.wake: Callable[[], None] | None = None
        """Called on the link's loop when a piece, or the end, has come. Must not raise."""

    # -- on the link's loop ----------------------------------------------------------------------------------------

    def feed(self, piece: bytes) -> None:
        """The next piece has come."""
        with self._lock:
            if self.ended:
                return
            self._pieces.append(piece)
            self.size += len(piece)
            self.received_bytes += len(piece)
            if self._arrived is not None:
                self._arrived.notify_all()
        self._wake()

    def end(self, broken: Exception | None = None) -> None:
        """No more will come. ``broken`` says why the end is too early; `take` raises it behind the last piece."""
        with self._lock:
            self.ended = True
            self.broken = self.broken or broken
            if self._arrived is not None:
                self._arrived.notify_all()
        self._wake()

    def _wake(self) -> None:
        wake = self.wake
        if wake is not None:
            wake()

    def discard(self, broken: Exception | None = None) -> None:
        """As `end`, and the pieces that have come will not be read either."""
        with self._lock:
            self._pieces.clear()
            self.size = 0
        self.end(broken)

    @property
    def is_full(self) -> bool:
        """No piece comes before another is taken."""
        return self.size + self._owed_bytes >= BODY_WINDOW_BYTES

    @property
    def is_overrun(self) -> bool:
        """More has come than there was credit for."""
        return self.size + self._owed_bytes > 2 * BODY_WINDOW_BYTES

    # -- by its reader ---------------------------------------------------------------------------------------------

    def take(self) -> bytes | None:
        """The next piece; None when there is none yet, or after the last (``ended``). Raises ``broken``.

        A reader that takes another piece has passed on the one before, so that one is granted now.
        """
        self._pay()
        with self._lock:
            if self._pieces:
                piece = self._pieces.popleft()
                self.size -= len(piece)
                self._owed_bytes += len(piece)
                return piece
            if self.broken is not None:
                raise self.broken
            return None

    def _pay(self) -> None:
        """Grant the bytes that are owed, if they are a piece. The sender of a body that has ended needs no credit."""
        owed = self._owed_bytes
        if owed >= PIECE_BYTES and not self.ended:
            self._owed_bytes = 0
            self.granted = True
            self._grant(owed)

    def take_all(self) -> bytes:
        """All pieces that have come, as one. Raises ``broken``."""
        pieces = []
        while (piece := self.take()) is not None:
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def wait(self) -> bytes | None:
        """As `take`, but waits for a piece, holding up this thread; None: the body is over. The piece is granted at
        once, for it has reached its reader."""
        while True:
            piece = self.take()
            if piece is not None:
                self._pay()
                return piece
            with self._lock:
                if self._arrived is None:
                    self._arrived = threading.Condition(self._lock)
                while not self._pieces and not self.ended:
                    self._arrived.wait()
                if not self._pieces and self.broken is None:
                    return None

    async def arrive(self) -> bytes | None:
        """As `wait`, in a task on any event loop. Raises `RuntimeError` where another task waits already."""
        while True:
            piece = self.take()
            if piece is not None:
                self._pay()
                return piece
            arrived = asyncio.get_running_loop().create_future()
            with self._lock:
                if self._pieces or self.broken is not None:
                    continue
                if self.ended:
                    return None
                if self.wake is not None:
                    raise RuntimeError("a body has one reader at a time")
                self.wake = partial(wake_task, arrived)
            try:
                await arrived
            finally:
                self.wake = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self.arrive()) is not None:
            yield piece

    def as_file(self) -> BinaryIO:
        """The body as a file, for a handler's thread: ``read``, ``readline`` and the like wait for pieces to come."""
        return io.BufferedReader(_File(self), PIECE_BYTES)


class _File(io.RawIOBase):
    """A body as a raw file."""

    def __init__(self, body: Incoming) -> None:
        self._body = body
        self._rest = memoryview(b"")
        """The part of the last piece that has not been read."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(self._body.wait() or b"")
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def readall(self) -> bytes:
        """All that is left. `io.RawIOBase` would copy each piece twice."""
        found: list[bytes | memoryview] = [self._rest]
        self._rest = memoryview(b"")
        while (piece := self._body.wait()) is not None:
            found.append(piece)
        return b"".join(found)


def wake_task(waiter: asyncio.Future[None]) -> None:
    """Wake the task that awaits ``waiter``. May be called in any thread."""
    loop = waiter.get_loop()
    if asyncio._get_running_loop() is loop:
        _settle(waiter)
    else:
        with contextlib.suppress(RuntimeError):  # The loop has ended, and with it the task that waited.
            loop.call_soon_threadsafe(_settle, waiter)


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

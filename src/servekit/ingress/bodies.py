"""Long bodies on their way through the ingress: to a replica as it has room, to a client as it reads."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from servekit.http1.body import IncomingBody
from servekit.http1.request import RequestConnection
from servekit.ingress.spool import Spool, SpoolSpace
from servekit.wire.data_frames import PIECE_BYTES
from servekit.wire.streams import Incoming, Outgoing

_log = logging.getLogger("servekit.ingress")

UPLOAD_MEMORY_BYTES = 1024 * 1024
"""A body that is taken in whole is in memory up to this length, beyond it in a file."""
PATIENCE_S = 0.01
"""How long a client may leave its write buffer full before its answer is spooled. A client that is faster than 20 MB a
second stays below this: to wait for such a client costs the replica less than a file would cost everyone."""
TURN_BYTES = 16 * PIECE_BYTES
"""The most that is read of one spool in one turn of the loop."""


def when_due(incoming: IncomingBody, dispatch: Callable[[], None]) -> None:
    """Call ``dispatch`` once the body is there, or a window of it: a slow client holds no place at a replica."""

    def check() -> None:
        if incoming.ended or incoming.is_full:
            incoming.wake = None
            dispatch()

    incoming.wake = check
    check()


class Upload:
    """The part of a request's body that follows its `Call`, handed on as it comes: a `PieceSource`.

    Until a replica grants credit, the call has not begun, and the pieces that were sent are kept: then the call can be
    sent again.
    """

    __slots__ = ("_connection", "_incoming", "_stream", "_unsent", "kept")

    def __init__(self, incoming: IncomingBody, connection: RequestConnection) -> None:
        self._incoming = incoming
        self._connection = connection
        self.kept: list[bytes] = []
        """Pieces that were sent, while they may be sent again."""
        self._unsent: deque[bytes] = deque()
        """Those of the kept pieces that are yet to be sent again."""
        self._stream: Outgoing | None = None

    @property
    def can_start_again(self) -> bool:
        return self._stream is None or not self._stream.granted

    def start(self, stream: Outgoing) -> None:
        """Send the body to a replica, from its beginning: as it comes, and as there is credit."""
        self._stream = stream
        self._unsent = deque(self.kept)
        stream.follow(self)

    def release(self) -> None:
        """The body will not be sent again."""
        self.kept = []

    def stop(self) -> None:
        """Nobody wants the rest of the body."""
        if self._stream is not None:
            self._stream.stop()
        self.kept = []
        self._incoming.wake = None  # The end of the body would call it.
        self._incoming.discard()

    # -- PieceSource ---------------------------------------------------------------------------------------------------

    @property
    def wake(self) -> Callable[[], None] | None:
        return self._incoming.wake

    @wake.setter
    def wake(self, wake: Callable[[], None] | None) -> None:
        self._incoming.wake = wake

    @property
    def size(self) -> int:
        return self._incoming.size + len(self._unsent)

    @property
    def ended(self) -> bool:
        return self._incoming.ended

    def take(self) -> bytes | None:
        if self._unsent:
            return self._unsent.popleft()
        piece = self._incoming.take()
        if not self.can_start_again:
            self.kept = []
        elif piece is not None:
            self.kept.append(piece)
        self._connection.body_taken()
        return piece


class WholeUpload:
    """The part of a request's body that follows its `Call`, taken in to its end before a replica is chosen: then it is
    a `PieceSource`.

    The body is kept until an answer has begun: until then the call can be sent again.
    """

    __slots__ = ("_at", "_connection", "_failed", "_incoming", "_spool", "_stream", "can_start_again", "size", "wake")

    ended = True

    def __init__(self, incoming: IncomingBody, connection: RequestConnection, space: SpoolSpace) -> None:
        self._incoming = incoming
        self._connection = connection
        self._spool = Spool(space, space.total_bytes, UPLOAD_MEMORY_BYTES)
        self._failed: Callable[[], None]
        self._stream: Outgoing | None = None
        self._at = 0
        self.can_start_again = True
        self.size = 0
        self.wake: Callable[[], None] | None = None

    def take_in(self, kept: list[bytes], complete: Callable[[], None], failed: Callable[[], None]) -> None:
        """Call ``complete`` once all of the body is here, behind ``kept``; ``failed`` where there is no room for the
        body, and likewise later, where the body cannot be read again. After `stop`, neither is called.
        """
        self._failed = failed

        def take() -> None:
            while (piece := self._incoming.take()) is not None:
                if not self._spool.append(piece):
                    failed()
                    return
            if self._incoming.ended:
                self._incoming.wake = None
                complete()
            self._connection.body_taken()

        if not all(self._spool.append(piece) for piece in kept):
            failed()
            return
        self._incoming.wake = take
        take()

    @property
    def gathered_bytes(self) -> int:
        """How much of it is here."""
        return self._spool.end

    @property
    def in_memory(self) -> bytes | None:
        """All of it, while it is kept; None: it is in a file, or is not kept any more."""
        return self._spool.in_memory if self.can_start_again else None

    def start(self, stream: Outgoing) -> None:
        """Send the body to a replica, from its beginning, as there is credit."""
        self._stream = stream
        self._at, self.size = 0, self._spool.end
        stream.follow(self)

    def release(self) -> None:
        """The body will not be sent again."""
        self.can_start_again = False
        if not self.size:
            self._spool.close()

    def stop(self) -> None:
        """Nobody wants the body."""
        self.can_start_again = False
        if self._stream is not None:
            self._stream.stop()
        self._spool.close()
        self._incoming.wake = None
        self._incoming.discard()

    def take(self) -> bytes | None:
        if not self.size:
            return None
        try:
            piece = self._spool.read(self._at)
        except OSError:
            _log.exception("a body that was taken in cannot be read again")
            self._failed()
            return None
        self._at += len(piece)
        self.size -= len(piece)
        if not self.size and not self.can_start_again:
            self._spool.close()
        return piece


class DownloadOwner(Protocol):
    """The `Exchange` of a download, as the download uses it."""

    done: bool

    def write(self, data: bytes) -> bool:
        """Send a piece to the client; whether the client keeps up."""

    def delivered(self, *, complete: bool) -> None:
        """All that there is of the body has been written."""

    def cut(self) -> None:
        """The client is not to get the rest."""


class Download:
    """The part of an answer's body that follows its `Answer`.

    The body is taken from its replica at the replica's speed: pieces that the client does not take within `PATIENCE_S`
    go into a spool, and are granted as credit again. Where there is no spool, or no room in it, pieces are taken as the
    client reads.
    """

    def __init__(self, exchange: DownloadOwner, status: int, body: Incoming, space: SpoolSpace | None) -> None:
        """``space``: the room for spools; None: this answer is not spooled."""
        self._exchange = exchange
        self.status = status
        self._body = body
        """Pieces that are neither written nor spooled, behind all others: less than a window and a piece."""
        self._held: bytes | None = None
        """A piece that was taken of the body and found no room in the spool."""
        self._counted_bytes = 0
        """The length of both, as the space has counted it."""
        self._space = space
        self._reads = True
        """The client keeps up."""
        self._spool: Spool | None = None
        self._is_spooling = False
        self._timer: asyncio.TimerHandle | None = None
        self.spooled_at = 0.0
        self.taken_bytes = 0
        self.written_bytes = 0
        """Of the body, to the client's connection."""
        body.wake = self._came
        self._came()

    @property
    def spooled_bytes(self) -> int:
        return 0 if self._spool is None else self._spool.size

    def client_reads(self) -> None:
        """The client keeps up again: write to it what waits here."""
        self._reads = True
        self._stop_timer()
        try:
            self._write_spooled()
        except OSError:
            _log.exception("an answer is cut: its spool cannot be read")
            self.cut()
            return
        self._write()
        self._fill()
        self._count()
        if self._is_waiting:
            self._go_on_later()
        else:
            self._stop_spooling()
            self._check_end()

    def cut(self) -> None:
        self._exchange.cut()

    def stop(self) -> None:
        """Nobody waits for the rest of the answer."""
        self._stop_timer()
        self._stop_spooling()
        self._held, self._body.wake = None, None
        self._body.discard()
        self._count()
        if self._spool is not None:
            self._spool.close()

    # -- inside ------------------------------------------------------------------------------------------------------

    @property
    def _is_waiting(self) -> bool:
        return self._held is not None or self._body.size > 0 or (self._spool is not None and self._spool.size > 0)

    def _came(self) -> None:
        """A piece, or the end, has come from the replica."""
        self._write()
        if not self._is_waiting:
            if self._body.ended:
                self._check_end()
        elif self._space is not None and not self._exchange.done:
            self._count()
            if self._is_spooling:
                self._fill()
                self._count()
            elif self._space.is_memory_full:
                self._begin_to_spool()
            else:
                self._go_on_later()

    def _write(self) -> None:
        """Write the pieces that came to a client that keeps up, once nothing is spooled any more."""
        if self._spool is None or not self._spool.size:
            while self._reads and (piece := self._take()) is not None:
                self.written_bytes += len(piece)
                self._reads = self._exchange.write(piece)

    def _write_spooled(self) -> None:
        """Write spooled pieces, as many as the client takes or one turn allows."""
        spool, left = self._spool, TURN_BYTES
        while spool is not None and spool.size and self._reads and left > 0:
            piece = spool.read(spool.start)
            spool.drop(len(piece))
            left -= len(piece)
            self.taken_bytes += len(piece)
            self.written_bytes += len(piece)
            self._reads = self._exchange.write(piece)

    def _take(self) -> bytes | None:
        piece, self._held = self._held, None
        if piece is None and (self._body.size or not self._body.ended):
            return self._body.take()
        return piece

    def _check_end(self) -> None:
        if self._body.ended and not self._is_waiting and not self._exchange.done:
            self._exchange.delivered(complete=self._body.broken is None)

    def _go_on_later(self) -> None:
        """Go on with what waits here: in the next turn, after `PATIENCE_S`, or when the client reads."""
        if self._space is None or self._timer is not None:
            return
        if self._reads:
            self._timer = self._space.loop.call_later(0, self.client_reads)
        elif not self._is_spooling:
            self._timer = self._space.loop.call_later(PATIENCE_S, self._begin_to_spool)

    def _begin_to_spool(self) -> None:
        assert self._space is not None
        self._stop_timer()
        self._is_spooling = True
        self.spooled_at, self.taken_bytes = self._space.loop.time(), 0
        self._space.readers.add(self)
        if self._spool is None:
            self._spool = Spool(self._space, self._space.answer_bytes)
        self._fill()
        self._count()

    def _fill(self) -> None:
        """Put the pieces that are here into the spool, as far as there is room."""
        while self._is_spooling and (piece := self._take()) is not None:
            assert self._spool is not None
            if not self._spool.append(piece):
                if self._is_spooling:  # It may have been this very answer that was cut to make room.
                    self._held = piece
                return

    def _stop_spooling(self) -> None:
        if self._is_spooling:
            assert self._space is not None
            self._is_spooling = False
            self._space.readers.discard(self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _count(self) -> None:
        """Tell the space how many bytes are in memory here."""
        if self._space is not None:
            size = self._body.size + len(self._held or b"")
            self._space.memory_bytes += size - self._counted_bytes
            self._counted_bytes = size

"""Long bodies on their way through the ingress: to a replica as it has room, to a client as it reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from servekit.http1.body import IncomingBody
from servekit.wire.credit import Debt
from servekit.wire.data_frames import BODY_WINDOW_BYTES, Chunk, Credit, End
from servekit.wire.link import Link

if TYPE_CHECKING:
    from servekit.http1.connection import HttpConnection


class Upload:
    """The part of a request's body that follows its `Call`.

    Until a replica grants credit, it has not begun, and what it was sent is kept: then the call can be sent again.
    """

    __slots__ = ("_connection", "_credit", "_ended", "_incoming", "_kept", "_link", "_number")

    def __init__(self, incoming: IncomingBody, connection: HttpConnection) -> None:
        self._incoming = incoming
        self._connection = connection
        self._kept: list[bytes] | None = []
        self._link: Link
        self._number = 0
        self._credit = 0
        self._ended = False

    @property
    def can_start_again(self) -> bool:
        return self._kept is not None

    def when_due(self, dispatch: Callable[[], None]) -> None:
        """Call ``dispatch`` once the body is there, or a window of it: a slow client holds no place at a replica."""

        def check() -> None:
            if self._incoming.ended or self._incoming.is_full:
                self._incoming.wake = None
                dispatch()

        self._incoming.wake = check
        check()

    def start(self, link: Link, number: int) -> None:
        """Send what there is to the replica at the other end; the rest as it comes, and as there is credit."""
        assert self._kept is not None
        self._link, self._number = link, number
        self._credit = BODY_WINDOW_BYTES
        self._ended = False
        for piece in self._kept:
            self._send(piece)
        self._incoming.wake = self._push
        self._push()

    def grant(self, size_bytes: int) -> None:
        self._kept = None
        self._credit += size_bytes
        self._push()

    def stop(self) -> None:
        """Nobody wants the rest."""
        self._kept = None
        self._ended = True
        self._incoming.discard()

    def _push(self) -> None:
        while self._credit > 0 and (piece := self._incoming.take()) is not None:
            self._send(piece)
            if self._kept is not None:
                self._kept.append(piece)
        if self._incoming.ended and not self._incoming.size and not self._ended:
            self._ended = True
            self._link.send(End(self._number))
        self._connection.body_taken()

    def _send(self, piece: bytes) -> None:
        self._credit -= len(piece)
        self._link.send(Chunk(self._number, piece))


class Download:
    """The part of an answer's body that follows its `Answer`: credit is granted as the client reads."""

    __slots__ = ("_debt", "_link", "_number", "status")

    def __init__(self, link: Link, number: int, status: int, first_bytes: int) -> None:
        self._link = link
        self._number = number
        self._debt = Debt(first_bytes)
        self.status = status

    def passed_on(self, size_bytes: int, client_reads: bool) -> None:
        """So much more has been written to the client."""
        if owed := self._debt.taken(size_bytes, client_reads):
            self._link.send(Credit(self._number, owed))

    def grant(self) -> None:
        """The client reads again."""
        self.passed_on(0, True)

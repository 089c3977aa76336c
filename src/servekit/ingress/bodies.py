"""Long bodies on their way through the ingress: to a replica as it has room, to a client as it reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from servekit.errors import LinkError
from servekit.http1.body import IncomingBody
from servekit.wire.streams import Incoming, Outgoing

if TYPE_CHECKING:
    from servekit.http1.connection import HttpConnection
    from servekit.ingress.exchange import Exchange


class Upload:
    """The part of a request's body that follows its `Call`: the `Source` of what a replica is sent.

    Until a replica grants credit, it has not begun, and what it was sent is kept: then the call can be sent again.
    """

    __slots__ = ("_connection", "_incoming", "_kept", "_stream", "_unsent")

    def __init__(self, incoming: IncomingBody, connection: HttpConnection) -> None:
        self._incoming = incoming
        self._connection = connection
        self._kept: list[bytes] = []
        self._unsent: deque[bytes] = deque()
        """Of what is kept, what is yet to be sent again."""
        self._stream: Outgoing | None = None

    @property
    def can_start_again(self) -> bool:
        return self._stream is None or not self._stream.granted

    def when_due(self, dispatch: Callable[[], None]) -> None:
        """Call ``dispatch`` once the body is there, or a window of it: a slow client holds no place at a replica."""

        def check() -> None:
            if self._incoming.ended or self._incoming.is_full:
                self._incoming.wake = None
                dispatch()

        self._incoming.wake = check
        check()

    def start(self, stream: Outgoing) -> None:
        """Send what there is to a replica; the rest as it comes, and as there is credit."""
        self._stream = stream
        self._unsent = deque(self._kept)
        stream.follow(self)

    def stop(self) -> None:
        """Nobody wants the rest."""
        if self._stream is not None:
            self._stream.stop()
        self._kept = []
        self._incoming.discard()

    # -- Source ------------------------------------------------------------------------------------------------------

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
        if self.can_start_again:
            if piece is not None:
                self._kept.append(piece)
        else:
            self._kept = []
        self._connection.body_taken()
        return piece


class Download:
    """The part of an answer's body that follows its `Answer`: taken as the client reads."""

    __slots__ = ("_exchange", "_incoming", "_reads", "status")

    def __init__(self, exchange: Exchange, status: int, incoming: Incoming) -> None:
        self._exchange = exchange
        self._incoming = incoming
        self._reads = True
        self.status = status
        incoming.wake = self._pass_on
        self._pass_on()

    def writable(self) -> None:
        """The client reads again."""
        self._reads = True
        self._pass_on()

    def stop(self) -> None:
        """Nobody wants the rest."""
        self._incoming.wake = None
        self._incoming.discard()

    def _pass_on(self) -> None:
        exchange, incoming = self._exchange, self._incoming
        try:
            while self._reads and (piece := incoming.take()) is not None:
                self._reads = exchange.write(piece)
        except LinkError:
            exchange.delivered(complete=False)
        else:
            if incoming.ended and not incoming.size and not exchange.done:
                exchange.delivered(complete=True)

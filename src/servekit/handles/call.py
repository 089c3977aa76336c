"""One call of a handle, at the caller: from its arguments to the end of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

from servekit.errors import ReplicaDiedError
from servekit.handles import answers
from servekit.handles.failures import refused
from servekit.handles.future import CallFuture, Sealed
from servekit.handles.stream import Inflow, ResultStream
from servekit.wire.credit import Debt
from servekit.wire.data_frames import BODY_WINDOW_BYTES, PIECE_BYTES, Answer, Chunk, Credit, End, Invoke
from servekit.wire.link import Link


class Call:
    """What was asked for, how much of it was sent, and what has come back. It lives on the caller's loop."""

    def __init__(
        self,
        invoke: Invoke,
        parcel: bytes,
        timeout_s: float,
        *,
        post: Callable[[Callable[[], None]], None],
        abandon: Callable[[Call], None],
    ) -> None:
        """
        Args:
            invoke: without its id and its body.
            timeout_s: how long it may wait to be sent.
            post: has a call made on the loop, from any thread.
            abandon: on the loop: nobody waits for it any more.
        """
        self.future: CallFuture | None = CallFuture(lambda: post(lambda: abandon(self)))
        """None once it has its result: a stream that nobody holds is to end."""
        self._post = post
        self._abandon = abandon
        self._asked_at = monotonic()
        self._expires = self._asked_at + timeout_s
        self._times_ms = invoke.timeout_ms, invoke.limit_ms
        self.timer: asyncio.TimerHandle | None = None
        """Runs while it waits to be sent."""
        self.link: Link | None = None
        self.number = 0
        self.drop: Callable[[Call], None] | None = None
        """What has it, where it was sent, lets go of it by this."""
        self._invoke = invoke
        self._parcel = parcel
        self._sent = 0
        self._credit = 0
        self._status = 0
        self._type = ""
        self._gathered: bytearray | None = None
        self._debt: Debt
        self._inflow: Inflow | None = None
        """Where a stream's pieces go."""

    @property
    def endpoint(self) -> str:
        return self._invoke.endpoint

    @property
    def left_s(self) -> float:
        """How long it may yet wait to be sent."""
        return max(0.0, self._expires - monotonic())

    @property
    def chain(self) -> tuple[str, ...]:
        return self._invoke.chain

    # -- out -------------------------------------------------------------------------------------------------------

    def start(self, link: Link, number: int) -> None:
        """Send it, or send it again on another link."""
        invoke = self._invoke
        if self.timer is not None or self.link is not None:
            # What it has waited here is no more time for the ingress.
            waited_ms = int((monotonic() - self._asked_at) * 1000)
            invoke.timeout_ms, invoke.limit_ms = (
                None if each is None else max(1, each - waited_ms) for each in self._times_ms
            )
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.link, self.number = link, number
        invoke.id, invoke.body = number, self._parcel[:PIECE_BYTES]
        invoke.more = len(self._parcel) > PIECE_BYTES
        link.send(invoke)
        self._sent, self._credit = len(invoke.body), BODY_WINDOW_BYTES
        if invoke.more:
            self._push()

    def grant(self, size_bytes: int) -> None:
        """The ingress has room for more of the arguments."""
        self._credit += size_bytes
        self._push()
        if self._sent >= len(self._parcel):
            self._parcel = b""  # It has begun, so it will not be sent again.

    def _push(self) -> None:
        assert self.link is not None
        parcel = memoryview(self._parcel)
        while self._credit > 0 and self._sent < len(parcel):
            piece = parcel[self._sent : self._sent + PIECE_BYTES]
            self._sent += len(piece)
            self._credit -= len(piece)
            self.link.send(Chunk(self.number, piece))  # type: ignore[arg-type]  # msgspec writes a memoryview as bytes
            if self._sent == len(parcel):
                self.link.send(End(self.number))

    # -- in --------------------------------------------------------------------------------------------------------

    def answered(self, answer: Answer) -> bool:
        """Its answer has come, or has begun; whether that is all."""
        self._sent, self._parcel = 0, b""  # Nobody reads the rest of the arguments any more.
        self._status, self._type = answer.status, answers.type_of(answer.head)
        if not answer.rest and not answer.running:
            self._settle(answer.body)
            return True
        if self._type == answers.STREAM:
            self._begin_stream(answer.body)
        else:
            self._gathered, self._debt = bytearray(answer.body), Debt(len(answer.body))
        return False

    def continued(self, piece: bytes) -> None:
        """More of the answer has come."""
        if self._inflow is not None:
            self._inflow.feed(piece)
        elif self._gathered is not None:
            self._gathered += piece
            if owed := self._debt.taken(len(piece)):
                self._grant(owed)

    def ended(self, *, complete: bool) -> None:
        """No more of the answer will come."""
        broken = ReplicaDiedError(f"the answer of endpoint {self.endpoint!r} was broken off: its replica died")
        if self._inflow is not None:
            self._inflow.end(broken)
            self._inflow = None  # It leads back here.
        elif complete and self._gathered is not None:
            self._settle(self._gathered)
        else:
            self._result(None, broken)

    def fail(self, error: Exception) -> None:
        """It will not be answered; or nobody waits for that any more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self._inflow is not None:
            self._inflow.end(error)
            self._inflow = None
        else:
            self._result(None, error)

    def _settle(self, body: bytes | bytearray) -> None:
        """All of the answer is here."""
        if self._type == answers.VALUE:
            self._result(Sealed(body, failed=False))
        elif self._type == answers.FAILURE:
            self._result(Sealed(body, failed=True))
        elif self._type == answers.STREAM:
            self._begin_stream(bytes(body))
            self.ended(complete=True)
        else:
            self._result(None, refused(self._status, bytes(body)))

    def _begin_stream(self, first: bytes) -> None:
        self._inflow = Inflow(lambda size_bytes: self._post(lambda: self._grant(size_bytes)))
        if first:
            self._inflow.feed(first)
        self._result(ResultStream(self._inflow, lambda: self._post(lambda: self._abandon(self))))

    def _result(self, result: Any, error: Exception | None = None) -> None:
        future, self.future = self.future, None
        if future is not None:
            future.settle(result, error)

    def _grant(self, size_bytes: int) -> None:
        assert self.link is not None
        self.link.send(Credit(self.number, size_bytes))

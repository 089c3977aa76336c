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
from servekit.handles.stream import ResultStream
from servekit.wire.data_frames import PIECE_BYTES, Answer, Invoke
from servekit.wire.outgoing_calls import OutgoingCalls
from servekit.wire.streams import Incoming, Outgoing


class RemoteCall:
    """What was asked for, and what has come back. It lives on the caller's loop.

    It is the `PieceSource` of its own arguments, where these are long.
    """

    def __init__(
        self,
        invoke: Invoke,
        payload: bytes,
        timeout_s: float,
        *,
        post: Callable[[Callable[[], None]], None],
        abandon: Callable[[RemoteCall], None],
    ) -> None:
        """
        Args:
            invoke: without its id and its body.
            payload: the packed arguments.
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
        self.calls: OutgoingCalls[RemoteCall] | None = None
        """Those among which it was sent."""
        self.number = 0
        self.upload: Outgoing | None = None
        self.download: Incoming | None = None
        self._invoke = invoke
        self._payload = payload
        self._sent = 0
        self._status = 0
        self._type = ""
        self._gathered = bytearray()

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

    def start(self, calls: OutgoingCalls[RemoteCall]) -> None:
        """Send it, or send it again on another link."""
        invoke = self._invoke
        if self.timer is not None or self.calls is not None:
            # What it has waited here is no more time for the ingress.
            waited_ms = int((monotonic() - self._asked_at) * 1000)
            invoke.timeout_ms, invoke.limit_ms = (
                None if each is None else max(1, each - waited_ms) for each in self._times_ms
            )
        self._stop_timer()
        self.calls = calls
        invoke.body = self._payload[:PIECE_BYTES]
        invoke.more = len(self._payload) > PIECE_BYTES
        self._sent = len(invoke.body)
        calls.begin(self, invoke)
        if invoke.more:
            calls.upload(self).follow(self)

    # -- PieceSource: the rest of the arguments ------------------------------------------------------------------------

    wake: Callable[[], None] | None = None
    ended = True

    @property
    def size(self) -> int:
        return len(self._payload) - self._sent

    def take(self) -> memoryview | None:
        piece = memoryview(self._payload)[self._sent : self._sent + PIECE_BYTES]
        self._sent += len(piece)
        if self.upload is not None and self.upload.granted and not self.size:
            self._sent, self._payload = 0, b""  # It has begun, so it will not be sent again.
        return piece or None

    # -- its answer --------------------------------------------------------------------------------------------------

    def answered(self, answer: Answer) -> None:
        """All of its answer has come."""
        self._begin(answer)
        self._settle(answer.body)

    def begun(self, answer: Answer) -> None:
        """Its answer has begun, and goes on in `download`."""
        assert self.download is not None
        self._begin(answer)
        if self._type == answers.STREAM:
            self._stream(self.download)
        else:
            self.download.wake = self._gather
            self._gather()

    def over(self, *, complete: bool) -> None:
        """No more of the answer will come."""
        broken = ReplicaDiedError(f"the answer of endpoint {self.endpoint!r} was broken off: its replica died")
        if self.download is not None and self._type == answers.STREAM:
            self.download.end(broken)  # A stream that is whole ends with a record that says so.
        elif complete and self.download is not None:
            self._settle(self._gathered)
        else:
            self._result(None, broken)

    def fail(self, error: Exception) -> None:
        """It will not be answered; or nobody waits for that any more."""
        self._stop_timer()
        if self.download is not None and self._type == answers.STREAM:
            self.download.end(error)
        self._result(None, error)

    def _begin(self, answer: Answer) -> None:
        self._sent, self._payload = 0, b""  # Nobody reads the rest of the arguments any more.
        if self.upload is not None:
            self.upload.stop()
        self._status, self._type = answer.status, answers.type_of(answer.head)

    def _gather(self) -> None:
        assert self.download is not None
        while (piece := self.download.take()) is not None:
            self._gathered += piece

    def _settle(self, body: bytes | bytearray) -> None:
        """All of the answer is here."""
        if self._type == answers.VALUE:
            self._result(Sealed(body, failed=False))
        elif self._type == answers.FAILURE:
            self._result(Sealed(body, failed=True))
        elif self._type == answers.STREAM:
            self._stream(Incoming(lambda size_bytes: None, bytes(body)))
            self.over(complete=True)
        else:
            self._result(None, refused(self._status, bytes(body)))

    def _stream(self, body: Incoming) -> None:
        self.download = body
        self._result(ResultStream(body, lambda: self._post(lambda: self._abandon(self))))

    def _result(self, result: Any, error: Exception | None = None) -> None:
        future, self.future = self.future, None
        if future is not None:
            future.settle(result, error)

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

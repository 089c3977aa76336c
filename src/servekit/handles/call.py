"""One call of a handle, at the caller: from its arguments to the end of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from servekit.errors import ReplicaDiedError
from servekit.handles import answers
from servekit.handles.failures import refused
from servekit.handles.future import CallFuture, Sealed
from servekit.handles.stream import ResultStream
from servekit.wire.data_frames import PIECE_BYTES, Answer, Invoke
from servekit.wire.outgoing_calls import OutgoingCalls
from servekit.wire.streams import Incoming, Outgoing, WholeBody


class RemoteCall:
    """The arguments of a call, and as much of the answer as has come. Lives on the caller's loop."""

    def __init__(self, invoke: Invoke, payload: bytes, timeout_s: float, abandon: Callable[[RemoteCall], None]) -> None:
        """
        Args:
            invoke: without its id and its body.
            payload: the packed arguments.
            timeout_s: how long the call may wait to be sent.
            abandon: called in whichever thread, when nobody waits for the call any more.
        """
        self.future: CallFuture | None = CallFuture(partial(abandon, self))
        """None once the future has its result: a stream that nobody holds is to end."""
        self.invoke = invoke
        self.timer: asyncio.TimerHandle | None = None
        """Runs while the call waits to be sent."""
        self.calls: OutgoingCalls[RemoteCall] | None = None
        """The calls among which this one was sent."""
        self.number = 0
        self.upload: Outgoing | None = None
        self.download: Incoming | None = None
        self._abandon = abandon
        self._asked_at = monotonic()
        self._timeout_s = timeout_s
        self._times_ms = invoke.timeout_ms, invoke.limit_ms
        self._payload = payload
        self._status = 0
        self._type = ""
        self._gathered = bytearray()

    @property
    def left_s(self) -> float:
        """How long the call may yet wait to be sent."""
        return max(0.0, self._asked_at + self._timeout_s - monotonic())

    def start(self, calls: OutgoingCalls[RemoteCall]) -> None:
        """Send the call, or send it again on another link."""
        invoke = self.invoke
        if self.timer is not None or self.calls is not None:
            # The time that the call has waited here is no more time for the ingress.
            waited_ms = int((monotonic() - self._asked_at) * 1000)
            invoke.timeout_ms, invoke.limit_ms = (
                None if each is None else max(1, each - waited_ms) for each in self._times_ms
            )
        self._stop_timer()
        self.calls = calls
        invoke.body = self._payload[:PIECE_BYTES]
        invoke.more = len(self._payload) > PIECE_BYTES
        calls.begin(self, invoke)
        if invoke.more:
            calls.upload(self).follow(WholeBody(memoryview(self._payload)[PIECE_BYTES:], self._uploaded))

    def _uploaded(self) -> None:
        if self.upload is not None and self.upload.granted:
            self._payload = b""  # The call has begun, so it will not be sent again.

    # -- its answer --------------------------------------------------------------------------------------------------

    def answered(self, answer: Answer) -> None:
        """All of the answer has come."""
        self._begin(answer)
        self._settle(answer.body)

    def begun(self, answer: Answer) -> None:
        """The answer has begun, and goes on in `download`."""
        assert self.download is not None
        self._begin(answer)
        if self._type == answers.STREAM:
            self._stream(self.download)
        else:
            self.download.wake = self._gather
            self._gather()

    def over(self, *, complete: bool) -> None:
        """No more of the answer will come."""
        broken = ReplicaDiedError(f"the answer of endpoint {self.invoke.endpoint!r} was broken off: its replica died")
        if self.download is not None and self._type == answers.STREAM:
            self.download.end(broken)  # A stream that is whole ends with a record that says so.
        elif complete and self.download is not None:
            self._settle(self._gathered)
        else:
            self._result(None, broken)

    def fail(self, error: Exception) -> None:
        """The call will not be answered; or nobody waits for the answer any more."""
        self._stop_timer()
        if self.download is not None and self._type == answers.STREAM:
            self.download.end(error)
        self._result(None, error)

    def _begin(self, answer: Answer) -> None:
        self._payload = b""  # Nobody reads the rest of the arguments any more.
        if self.upload is not None:
            self.upload.stop()
        self._status, self._type = answer.status, answers.type_of(answer.head)

    def _gather(self) -> None:
        assert self.download is not None
        while (piece := self.download.take()) is not None:
            self._gathered += piece

    def _settle(self, body: bytes | bytearray) -> None:
        """All of the answer is here."""
        if self._type == answers.STREAM:
            self._stream(Incoming(lambda size_bytes: None, bytes(body)))
            self.over(complete=True)
        elif self._type in (answers.VALUE, answers.FAILURE):
            self._result(Sealed(body, failed=self._type == answers.FAILURE))
        else:
            self._result(None, refused(self._status, bytes(body)))

    def _stream(self, body: Incoming) -> None:
        self.download = body
        self._result(ResultStream(body, partial(self._abandon, self)))

    def _result(self, result: Any, error: Exception | None = None) -> None:
        future, self.future = self.future, None
        if future is not None:
            future.settle(result, error)

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

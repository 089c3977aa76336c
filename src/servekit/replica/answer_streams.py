"""Answers that a handler makes piece by piece: on the main thread, in a thread of their own, or in a task.

There are three makers, and not one flow with three drivers: how a piece is asked for, and how the maker waits for
credit, is all that a maker does for a piece, and differs in each. A flood of small pieces would pay for the drivers.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from servekit.loopless import call_loopless
from servekit.replica.handler_calls import HandlerCalls, Reply
from servekit.replica.joiner import Joiner
from servekit.replica.open_call import CallTransitions, OpenCall
from servekit.replica.render import Rendered, aclose_body, close_body, is_async
from servekit.replica.threads import Threads
from servekit.wire.data_frames import PIECE_BYTES, UNKNOWN, Answer
from servekit.wire.mailbox import Mailbox
from servekit.wire.streams import Outgoing

TURN_S = 100e-6
"""A task may send, and a turn may begin calls, for so long without letting the loop do anything else."""
MADE_BYTES = 16 * 1024
"""Pieces that wait to leave together leave when they are longer than this; a thread does not make more before that."""


class StoppedError(Exception):
    """Nobody reads the answer any more."""


def parts(piece: object) -> Sequence[bytes]:
    """A piece that an iterable made, cut to the length of a frame. Raises `TypeError` where it is not made of bytes."""
    if not isinstance(piece, (bytes, bytearray, memoryview)):
        raise TypeError(f"a streamed body is made of bytes; {type(piece).__name__} came")
    data = bytes(piece)
    if len(data) <= PIECE_BYTES:
        return (data,)
    return [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]


class AnswerStreams:
    """Gives each answer to its maker, and holds the objects that all makers share. Lives on the data loop."""

    def __init__(self, executor: CallTransitions, calls: HandlerCalls, mailbox: Mailbox, threads: Threads) -> None:
        self.executor = executor
        self.calls = calls
        self.mailbox = mailbox
        self.loop = asyncio.get_running_loop()
        self.joiner = Joiner(self.loop)
        self.threads = threads

    def reply(self, call: OpenCall, reply: Reply, context: contextvars.Context | None = None) -> None:
        """Answer a call whose handler has returned. A body that is an iterable is made in a thread, an async one in a
        task.

        ``context``: in which the pieces are made; None: in a copy of the current one.
        """
        rendered, failed = reply
        body = rendered[2]
        if type(body) is bytes:
            self.executor.answered(call, rendered, failed)
            self.executor.proceed()
            return
        made_in = contextvars.copy_context() if context is None else context
        if is_async(body):
            made_in.run(self.loop.create_task, TaskAnswer(self, call, rendered).make())
        else:
            self.threads.submit(lambda: made_in.run(ThreadAnswer(self, call, rendered).make))


class _StreamedAnswer:
    """The part of an answer that is the same wherever the pieces are made."""

    def __init__(self, streams: AnswerStreams, call: OpenCall, rendered: Rendered) -> None:
        self._streams = streams
        self._call = call
        self._rendered = rendered
        # RFC 9110, 6.4.1.
        self._has_body = call.request.method != "HEAD" and rendered[0] not in (204, 304)
        self._body: Any = rendered[2]
        self._download: Outgoing | None = None
        """None until the answer has begun."""
        self._complete = True
        self._instead: Rendered | None = None
        """The answer that says what failed, where that was before the first piece."""

    def _parts(self) -> Iterator[bytes]:
        """The parts of a body that is not async. At least one, for the answer begins with a part."""
        for piece in self._body if self._has_body else ():
            yield from parts(piece)
        if self._download is None:
            yield b""

    def _begin(self, part: bytes, wake: Callable[[], None]) -> Callable[[], None]:
        """Returns a function to be called on the data loop, which sends the answer with its first part.

        ``wake`` is called when there is credit again.
        """
        call, (status, head, _, length) = self._call, self._rendered
        part = part[:length]
        rest = UNKNOWN if length is None else length - len(part)
        batch_size = 0 if call.slot is None else len(call.slot.calls)
        answer = Answer(call.number, status, head, part, 0, 0, False, rest, True, batch_size)
        self._download = download = Outgoing(call.origin.link, call.number, len(part))
        download.wake = wake
        return lambda: self._streams.executor.begun(call, answer, download)

    def _fail(self, error: BaseException) -> None:
        """No more pieces will come."""
        self._complete, begun = False, self._download is not None
        if not isinstance(error, StoppedError) and not (begun and self._call.stopped):
            rendered = self._streams.calls.failure(self._call, error)
            self._instead = None if begun else rendered

    def _over(self) -> None:
        """The handler is over. Called on the data loop."""
        call, executor = self._call, self._streams.executor
        if self._instead is not None:
            executor.answered(call, self._instead, True)
        else:
            executor.ended(call, self._download or Outgoing(call.origin.link, call.number), self._complete)
        executor.proceed()


class MainThreadAnswer(_StreamedAnswer):
    """Makes an answer in the handler's context, by callbacks of the loop, which is marked as not running meanwhile.

    A piece may hold up the loop for long while it is made. So each piece leaves before the next is made.
    """

    def __init__(
        self, streams: AnswerStreams, call: OpenCall, rendered: Rendered, context: contextvars.Context
    ) -> None:
        super().__init__(streams, call, rendered)
        self._context = context
        self._made = self._parts()
        self._planned = False
        call.interrupt = self._resume
        self._resume()

    def _resume(self) -> None:
        """Make a step in the next turn of the loop: there is credit, or nobody reads any more."""
        if not self._planned:
            self._planned = True
            self._streams.loop.call_soon(self._step)

    def _step(self) -> None:
        """Make and send a part, or end."""
        self._planned = False
        try:
            if self._call.stopped:
                raise StoppedError
            part = call_loopless(self._streams.loop, self._context.run, next, self._made, None)
            if part is not None:
                self._send(part)
                return
        except BaseException as error:
            self._fail(error)
        try:
            call_loopless(self._streams.loop, self._context.run, self._close)
        except BaseException as error:
            self._streams.calls.failure(self._call, error)
        self._over()

    def _send(self, part: bytes) -> None:
        if self._download is None:
            self._begin(part, self._resume)()
        elif part:
            self._download.write(part)
        self._call.origin.link.flush()
        if self._download is not None and self._download.credit > 0:
            self._resume()

    def _close(self) -> None:
        self._made = iter(())  # Where the body is no generator, its iterator may be one: that ends here as well.
        close_body(self._body)


class _JoinedAnswer(_StreamedAnswer):
    """An answer whose pieces gather, to leave together. See `joiner`."""

    def __init__(self, streams: AnswerStreams, call: OpenCall, rendered: Rendered) -> None:
        super().__init__(streams, call, rendered)
        self._made: list[bytes] = []
        self._made_bytes = 0
        self._joining = False
        """The joiner has this answer, or is about to."""

    def leave(self) -> bool:
        """See `Joined`."""
        self._joining = bool(self._made)
        self.push()
        return self._joining

    @property
    def _credit(self) -> int:
        assert self._download is not None
        return self._download.credit - self._made_bytes

    def push(self) -> None:
        """Send the pieces that have gathered."""
        if self._made:
            assert self._download is not None
            made, self._made, self._made_bytes = self._made, [], 0
            for part in parts(b"".join(made)):
                self._download.write(part)


class ThreadAnswer(_JoinedAnswer):
    """Makes an answer in a thread, which waits where there is no credit."""

    def __init__(self, streams: AnswerStreams, call: OpenCall, rendered: Rendered) -> None:
        super().__init__(streams, call, rendered)
        self._changed = threading.Condition()

    # -- in the thread -----------------------------------------------------------------------------------------------

    def make(self) -> None:
        """All of the answer, to the close of its body."""
        self._call.interrupt = self._wake
        try:
            if self._call.stopped:  # The call was stopped before there was anything to interrupt.
                raise StoppedError
            for part in self._parts():
                self._send(part)
        except BaseException as error:
            self._fail(error)
        try:
            close_body(self._body)
        except BaseException as error:
            self._streams.calls.failure(self._call, error)
        self._streams.mailbox.post(self._finish)

    def _send(self, part: bytes) -> None:
        """Raises `StoppedError` when nobody reads on."""
        if self._download is None:
            self._streams.mailbox.post(self._begin(part, self._wake))
            return
        with self._changed:
            while (self._credit <= 0 or self._made_bytes > MADE_BYTES) and not self._call.stopped:
                self._changed.wait()
            if self._call.stopped:
                raise StoppedError
            if not part:  # An empty part takes no credit, so any number of them could be on the way.
                return
            self._made.append(part)
            self._made_bytes += len(part)
            if self._joining and self._made_bytes <= MADE_BYTES:
                return
            first, self._joining = not self._joining, True
        self._streams.mailbox.post(self._leave_first if first else self.push)

    # -- on the data loop --------------------------------------------------------------------------------------------

    def _leave_first(self) -> None:
        self.push()
        self._streams.joiner.add(self)

    def leave(self) -> bool:
        with self._changed:
            return super().leave()

    def push(self) -> None:
        """Send the pieces that have gathered, and have the thread go on."""
        with self._changed:
            super().push()
            self._changed.notify()

    def _finish(self) -> None:
        self.push()
        self._over()

    def _wake(self) -> None:
        """There is credit, or nobody reads any more."""
        with self._changed:
            self._changed.notify()


class TaskAnswer(_JoinedAnswer):
    """Makes an answer in a task on the data loop, which waits where there is no credit."""

    def __init__(self, streams: AnswerStreams, call: OpenCall, rendered: Rendered) -> None:
        super().__init__(streams, call, rendered)
        self._joins = rendered[0] != 101  # A message of a WebSocket does not wait: the client may be waiting for it.
        self._waiter: asyncio.Future[None] | None = None
        self._turn = -1
        self._turn_began = 0.0

    async def make(self) -> None:
        """All of the answer, to the close of its body."""
        task = asyncio.current_task()
        assert task is not None
        self._call.interrupt = task.cancel
        try:
            if self._call.stopped:
                raise StoppedError
            if self._has_body:
                async for piece in self._body:
                    for part in parts(piece):
                        if not self._send(part):
                            await self._room()
            if self._download is None:
                self._send(b"")
        except BaseException as error:
            self._fail(error)
        self.push()
        try:
            await aclose_body(self._body)
        except BaseException as error:
            self._streams.calls.failure(self._call, error)
        self._over()

    def _send(self, part: bytes) -> bool:
        """Send a part, or have it gather. False: `_room` is to be awaited before the next part."""
        if self._download is None:
            self._begin(part, self._wake)()
        elif self._joining:
            self._made.append(part)
            self._made_bytes += len(part)
            if self._made_bytes > MADE_BYTES:
                self.push()
        elif part:
            self._download.write(part)
            if self._joins:
                self._joining = True
                self._streams.joiner.add(self)
        return self._credit > 0 and not self._call.stopped and self._has_time()

    def _has_time(self) -> bool:
        """False: the iterable has made piece after piece for `TURN_S`, and others are to get their turn."""
        joiner = self._streams.joiner
        if self._turn != joiner.turn or self._turn_began == 0.0:
            self._turn = joiner.mark_turn()
            self._turn_began = time.perf_counter()
            return True
        return time.perf_counter() - self._turn_began < TURN_S

    async def _room(self) -> None:
        """Return when another piece may be sent; raises `StoppedError` when nobody reads on."""
        if self._credit > 0:
            await asyncio.sleep(0)
        else:
            self.push()
        while self._credit <= 0 and not self._call.stopped:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._call.stopped:
            raise StoppedError

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

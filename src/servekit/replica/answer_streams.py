"""Answers that a handler makes piece by piece: on the main thread, in a thread of their own, or in a task.

The three stand one beside the other, and are not one flow with three drivers: what differs is all that they do for a
piece (how it is asked for, and how its maker waits for credit), and a flood of small pieces would pay for the drivers.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from asyncio import _set_running_loop
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from servekit.replica.joiner import Joiner
from servekit.replica.open_call import OpenCall
from servekit.replica.render import Rendered, aclose_body, close_body, is_async
from servekit.replica.threads import Threads
from servekit.wire.data_frames import PIECE_BYTES, UNKNOWN, Answer
from servekit.wire.mailbox import Mailbox
from servekit.wire.streams import Outgoing

if TYPE_CHECKING:
    from servekit.replica.executor import Executor

TURN_S = 100e-6
"""So long may a task send, or a turn begin calls, without letting the loop do anything else."""
MADE_BYTES = 16 * 1024
"""Pieces that wait to leave together leave when they are longer than this; a thread that makes them waits for that."""
_END: Any = object()

Failure = Callable[[OpenCall, BaseException], Rendered]


class StoppedError(Exception):
    """Nobody reads this answer any more."""


def parts(piece: object) -> Sequence[bytes]:
    """A piece as an iterable makes it, cut to what one frame takes. Raises `TypeError` where it is none."""
    if not isinstance(piece, (bytes, bytearray, memoryview)):
        raise TypeError(f"a streamed body is made of bytes; {type(piece).__name__} came")
    data = bytes(piece)
    if len(data) <= PIECE_BYTES:
        return (data,)
    return [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]


class AnswerStreams:
    """Makes and sends the pieces of answers. It lives on the data loop, but for what says otherwise."""

    def __init__(self, executor: Executor, failure: Failure, mailbox: Mailbox, threads: Threads) -> None:
        """``failure`` logs an error and gives the answer that says so."""
        self.executor = executor
        self.failure = failure
        self.mailbox = mailbox
        self.loop = asyncio.get_running_loop()
        self.joiner = Joiner(self.loop)
        self.threads = threads

    def begin(self, call: OpenCall, rendered: Rendered, context: contextvars.Context) -> None:
        """Make the pieces in ``context``, in a task or in a thread, as they are async or not."""
        if is_async(rendered[2]):
            context.run(self.loop.create_task, self.in_task(call, rendered))
        else:
            self.threads.submit(lambda: context.run(self.in_thread, call, rendered))

    def on_main_thread(self, call: OpenCall, rendered: Rendered, context: contextvars.Context) -> None:
        """Make the pieces here, in ``context``: one a turn of the loop."""
        call.interrupt = _MainThreadAnswer(self, call, rendered, context).resume

    def in_thread(self, call: OpenCall, rendered: Rendered) -> None:
        """Make the pieces in the current thread, which is another than the loop's."""
        _ThreadAnswer(self, call, rendered).make()

    async def in_task(self, call: OpenCall, rendered: Rendered) -> None:
        """Make the pieces in the current task."""
        await _TaskAnswer(self, call, rendered).make()


class _StreamedAnswer:
    """What is the same wherever the pieces are made."""

    def __init__(self, streams: AnswerStreams, call: OpenCall, rendered: Rendered) -> None:
        self._streams = streams
        self._call = call
        self._rendered = rendered
        # RFC 9110, 6.4.1.
        self._has_body = call.request.method != "HEAD" and rendered[0] not in (204, 304)
        self._body: Any = rendered[2]
        self._download: Outgoing | None = None
        """There once the answer has begun."""
        self._complete = True
        self._instead: Rendered | None = None
        """To be answered in the place of what failed before it began."""

    def _begin(self, part: bytes, wake: Callable[[], None]) -> Callable[[], None]:
        """Returns what is to be called on the data loop: it sends the answer with its first part.

        ``wake`` is called when there is credit again.
        """
        call, (status, head, _, length) = self._call, self._rendered
        part = part[:length]
        rest = UNKNOWN if length is None else length - len(part)
        answer = Answer(call.number, status, head, part, 0, 0, False, rest, True)
        self._download = download = Outgoing(call.origin.link, call.number, len(part))
        download.wake = wake
        return lambda: self._streams.executor.begun(call, answer, download)

    def _fail(self, error: BaseException) -> None:
        """No more pieces will come."""
        self._complete, begun = False, self._download is not None
        if not isinstance(error, StoppedError) and not (begun and self._call.stopped):
            rendered = self._streams.failure(self._call, error)
            self._instead = None if begun else rendered

    def _over(self) -> None:
        """On the data loop: the handler is over."""
        call, executor = self._call, self._streams.executor
        if self._instead is not None:
            executor.answered(call, self._instead, True)
        else:
            executor.ended(call, self._download or Outgoing(call.origin.link, call.number), self._complete)
        executor.proceed()


class _MainThreadAnswer(_StreamedAnswer):
    """Made in the context of its handler, by callbacks of the loop, which is marked as not running meanwhile.

    To make a piece may hold up the loop for long. So what was made leaves before the next is made.
    """

    def __init__(
        self, streams: AnswerStreams, call: OpenCall, rendered: Rendered, context: contextvars.Context
    ) -> None:
        super().__init__(streams, call, rendered)
        self._context = context
        self._iterator: Any = None
        self._parts: deque[bytes] = deque()
        """Of the last piece, what has not been sent."""
        self._planned = False
        self.resume()

    def resume(self) -> None:
        """It goes on, or nobody reads any more."""
        if not self._planned:
            self._planned = True
            self._streams.loop.call_soon(self._step)

    def _step(self) -> None:
        """Make a piece, or send more of one, or end."""
        self._planned = False
        try:
            if self._call.stopped:
                raise StoppedError
            if self._parts or self._make():
                self._send(self._parts.popleft())
                return
        except BaseException as error:
            self._fail(error)
        try:
            self._run(self._close)
        except BaseException as error:
            self._streams.failure(self._call, error)
        self._over()

    def _make(self) -> bool:
        """False: that was all."""
        piece: Any = _END
        if self._has_body:
            if self._iterator is None:
                self._iterator = self._run(iter, self._body)
            piece = self._run(next, self._iterator, _END)
        if piece is not _END:
            self._parts.extend(parts(piece))
        elif self._download is None:
            self._begin(b"", self.resume)()
        return piece is not _END

    def _send(self, part: bytes) -> None:
        if self._download is None:
            self._begin(part, self.resume)()
        elif part:
            self._download.write(part)
        self._call.origin.link.flush()
        if self._download is not None and self._download.credit > 0:
            self.resume()

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        _set_running_loop(None)
        try:
            return self._context.run(function, *args)
        finally:
            _set_running_loop(self._streams.loop)

    def _close(self) -> None:
        self._iterator = None  # Where the body is no generator, this may be one, and that ends here as well.
        close_body(self._body)


class _JoinedAnswer(_StreamedAnswer):
    """Of which pieces gather, to leave together. See `joiner`."""

    def __init__(self, streams: AnswerStreams, call: OpenCall, rendered: Rendered) -> None:
        super().__init__(streams, call, rendered)
        self._made: list[bytes] = []
        self._made_bytes = 0

    @property
    def _credit(self) -> int:
        assert self._download is not None
        return self._download.credit - self._made_bytes

    def push(self) -> None:
        """Send what has gathered."""
        if self._made:
            assert self._download is not None
            made, self._made, self._made_bytes = self._made, [], 0
            for part in parts(b"".join(made)):
                self._download.write(part)


class _ThreadAnswer(_JoinedAnswer):
    """Made in a thread, which waits where there is no credit."""

    def __init__(self, streams: AnswerStreams, call: OpenCall, rendered: Rendered) -> None:
        super().__init__(streams, call, rendered)
        self._changed = threading.Condition()
        self._called = False
        """`leave` will be called: soon, or by the joiner."""

    # -- in the thread -----------------------------------------------------------------------------------------------

    def make(self) -> None:
        """All of it, to its close."""
        self._call.interrupt = self._wake
        try:
            if self._call.stopped:  # It was told so before there was anything to interrupt.
                raise StoppedError
            for piece in self._body if self._has_body else ():
                for part in parts(piece):
                    self._send(part)
            if self._download is None:
                self._send(b"")
        except BaseException as error:
            self._fail(error)
        try:
            close_body(self._body)
        except BaseException as error:
            self._streams.failure(self._call, error)
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
            if not part:  # It takes no credit, so any number of them could be on the way.
                return
            self._made.append(part)
            self._made_bytes += len(part)
            if self._called and self._made_bytes <= MADE_BYTES:
                return
            first, self._called = not self._called, True
        self._streams.mailbox.post(self._leave_first if first else self.push)

    # -- on the data loop --------------------------------------------------------------------------------------------

    def _leave_first(self) -> None:
        self.push()
        self._streams.joiner.add(self)

    def leave(self) -> bool:
        """See `Joined`."""
        with self._changed:
            self._called = found = bool(self._made)
        self.push()
        return found

    def push(self) -> None:
        """Send what has gathered, and have the thread go on."""
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


class _TaskAnswer(_JoinedAnswer):
    """Made in a task on the data loop, which waits where there is no credit."""

    def __init__(self, streams: AnswerStreams, call: OpenCall, rendered: Rendered) -> None:
        super().__init__(streams, call, rendered)
        self._joins = rendered[0] != 101  # What a WebSocket says does not wait: it may be one half of a talk.
        self._joining = False
        """The joiner has it."""
        self._waiter: asyncio.Future[None] | None = None
        self._turn = -1
        self._turn_began = 0.0

    async def make(self) -> None:
        """All of it, to its close."""
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
            self._streams.failure(self._call, error)
        self._over()

    def _send(self, part: bytes) -> bool:
        """False: `_room` is to be awaited before the next one."""
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
        """An iterable may make piece after piece without waiting for anything: then others get their turn."""
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

    def leave(self) -> bool:
        """See `Joined`."""
        self._joining = bool(self._made)
        self.push()
        return self._joining

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

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
from collections.abc import Callable
from typing import Any, Protocol

from servekit.replica.joiner import Joiner
from servekit.replica.open_call import OpenCall
from servekit.replica.render import Rendered, aclose_body, close_body, is_async
from servekit.replica.threads import Threads
from servekit.wire.data_frames import PIECE_BYTES, UNKNOWN, Answer
from servekit.wire.mailbox import Mailbox
from servekit.wire.streams import Outgoing

TURN_S = 100e-6
"""So long may a task go on sending without letting the loop do anything else."""
MADE_BYTES = 16 * 1024
"""Pieces that wait to leave together leave when they are longer than this; a thread that makes them waits for that."""
_END: Any = object()

Failure = Callable[[OpenCall, BaseException], Rendered]


class StoppedError(Exception):
    """Nobody reads this answer any more."""


class Owner(Protocol):
    """Who is told, on the data loop, what becomes of answers. See `Executor`."""

    def answered(self, call: OpenCall, rendered: Rendered, failed: bool) -> None: ...

    def begun(self, call: OpenCall, answer: Answer, download: Outgoing) -> None: ...

    def ended(self, call: OpenCall, download: Outgoing, complete: bool) -> None: ...

    def proceed(self) -> None: ...


class AnswerStreams:
    """Makes and sends the pieces of answers. It lives on the data loop, but for what says otherwise."""

    def __init__(self, owner: Owner, failure: Failure, mailbox: Mailbox, threads: int) -> None:
        """``failure`` logs an error and gives the answer that says so."""
        self.owner = owner
        self.failure = failure
        self.mailbox = mailbox
        self.loop = asyncio.get_running_loop()
        self.joiner = Joiner(self.loop)
        self._threads = Threads(threads)

    def begin(self, call: OpenCall, rendered: Rendered, context: contextvars.Context) -> None:
        """Make the pieces in ``context``, in a task or in a thread, as they are async or not."""
        if is_async(rendered[2]):
            context.run(self.loop.create_task, self.in_task(call, rendered))
        else:
            self._threads.submit(lambda: context.run(self.in_thread, call, rendered))

    def on_main_thread(self, call: OpenCall, rendered: Rendered, context: contextvars.Context) -> None:
        """Make the pieces here, in ``context``: one a turn of the loop."""
        answer = _MainThreadAnswer(self, call, rendered, context)
        call.interrupt = answer.resume
        self.loop.call_soon(answer.step)

    def in_thread(self, call: OpenCall, rendered: Rendered) -> None:
        """Make the pieces in the current thread, which is another than the loop's."""
        _ThreadAnswer(self, call, rendered).make()

    async def in_task(self, call: OpenCall, rendered: Rendered) -> None:
        """Make the pieces in the current task."""
        await _TaskAnswer(self, call, rendered).make()

    def close(self) -> None:
        self._threads.close()


class _StreamedAnswer:
    """What is the same wherever the pieces are made."""

    def __init__(self, streams: AnswerStreams, call: OpenCall, rendered: Rendered) -> None:
        self._streams = streams
        self._call = call
        self._rendered = rendered
        self.body: Any = rendered[2]
        self.download: Outgoing | None = None
        """There once the answer has begun."""

    @property
    def is_wanted(self) -> bool:
        """It has a body that somebody reads (RFC 9110, 6.4.1)."""
        return self._call.request.method != "HEAD" and self._rendered[0] not in (204, 304)

    def checked(self, piece: object) -> bytes:
        if not isinstance(piece, (bytes, bytearray, memoryview)):
            raise TypeError(f"a streamed body is made of bytes; {type(piece).__name__} came")
        return bytes(piece)

    def first(self, piece: bytes) -> tuple[Answer, Outgoing, bytes]:
        """The frame that begins the answer, what sends the others, and what of the first piece is to follow."""
        status, head, _, length = self._rendered
        piece = piece[:length]
        part, more = piece[:PIECE_BYTES], piece[PIECE_BYTES:]
        rest = UNKNOWN if length is None else length - len(part)
        call = self._call
        self.download = Outgoing(call.origin.link, call.number, len(part))
        return Answer(call.number, status, head, part, 0, 0, False, rest, True), self.download, more

    def failed(self, error: BaseException) -> Rendered | None:
        """Logs it; the answer in the place of one that has not begun."""
        if isinstance(error, StoppedError) or (self._call.stopped and self.download is not None):
            return None
        rendered = self._streams.failure(self._call, error)
        return rendered if self.download is None else None

    def close_failed(self, error: BaseException) -> None:
        """The answer has gone out by then, or has failed itself."""
        self._streams.failure(self._call, error)

    def over(self, complete: bool, instead: Rendered | None) -> None:
        """On the data loop: the handler is over; ``instead`` is answered in the place of what never began."""
        call, owner = self._call, self._streams.owner
        if instead is not None:
            owner.answered(call, instead, True)
        else:
            owner.ended(call, self.download or Outgoing(call.origin.link, call.number), complete)
        owner.proceed()

    def write(self, piece: bytes) -> None:
        """Send a piece of whatever length; there is credit."""
        assert self.download is not None
        for at in range(0, len(piece), PIECE_BYTES):
            self.download.write(piece[at : at + PIECE_BYTES])


class _MainThreadAnswer(_StreamedAnswer):
    """Made in the context of its handler, by callbacks of the loop, which is marked as not running meanwhile.

    To make a piece may hold up the loop for long. So what was made leaves before the next is made.
    """

    def __init__(
        self, streams: AnswerStreams, call: OpenCall, rendered: Rendered, context: contextvars.Context
    ) -> None:
        super().__init__(streams, call, rendered)
        self._context = context
        self._pieces: Any = None
        self._rest = b""
        """Of a long piece, what has not been sent."""
        self._planned = True

    def step(self) -> None:
        """Make a piece, or send more of one, or end."""
        self._planned = False
        complete, instead = True, None
        try:
            if self._call.stopped:
                raise StoppedError
            if self._go_on():
                return
        except BaseException as error:
            complete, instead = False, self.failed(error)
        try:
            self._run(self._close)
        except BaseException as error:
            self.close_failed(error)
        self.over(complete, instead)

    def _close(self) -> None:
        self._pieces = None  # Where it is no generator, what it makes may be one, and that ends here as well.
        close_body(self.body)

    def _go_on(self) -> bool:
        """False: that was all."""
        piece = self._rest or self._next()
        if piece is _END:
            if self.download is None:
                self._streams.owner.begun(self._call, *self.first(b"")[:2])
            return False
        if self.download is None:
            answer, download, self._rest = self.first(piece)
            self._streams.owner.begun(self._call, answer, download)
        else:
            download, self._rest = self.download, piece[PIECE_BYTES:]
            if piece:
                download.write(piece[:PIECE_BYTES])
        self._call.origin.link.flush()
        if download.credit > 0:
            self.resume()
        else:
            download.wake = self.resume
        return True

    def _next(self) -> Any:
        if not self.is_wanted:
            return _END
        if self._pieces is None:
            self._pieces = self._run(iter, self.body)
        piece = self._run(next, self._pieces, _END)
        return piece if piece is _END else self.checked(piece)

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        _set_running_loop(None)
        try:
            return self._context.run(function, *args)
        finally:
            _set_running_loop(self._streams.loop)

    def resume(self) -> None:
        """There is credit, or nobody reads any more."""
        if not self._planned:
            self._planned = True
            self._streams.loop.call_soon(self.step)


class _JoinedAnswer(_StreamedAnswer):
    """Of which pieces gather, to leave together. See `joiner`."""

    def __init__(self, streams: AnswerStreams, call: OpenCall, rendered: Rendered) -> None:
        super().__init__(streams, call, rendered)
        self._made: list[bytes] = []
        self._made_bytes = 0

    @property
    def _credit(self) -> int:
        assert self.download is not None
        return self.download.credit - self._made_bytes

    def push(self) -> None:
        """Send what has gathered."""
        if self._made:
            made, self._made, self._made_bytes = self._made, [], 0
            self.write(made[0] if len(made) == 1 else b"".join(made))


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
        call, post = self._call, self._streams.mailbox.post
        call.interrupt = self._wake
        complete, instead = True, None
        try:
            if call.stopped:  # It was told so before there was anything to interrupt.
                raise StoppedError
            for piece in self.body if self.is_wanted else ():
                self._send(self.checked(piece))
            if self.download is None:
                self._begin(b"")
        except BaseException as error:
            complete, instead = False, self.failed(error)
        try:
            close_body(self.body)
        except BaseException as error:
            self.close_failed(error)
        post(lambda: self._finish(complete, instead))

    def _begin(self, piece: bytes) -> None:
        answer, download, more = self.first(piece)
        download.wake = self._wake
        self._streams.mailbox.post(lambda: self._streams.owner.begun(self._call, answer, download))
        if more:
            self._send(more)

    def _send(self, piece: bytes) -> None:
        """Send a piece of whatever length; raises `StoppedError` when nobody reads on."""
        if self.download is None:
            self._begin(piece)
            return
        for at in range(0, len(piece), PIECE_BYTES) if len(piece) > PIECE_BYTES else (0,):
            part = piece[at : at + PIECE_BYTES]
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
                    continue
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
        with self._changed:
            super().push()
            self._changed.notify()

    def _finish(self, complete: bool, instead: Rendered | None) -> None:
        self.push()
        self.over(complete, instead)

    def _wake(self) -> None:
        """There is credit, or nobody reads any more."""
        with self._changed:
            self._changed.notify()


class _TaskAnswer(_JoinedAnswer):
    """Made in a task on the data loop, which waits where there is no credit."""

    def __init__(self, streams: AnswerStreams, call: OpenCall, rendered: Rendered) -> None:
        super().__init__(streams, call, rendered)
        self._joins = rendered[0] != 101  # What a WebSocket says does not wait: it may be one half of a talk.
        self._waiter: asyncio.Future[None] | None = None
        self._turn = -1
        self._turn_began = 0.0
        self._rest = b""
        """Of a long piece, what has not been sent."""
        self._joining = False
        """The joiner has it."""

    async def make(self) -> None:
        """All of it, to its close."""
        call = self._call
        task = asyncio.current_task()
        assert task is not None
        call.interrupt = task.cancel
        complete, instead = True, None
        try:
            if call.stopped:
                raise StoppedError
            if self.is_wanted:
                async for piece in self.body:
                    if not self._send(self.checked(piece)):
                        await self._ready()
            if self.download is None:
                self._begin(b"")
        except BaseException as error:
            complete, instead = False, self.failed(error)
        self.push()
        try:
            await aclose_body(self.body)
        except BaseException as error:
            self.close_failed(error)
        call.interrupt = None
        self.over(complete, instead)

    def _begin(self, piece: bytes) -> bytes:
        """Returns what of the first piece is to follow."""
        answer, download, more = self.first(piece)
        download.wake = self._wake
        self._streams.owner.begun(self._call, answer, download)
        return more

    def _send(self, piece: bytes) -> bool:
        """Send a piece of whatever length. False: `_ready` is to be awaited before the next one."""
        download = self.download
        if download is None:
            piece = self._begin(piece)
            download = self.download
        assert download is not None
        size = len(piece)
        if size > PIECE_BYTES:
            self._rest = piece
            return False
        if self._joining:
            self._made.append(piece)
            self._made_bytes += size
            if self._made_bytes > MADE_BYTES:
                self.push()
        elif piece:
            download.write(piece)
            if self._joins:
                self._joining = True
                self._streams.joiner.add(self)
        return self._may_go_on(download.credit - self._made_bytes)

    def _may_go_on(self, credit: int) -> bool:
        """An iterable may make piece after piece without waiting for anything: then others get their turn."""
        if credit <= 0 or self._call.stopped:
            return False
        joiner = self._streams.joiner
        if self._turn != joiner.turn or self._turn_began == 0.0:
            self._turn = joiner.mark_turn()
            self._turn_began = time.perf_counter()
            return True
        return time.perf_counter() - self._turn_began < TURN_S

    async def _ready(self) -> None:
        """Return when there is room for a piece; raises `StoppedError` when nobody reads on."""
        if self._credit > 0 and not self._rest:
            await asyncio.sleep(0)
        while True:
            await self._await_credit()
            if not self._rest:
                return
            part, self._rest = self._rest[:PIECE_BYTES], self._rest[PIECE_BYTES:]
            self._made.append(part)
            self._made_bytes += len(part)
            self.push()

    async def _await_credit(self) -> None:
        if self._credit <= 0:
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

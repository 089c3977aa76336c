"""A replica's calls: which run, in at most so many slots as the backend has, and which wait.

`Executor` alone moves a call on, from one `CallState` to the next. How a call runs is for its handler to say
(`runners.py`, `batch_runner.py`). A handler that is over gives its slot back before its answer is read. Between calls
the loop gets its turn, so that cancels are read and answers leave.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from asyncio import _set_running_loop
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from servekit.forks import came_back, forks
from servekit.interfaces import RequestAdapter
from servekit.replica.answer_streams import TURN_S, AnswerStreams
from servekit.replica.arriving_body import GatheredBody, window_is_here
from servekit.replica.batch_runner import BatchRunner, Group
from servekit.replica.handler_calls import HandlerCalls
from servekit.replica.open_call import CallState, OpenCall
from servekit.replica.render import Rendered
from servekit.replica.runners import InlineRunner, Runner, TaskRunner, ThreadRunner
from servekit.replica.target import Entry, Handlers, takes_body_as_it_comes
from servekit.replica.threads import Threads
from servekit.wire.data_frames import PIECE_BYTES, Answer, Call, Credit, Refusal
from servekit.wire.incoming_calls import IncomingLink
from servekit.wire.link import Link
from servekit.wire.mailbox import Mailbox
from servekit.wire.streams import Incoming, Outgoing, WholeBody

if TYPE_CHECKING:
    from servekit.replica.batch import Batch

_clock = time.perf_counter

UNSENT_BYTES = 16 * 1024 * 1024
"""No call begins while the bodies of ended calls that are not all sent are longer than this together. Slow clients are
the ingress's business, which takes bodies off at once; this is for handlers that are faster than the link."""
TOLD_ABOVE_US = 1000.0
"""Mean service time above which ingress workers are told of each other's calls; below it, telling costs too much."""


class LongBody(WholeBody):
    """An answer's body that is too long for one frame; it tells when its last piece leaves, and its memory with it."""

    __slots__ = ("_sent", "length")

    def __init__(self, body: memoryview, sent: Callable[[], None]) -> None:
        super().__init__(body)
        self.length = self.size
        self._sent = sent

    def take(self) -> memoryview | None:
        piece = super().take()
        if piece is not None and not self.size:
            self._sent()
        return piece


class Executor:
    """Answers the calls of all links, in the order in which they came. It lives on the data loop, as all does that does
    not say otherwise, and is the `CallsAnswerer` of the replica's links."""

    def __init__(
        self,
        backend: str,
        handlers: Handlers,
        adapter: RequestAdapter,
        *,
        slots: int,
        debug: bool,
        replica: str = "",
        max_batch_size: int = 1,
        batch_wait_s: float = 0.0,
    ) -> None:
        self.outstanding = 0
        """Calls that have come and whose handlers have not ended."""
        self.tell_load: Callable[[int], bool] = lambda outstanding: False
        """Tells every ingress worker how many calls are here; False where there is only one, who knows."""
        self.all_answered: Callable[[], None] | None = None
        """Called after each turn that leaves no handler at work, where it is set."""
        self._handlers = handlers
        self._adapter = adapter
        self._slots = slots
        self._holders: set[OpenCall | Batch] = set()
        """What holds a slot, but the call that the loop itself makes now."""
        self._inline_since = 0.0
        """When that one began; 0.0 when there is none."""
        self._told = 0
        """Of how many calls ingress workers were told last. Once told of some, they are told until there are none."""
        self._mean_us = 0.0
        """Mean service time of late."""
        self._unsent_bytes = 0
        self._waiting: deque[OpenCall | Group] = deque()
        """For a slot, in the order in which they came; a group stands here for the next of its batches."""
        self._turn_planned = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._mailbox = mailbox = Mailbox(self._loop)
        context = contextvars.copy_context()  # To be copied for each call, and never entered itself.
        calls = HandlerCalls(backend, replica, adapter, debug, _clock)
        self._unreadable = calls.failure
        # Of a slot, either a call runs in one, or the answers of a batch's calls are made in as many.
        self._threads = Threads(slots * max_batch_size)
        streams = AnswerStreams(self, calls.failure, mailbox, self._threads)
        kind = InlineRunner if slots == 1 else ThreadRunner
        self._def: Runner[OpenCall] = kind(self, calls, streams, context)
        self._task = TaskRunner(self, calls, streams, context)
        self._batches = BatchRunner(
            self,
            calls,
            streams,
            context,
            adapter=adapter,
            slots=slots,
            max_size=max_batch_size,
            wait_s=batch_wait_s,
            clock=_clock,
        )
        self._main = handlers.main
        self._main_runner = self._runner(handlers.main)
        forks.tell_child(self)

    def _runner(self, entry: Entry) -> Runner[OpenCall]:
        """That of a call which shares no batch."""
        return self._task if entry.on_loop or self._adapter.is_async else self._def

    # -- CallsAnswerer -----------------------------------------------------------------------------------------------

    def called(self, origin: IncomingLink[OpenCall], frame: Call) -> None:
        """A call has come; `calls_done` begins it."""
        request = frame.request
        if request.call_method is None:
            entry, runner = self._main, self._main_runner
        else:
            entry = self._handlers.find(request.call_method)
            runner = self._runner(entry)
        number = frame.id
        call = OpenCall(origin, number, request, entry, runner, _clock() + frame.timeout_ms / 1000)
        origin.open[number] = call
        self.outstanding += 1
        if frame.more or entry.batches:
            self._arrive(call, frame.more)
        else:
            self._waiting.append(call)

    def cancelled(self, call: OpenCall) -> None:
        """Nobody waits for this call: it is not begun, or ends early."""
        if call.state is CallState.ARRIVING or call.state is CallState.WAITING:
            self.refuse(call, "cancelled")
        else:
            self.stop(call, "nobody waits for the answer any more")

    def calls_done(self) -> None:
        """Begin what waits, until the turn is over; then let the loop read, and go on."""
        waiting, holders = self._waiting, self._holders
        if self._turn_planned:
            return
        turn_ends = _clock() + TURN_S
        touched: Link | None = None
        _set_running_loop(None)  # A `def` of the user's may run a loop of its own. Once a turn: it is a system call.
        try:
            if self._batches.ready:
                self._batches.begin_ready()
            while waiting and len(holders) < self._slots and self._unsent_bytes <= UNSENT_BYTES:
                call = waiting.popleft()
                if isinstance(call, Group):
                    self._batches.begin(call)
                else:
                    link = call.origin.link
                    if touched is not link and touched is not None:
                        touched.flush()
                    touched = link
                    call.started = self._inline_since = now = _clock()
                    if now < call.expires:
                        call.state = CallState.RUNNING
                        if self.outstanding != self._told and (self._told or self._mean_us > TOLD_ABOVE_US):
                            self._tell()
                        call.runner.begin(call)
                    else:
                        self.refuse(call, "expired")
                    self._inline_since = 0.0
                if waiting and _clock() > turn_ends:
                    self.proceed()
                    break
        finally:
            _set_running_loop(self._loop)
        if touched is not None:
            touched.flush()
        if waiting:
            self._batches.make_ready(waiting)
        if self.all_answered is not None and not self.outstanding:
            self.all_answered()

    def proceed(self) -> None:
        """Have another turn begin what waits."""
        if not self._turn_planned:
            self._turn_planned = True
            self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turn_planned = False
        self.calls_done()

    @property
    def has_room(self) -> bool:
        """Another call may begin. It is written out once more in `calls_done`, and `_check_told` there and in
        `answered`, for every call comes by there."""
        return len(self._holders) < self._slots and self._unsent_bytes <= UNSENT_BYTES

    # -- arriving ----------------------------------------------------------------------------------------------------

    def _arrive(self, call: OpenCall, more: bool) -> None:
        request, adapter = call.request, self._adapter
        if not more or (request.upgrade and not adapter.is_async):
            self._arrived(call)  # To a handler that speaks HTTP alone, an upgrade is a request without a body.
            return
        call.state = CallState.ARRIVING
        upload = call.upload = Incoming(partial(self._grant, call.origin.link, call.number), request.body)
        if takes_body_as_it_comes(call.entry, adapter, self._slots):
            is_here: Callable[[], bool] = partial(window_is_here, upload, request, is_async=adapter.is_async)
        else:
            call.gathered = GatheredBody(upload, request, as_file=adapter.streams_body)
            is_here = call.gathered.is_here
        upload.wake = partial(self._check_arrived, call, is_here)
        upload.wake()

    def _check_arrived(self, call: OpenCall, is_here: Callable[[], bool]) -> None:
        """More of a body has come, or its end."""
        try:
            if is_here():
                self._arrived(call)
        except ConnectionError:
            self.refuse(call, "cancelled")
        except OSError as error:
            self._fail(call, error)

    def _grant(self, link: Link, number: int, size_bytes: int) -> None:
        """So much more may be sent of a call's body. In whichever thread that is read."""
        credit = Credit(number, size_bytes)
        if threading.get_ident() == self._thread:
            link.send(credit)
        else:
            self._mailbox.post(partial(link.send, credit))

    def _arrived(self, call: OpenCall) -> None:
        """All is here that is needed for a call to begin."""
        if call.upload is not None:
            call.upload.wake = None
        call.state = CallState.WAITING
        if not call.entry.batches:
            self._waiting.append(call)
            return
        try:
            group = self._batches.join(call)
        except BaseException as error:
            self._fail(call, error)
        else:
            self.queue(group)

    def queue(self, group: Group) -> None:
        """Have it asked for a batch when its turn comes."""
        if not group.in_queue:
            group.in_queue = True
            self._waiting.append(group)

    def _fail(self, call: OpenCall, error: BaseException) -> None:
        """A call cannot begin: its body could not be kept, or a handle's arguments cannot be unpickled."""
        call.started = _clock()
        self.answered(call, self._unreadable(call, error), True)

    # -- by runners --------------------------------------------------------------------------------------------------

    def hold(self, holder: OpenCall | Batch, ended: Batch | None = None) -> None:
        """A slot is taken until the handler is over; ``ended``: that of a batch whose handler is over."""
        self._holders.discard(ended)
        self._holders.add(holder)
        self._check_told()

    def taken(self, batch: Batch) -> None:
        """These calls share a batch, which is begun, or will be as soon as a thread is free."""
        for call in batch.calls:
            call.state = CallState.RUNNING

    def answered(self, call: OpenCall, rendered: Rendered, failed: bool) -> None:
        """A handler is over, and all of its answer is here."""
        status, head, body, _ = rendered
        service_us = int((_clock() - call.started) * 1e6)
        self.outstanding -= 1
        if self._holders:
            self._release(call)
        elif self.outstanding != self._told and (self._told or self._mean_us > TOLD_ABOVE_US):
            self._tell()
        self._mean_us += (service_us - self._mean_us) * 0.2
        if call.upload is not None:
            self._let_go(call)
        assert type(body) is bytes
        if len(body) <= PIECE_BYTES:
            call.state = CallState.OVER
            call.interrupt = None
            call.origin.open.pop(call.number, None)
            call.origin.link.send(Answer(call.number, status, head, body, self.outstanding, service_us, failed))
        else:
            self._send_long(call, Answer(call.number, status, head, body, self.outstanding, service_us, failed))

    def begun(self, call: OpenCall, answer: Answer, download: Outgoing) -> None:
        """A handler has made the first piece of its answer; it makes more."""
        call.state = CallState.ANSWERING
        call.download = download
        call.origin.link.send(answer)

    def ended(self, call: OpenCall, download: Outgoing, complete: bool) -> None:
        """A handler that made its answer in pieces is over."""
        service_us = int((_clock() - call.started) * 1e6)
        self.outstanding -= 1
        self._release(call)
        self._mean_us += (service_us - self._mean_us) * 0.2
        self._let_go(call)
        self._over(call)
        download.end(complete=complete, queue_length=self.outstanding, service_us=service_us)

    def stop(self, call: OpenCall, reason: str) -> None:
        """A call that has begun ends early."""
        first, call.stopped = not call.stopped, reason
        if call.upload is not None:
            call.upload.end(ConnectionError(f"the request's body ends early: {reason}"))
        if call.unsent is not None:
            assert call.download is not None
            self._unsent_bytes -= call.unsent.length
            self._over(call)
            call.download.end(complete=False)
            self.proceed()
        elif first and call.interrupt is not None:  # What ends a task may take its time; it is not disturbed in that.
            call.interrupt()

    def refuse(self, call: OpenCall, reason: str) -> None:
        """A call is not begun."""
        if call.group is not None:
            call.group.calls.remove(call)
        elif call in self._waiting:
            self._waiting.remove(call)
        self.outstanding -= 1
        self._check_told()
        self._let_go(call)
        self._over(call)
        call.origin.link.send(Refusal(call.number, reason))

    # -- answers, and what calls hold ----------------------------------------------------------------------------------

    def _send_long(self, call: OpenCall, answer: Answer) -> None:
        """An answer that is longer than a frame: its first part, and what follows as its reader grants credit."""
        body, answer.body = answer.body, b""
        link = call.origin.link
        if call.request.method == "HEAD":
            answer.rest = len(body)
            self._over(call)
            link.send(answer)
            Outgoing(link, call.number).end()
            return
        answer.body, rest = body[:PIECE_BYTES], memoryview(body)[PIECE_BYTES:]
        answer.rest = len(rest)
        call.state = CallState.ANSWERING
        call.interrupt = None
        self._unsent_bytes += len(rest)
        link.send(answer)
        call.unsent = LongBody(rest, partial(self._sent, call))
        call.download = Outgoing(link, call.number, PIECE_BYTES)
        call.download.follow(call.unsent)
        if call.stopped:  # While its handler ran: nobody will grant credit.
            self.stop(call, call.stopped)

    def _sent(self, call: OpenCall) -> None:
        """All of its answer's body has left."""
        if call.unsent is not None:
            self._unsent_bytes -= call.unsent.length
            self._over(call)

    def _over(self, call: OpenCall) -> None:
        call.state = CallState.OVER
        call.interrupt = call.unsent = call.group = None  # They lead back to the call.
        call.origin.open.pop(call.number, None)

    def _let_go(self, call: OpenCall) -> None:
        """Nobody reads the request's body any more, but a thread or a task that the handler may have left behind."""
        if call.upload is not None:
            if call.state is CallState.ARRIVING:
                call.upload.wake = None  # It would have the call begin.
            call.upload.end(ConnectionError("the request's body ends early: its call is over"))
            call.upload = None
        if call.gathered is not None:
            call.gathered.close()
            call.gathered = None

    def _release(self, call: OpenCall) -> None:
        """The slot of a call, or its part of one, is free."""
        batch, call.batch = call.batch, None  # They lead to each other.
        if batch is not None:
            batch.left -= 1
            if batch.left:
                return
        self._holders.discard(batch or call)
        self._check_told()

    def _check_told(self) -> None:
        if self.outstanding != self._told and (self._told or self._mean_us > TOLD_ABOVE_US):
            self._tell()

    def _tell(self) -> None:
        self._told = self.outstanding if self.tell_load(self.outstanding) else 0

    # -- for the worker ------------------------------------------------------------------------------------------------

    @property
    def busy_since(self) -> float:
        """When the oldest call that runs now began (perf_counter); 0.0 when none runs. Safe in other threads."""
        return self._inline_since or min((holder.started for holder in list(self._holders)), default=0.0)

    def give_back(self, calls: Iterable[OpenCall]) -> None:
        """The replica leaves: of these, what has not begun, and can be sent elsewhere, goes there."""
        for call in calls:
            granted = call.upload is not None and call.upload.granted
            if call.state in (CallState.ARRIVING, CallState.WAITING) and not granted:
                self.refuse(call, "draining")

    def drain(self) -> None:
        """No more calls will come."""
        self._adapter.drain()

    def in_child(self) -> None:
        """A handler has forked, and this is the child: should it come back, it is to answer nothing, and begin nothing
        of what waits."""
        self.answered = self.begun = self.ended = came_back  # type: ignore[method-assign]
        self._mailbox.post = came_back  # type: ignore[method-assign]
        self._loop.call_soon(came_back)

    def close(self, calls: Iterable[OpenCall]) -> None:
        """The replica ends, and cuts ``calls`` off."""
        for call in calls:
            if call.state in (CallState.RUNNING, CallState.ANSWERING):
                self.stop(call, "the replica ends")
            else:
                self._let_go(call)
        self._waiting.clear()
        self._batches.close()
        self._threads.close()
        self._main = Entry(None, None)  # In process, the other ends of its links still lead here.

"""A replica's calls: which run, in at most so many slots as the backend has, and which wait.

`Executor` alone moves a call on, from one `CallState` to the next. How a call runs depends on its handler
(`runners.py`, `batches.py`). A slot is free as soon as its handler is over, before anybody reads the answer. Between
calls the loop gets its turn, so that cancels are read and answers leave.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from asyncio import _set_running_loop
from collections import deque
from collections.abc import Callable
from functools import partial

from servekit.forks import came_back, forks
from servekit.replica.answer_streams import TURN_S, AnswerStreams
from servekit.replica.arriving_body import GatheredBody, window_is_here
from servekit.replica.batches import BatchRunner, Group
from servekit.replica.handler_calls import HandlerCalls
from servekit.replica.histograms import ValueHistogram
from servekit.replica.open_call import CallState, OpenCall, SharedSlot
from servekit.replica.render import Rendered
from servekit.replica.runners import CallRunner
from servekit.replica.target import Entry, Handlers, takes_body_as_it_comes
from servekit.replica.threads import Threads
from servekit.wire.data_frames import PIECE_BYTES, Answer, Call, Credit, Load, Refusal
from servekit.wire.data_links import DataLinks
from servekit.wire.incoming_calls import IncomingCalls, IncomingLink
from servekit.wire.link import Link
from servekit.wire.mailbox import Mailbox
from servekit.wire.streams import Incoming, Outgoing, WholeBody

_log = logging.getLogger("servekit.replica")

UNSENT_BYTES = 8 * 1024 * 1024
"""No call begins while the bodies of ended calls that are not all sent are longer than this together. Slow clients are
the ingress's business, which takes bodies off at once; this is for handlers that are faster than the link."""
TOLD_ABOVE_US = 1000.0
"""Mean service time above which ingress workers are told of each other's calls; below it, telling costs too much."""


class Executor:
    """Answers the calls of all links, in the order in which the calls came, until the replica is drained. Lives on the
    data loop, as does every object in this package that does not say otherwise. The executor is the `CallsAnswerer` of
    the replica's links."""

    def __init__(
        self,
        handlers: Handlers,
        handler_calls: HandlerCalls,
        links: DataLinks,
        *,
        slots: int,
        max_batch_size: int = 1,
        batch_wait_s: float = 0.0,
    ) -> None:
        self.calls: IncomingCalls[OpenCall] = IncomingCalls(self, links, Call)
        self.outstanding = 0
        """How many calls have come whose handlers have not ended."""
        self.requests = 0
        """How many calls have come."""
        self._given_up = 0
        """How many of the outstanding calls a drain does not wait for."""
        self._handlers = handlers
        self._handler_calls = handler_calls
        self._adapter = handler_calls.adapter
        self._clock = handler_calls.clock
        self._slots = slots
        self._holders: set[OpenCall | SharedSlot] = set()
        """The calls and batches that hold a slot, without the call that runs inline now."""
        self._inline: OpenCall | None = None
        """The call that runs inline now."""
        self._told = 0
        """The number of calls that ingress workers were told last. Once it was above 0, they are told until it is 0."""
        self._mean_us = 0.0
        """Mean service time of late."""
        self._unsent_bytes = 0
        self._waiting: deque[OpenCall | Group] = deque()
        """The calls that wait for a slot, in the order in which they came, and groups, for the next batch of each."""
        self._turn_planned = False
        self.loop = asyncio.get_running_loop()
        self._drain_s: asyncio.Future[float] = self.loop.create_future()
        """The time for the open calls, in seconds, once the replica drains."""
        self._thread = threading.get_ident()
        self._mailbox = Mailbox(self.loop)
        context = contextvars.copy_context()
        # A call takes one thread of a slot; the answers of a batch's calls take one each.
        self._threads = Threads(slots * max_batch_size)
        streams = AnswerStreams(self, handler_calls, self._mailbox, self._threads)
        runner = CallRunner(streams, context)
        self._run_def = runner.inline if slots == 1 else runner.in_thread
        self._run_task = runner.in_task
        self._batches = BatchRunner(self, streams, context, slots=slots, max_size=max_batch_size, wait_s=batch_wait_s)
        self._main = handlers.main
        self._run_main = self._way_to_run(handlers.main)
        forks.tell_child(self)

    def _way_to_run(self, entry: Entry) -> Callable[[OpenCall], None]:
        """The way to run a call that shares no batch."""
        return self._run_task if entry.on_loop or self._adapter.is_async else self._run_def

    # -- CallsAnswerer -----------------------------------------------------------------------------------------------

    def called(self, origin: IncomingLink[OpenCall], frame: Call) -> None:
        """A call has come; `calls_done` begins it."""
        request = frame.request
        if request.call_method is None:
            entry, run = self._main, self._run_main
        else:
            entry = self._handlers.find(request.call_method)
            run = self._way_to_run(entry)
        number = frame.id
        call = OpenCall(origin, number, request, entry, run, self._clock() + frame.timeout_ms / 1000)
        origin.open[number] = call
        self.outstanding += 1
        self.requests += 1
        if frame.more or entry.batches:
            self._arrive(call, frame.more)
        else:
            self._waiting.append(call)

    def cancelled(self, call: OpenCall) -> None:
        """Nobody waits for the call any more: the call is refused, or ends early."""
        if call.state is CallState.ARRIVING or call.state is CallState.WAITING:
            self.refuse(call, "cancelled")
        else:
            self._stop(call, "nobody waits for the answer any more")

    def calls_done(self) -> None:
        """Begin the calls that wait, until the turn is over; then let the loop read, and go on."""
        waiting, holders = self._waiting, self._holders
        if self._turn_planned:
            return
        turn_ends = self._clock() + TURN_S
        touched: Link | None = None
        # A `def` of the user's may run a loop of its own. This is done once a turn, for it is a system call.
        _set_running_loop(None)
        try:
            if self._batches.ready and self.has_room:
                self._batches.begin_ready(self._slots - len(holders))
            while waiting and len(holders) < self._slots and self._unsent_bytes <= UNSENT_BYTES:
                call = waiting.popleft()
                if isinstance(call, Group):
                    self._batches.begin(call)
                else:
                    link = call.origin.link
                    if touched is not link and touched is not None:
                        touched.flush()
                    touched = link
                    call.started = now = self._clock()
                    self._inline = call
                    if now < call.expires:
                        call.state = CallState.RUNNING
                        if self.outstanding != self._told and (self._told or self._mean_us > TOLD_ABOVE_US):
                            self._tell()
                        call.run(call)
                    else:
                        self.refuse(call, "expired")
                    self._inline = None
                if waiting and self._clock() > turn_ends:
                    self.proceed()
                    break
        finally:
            _set_running_loop(self.loop)
        if touched is not None:
            touched.flush()
        if waiting:
            self._batches.make_ready(waiting)
        if self.calls.leaving and self.outstanding <= self._given_up:
            self.calls.check()

    def proceed(self) -> None:
        if not self._turn_planned:
            self._turn_planned = True
            self.loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turn_planned = False
        self.calls_done()

    @property
    def has_room(self) -> bool:
        """Another call may begin. `calls_done` has this condition once more, and `calls_done` and `answered` have that
        of `_check_told`: every call comes by there, and a function call more would be on its road."""
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
        """Grant credit for a call's body. Called in whichever thread reads the body."""
        credit = Credit(number, size_bytes)
        if threading.get_ident() == self._thread:
            link.send(credit)
        else:
            self._mailbox.post(partial(link.send, credit))

    def _arrived(self, call: OpenCall) -> None:
        """As much of the call's body is here as is needed for the call to begin."""
        if call.upload is not None:
            call.upload.wake = None
        call.state = CallState.WAITING
        if not call.entry.batches:
            self._waiting.append(call)
            return
        try:
            self._batches.join(call)
        except BaseException as error:
            self._fail(call, error)

    def queue(self, group: Group) -> None:
        """Have the group asked for a batch when its turn comes."""
        if not group.in_queue:
            group.in_queue = True
            self._waiting.append(group)

    def _fail(self, call: OpenCall, error: BaseException) -> None:
        """A call cannot begin: the body could not be kept, or a handle's arguments cannot be unpickled."""
        call.started = self._clock()
        self.answered(call, self._handler_calls.failure(call, error), True)

    # -- BatchTransitions, for runners -------------------------------------------------------------------------------

    def hold(self, holder: OpenCall | SharedSlot, ended: SharedSlot | None = None) -> None:
        if ended is not None:
            self._holders.discard(ended)
        self._holders.add(holder)
        self._check_told()

    def taken(self, calls: list[OpenCall]) -> None:
        for call in calls:
            call.state = CallState.RUNNING

    def answered(self, call: OpenCall, rendered: Rendered, failed: bool) -> None:
        status, head, body, _ = rendered
        service_us = int((self._clock() - call.started) * 1e6)
        batch_size = 0 if call.slot is None else len(call.slot.calls)
        self.outstanding -= 1
        if self._holders:
            self._release(call)
        elif self.outstanding != self._told and (self._told or self._mean_us > TOLD_ABOVE_US):
            self._tell()
        self._mean_us += (service_us - self._mean_us) * 0.2
        if call.upload is not None:
            self._let_go(call)
        assert type(body) is bytes
        answer = Answer(call.number, status, head, body, self.outstanding, service_us, failed)
        if batch_size:
            answer.batch_size = batch_size
        if len(body) <= PIECE_BYTES:
            call.state = CallState.OVER
            call.interrupt = None
            call.origin.open.pop(call.number, None)
            call.origin.link.send(answer)
        else:
            self._send_long(call, answer)

    def begun(self, call: OpenCall, answer: Answer, download: Outgoing) -> None:
        call.state = CallState.ANSWERING
        call.download = download
        call.origin.link.send(answer)

    def ended(self, call: OpenCall, download: Outgoing, complete: bool) -> None:
        service_us = int((self._clock() - call.started) * 1e6)
        self.outstanding -= 1
        self._release(call)
        self._mean_us += (service_us - self._mean_us) * 0.2
        self._over(call)
        download.end(complete=complete, queue_length=self.outstanding, service_us=service_us)

    def refuse(self, call: OpenCall, reason: str) -> None:
        """A call is not begun."""
        if call.group is not None:
            call.group.remove(call)
        elif call in self._waiting:
            self._waiting.remove(call)
        self.outstanding -= 1
        self._check_told()
        self._over(call)
        call.origin.link.send(Refusal(call.number, reason))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _stop(self, call: OpenCall, reason: str) -> None:
        """A call that has begun ends early."""
        first, call.stopped = not call.stopped, reason
        if call.upload is not None:
            call.upload.end(ConnectionError(f"the request's body ends early: {reason}"))
        if call.unsent_bytes:
            assert call.download is not None
            self._sent(call)
            call.download.end(complete=False)
            self.proceed()
        elif first and call.interrupt is not None:  # A task may take its time to end, and is not disturbed in that.
            call.interrupt()

    def _send_long(self, call: OpenCall, answer: Answer) -> None:
        """Send an answer that is longer than a frame: the first part now, the rest as the reader grants credit."""
        link, body = call.origin.link, memoryview(answer.body)
        if call.request.method == "HEAD":
            answer.body, answer.rest = b"", len(body)
            self._over(call)
            link.send(answer)
            Outgoing(link, call.number).end()
            return
        answer.body, answer.rest = answer.body[:PIECE_BYTES], len(body) - PIECE_BYTES
        call.state = CallState.ANSWERING
        call.interrupt = None
        call.unsent_bytes = answer.rest
        self._unsent_bytes += answer.rest
        link.send(answer)
        call.download = Outgoing(link, call.number, PIECE_BYTES)
        call.download.follow(WholeBody(body[PIECE_BYTES:], partial(self._sent, call)))
        if call.stopped:  # The call was cancelled while its handler ran: nobody will grant credit.
            self._stop(call, call.stopped)

    def _sent(self, call: OpenCall) -> None:
        """The body of a long answer has left, or is given up."""
        self._unsent_bytes -= call.unsent_bytes
        call.unsent_bytes = 0
        self._over(call)

    def _over(self, call: OpenCall) -> None:
        self._let_go(call)
        call.state = CallState.OVER
        call.interrupt = call.group = None  # Both lead back to the call.
        call.origin.open.pop(call.number, None)

    def _let_go(self, call: OpenCall) -> None:
        """Let go of the request's body. A thread or a task that the handler left behind may still read the body."""
        if call.upload is not None:
            if call.state is CallState.ARRIVING:
                call.upload.wake = None  # `_check_arrived` would have the call begin.
            call.upload.end(ConnectionError("the request's body ends early: its call is over"))
            call.upload = None
        if call.gathered is not None:
            call.gathered.close()
            call.gathered = None

    def _release(self, call: OpenCall) -> None:
        """The slot of a call, or its part of one, is free."""
        slot, call.slot = call.slot, None  # The call and the slot lead to each other.
        if slot is not None:
            slot.left -= 1
            if slot.left:
                return
        self._holders.discard(slot or call)
        self._check_told()

    # -- load ----------------------------------------------------------------------------------------------------------

    def _check_told(self) -> None:
        if self.outstanding != self._told and (self._told or self._mean_us > TOLD_ABOVE_US):
            self._tell()

    def _tell(self) -> None:
        """Tell every ingress worker how many calls are here, at once: a handler may be about to hold up the loop. An
        ingress worker that is alone knows the number."""
        origins = self.calls.origins
        if len(origins) < 2:
            self._told = 0
            return
        self._told = self.outstanding
        for origin in origins:
            origin.link.send(Load(self.outstanding))
            origin.link.flush()

    # -- for the worker ------------------------------------------------------------------------------------------------

    @property
    def busy_since(self) -> float:
        """When the oldest call that runs now began, by ``time.perf_counter``; 0.0 when none runs. May be read in any
        thread."""
        return min((holder.started for holder in self._running), default=0.0)

    @property
    def _running(self) -> list[OpenCall | SharedSlot]:
        """What holds a slot. May be read in any thread."""
        inline = self._inline
        return list(self._holders) if inline is None else [inline, *list(self._holders)]

    @property
    def running(self) -> int:
        """How many calls hold a slot, alone or together. May be read in any thread."""
        return sum(holder.left if isinstance(holder, SharedSlot) else 1 for holder in self._running)

    @property
    def batch_histograms(self) -> list[ValueHistogram]:
        histograms = self._batches.histograms
        return [histograms.sizes, histograms.waits]

    def overdue(self, at_least_s: float = 0.0) -> dict[OpenCall, float]:
        """The calls that hold a slot beyond their deadlines and have no answer begun, each with how many seconds; those
        of a batch have the least of the batch. May be called in any thread."""
        now, late = self._clock(), {}
        for holder in self._running:
            calls = holder.calls if isinstance(holder, SharedSlot) else [holder]
            calls = [call for call in calls if call.state is CallState.RUNNING]
            late.update(dict.fromkeys(calls, now - max((call.expires for call in calls), default=now)))
        return {call: late_s for call, late_s in late.items() if late_s > at_least_s}

    async def serve(self) -> None:
        """Return when no ingress worker will send more and every call is answered, or the time for that is over."""
        timeout_s = await self._drain_s
        left = await self.calls.wait_answered(timeout_s, quiet=True)
        if left or not self.calls.is_quiet:
            _log.warning("not drained within %g s; %d calls are cut off", timeout_s, left)

    def drain(self, timeout_s: float) -> None:
        """Have `serve` end: ingress workers have been told to send no more."""
        if not self._drain_s.done():
            self.calls.leaving = True
            self._adapter.drain()
            self._drain_s.set_result(timeout_s)

    def leave(self, timeout_s: float) -> None:
        """Ask every ingress worker to send no more, give back the calls that have not begun, and drain."""
        self.calls.leave()
        self.give_back()
        self.drain(timeout_s)

    def give_back(self) -> None:
        """Refuse the calls that have not begun, and can be sent elsewhere."""
        for call in self.calls:
            granted = call.upload is not None and call.upload.granted
            if call.state in (CallState.ARRIVING, CallState.WAITING) and not granted:
                self.refuse(call, "draining")

    def give_up(self, hung_s: float) -> None:
        """Do not wait for the calls that hold a slot for so long beyond their deadlines. Where they hold all slots,
        give back the calls that wait for one."""
        overdue = self.overdue(hung_s)
        for call in overdue:
            self._given_up += call.origin.open.pop(call.number, None) is not None
        if len({call.slot or call for call in overdue}) >= self._slots:
            self.give_back()
        self.calls.check()

    def break_off(self) -> None:
        """Have callers take back the calls that have not begun: the data loop hangs. Called in another thread."""
        self._waiting.clear()  # Should the loop come back, it begins none of them.
        self.calls.break_off(lambda call: call.state not in (CallState.ARRIVING, CallState.WAITING))

    def in_child(self) -> None:
        """A handler has forked, and this process is the child. Should the handler come back here, the child is to
        answer nothing, and to begin none of the calls that wait."""
        self.answered = self.begun = self.ended = came_back  # type: ignore[method-assign]
        self._mailbox.post = came_back  # type: ignore[method-assign]
        self.loop.call_soon(came_back)

    def close(self) -> None:
        """The replica ends, and cuts off the calls that are open."""
        for call in self.calls:
            if call.state in (CallState.RUNNING, CallState.ANSWERING):
                self._stop(call, "the replica ends")
            else:
                self._let_go(call)
        self._waiting.clear()
        self._batches.close()
        self._threads.close()
        self._main = Entry(None, None)  # In process, the other ends of the links still lead here.

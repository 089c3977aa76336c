"""A replica's calls: those that wait, those that run, in at most so many slots as the backend has.

How a call runs is for its handler to say (`runner.py`). A call waits here until its body is there and a slot is free;
one that shares a batch waits for others, too (`groups.py`). Between calls the loop gets its turn, so that cancels are
read and answers leave.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from servekit.interfaces import RequestAdapter
from servekit.replica.batch_call import BatchCall
from servekit.replica.call import Batch, Job
from servekit.replica.calling import Caller, Reply
from servekit.replica.groups import Group, Groups
from servekit.replica.inbox import Inbox
from servekit.replica.lane import Lane
from servekit.replica.load import Load
from servekit.replica.outgoing import TURN_S, LongBody
from servekit.replica.render import Rendered
from servekit.replica.runner import Runner
from servekit.replica.target import Handlers
from servekit.wire.frames import PIECE_BYTES, Answer, Call, Credit, End, Refusal
from servekit.wire.link import Link

_clock = time.perf_counter

UNSENT_BYTES = 64 * 1024 * 1024
"""No call begins while the bodies of ended calls that their readers have not taken are longer than this together."""


class Executor:
    """Calls wait here in the order in which they came. All of it is on one event loop, but what says otherwise."""

    def __init__(
        self,
        backend: str,
        handlers: Handlers,
        adapter: RequestAdapter,
        *,
        slots: int,
        debug: bool,
        idle: Callable[[], None],
        tell_load: Callable[[int], bool] = lambda queue_length: False,
        replica: str = "",
        max_batch_size: int = 1,
        batch_wait_s: float = 0.0,
    ) -> None:
        """
        Args:
            idle: called whenever nothing is left to do.
            tell_load: tells every ingress worker how many calls are here; False where there is only one, who knows.
        """
        self._handlers = handlers
        self._main = handlers.main
        self._adapter = adapter
        self._slots = slots
        self._idle = idle
        self._load = Load(tell_load)
        self._loop = asyncio.get_running_loop()
        self._caller = Caller(backend, replica, adapter, debug, _clock)
        self._runner = Runner(self._caller, self, threads=slots * max_batch_size)
        self._context = self._runner.context
        self._lane = Lane(self._caller, self, self._runner.mailbox, slots)
        groups, post = Groups(max_batch_size, batch_wait_s), self._runner.mailbox.post
        self._inbox = Inbox(adapter, groups, post=post, unreadable=self._unreadable)
        self._waiting, self._open = self._inbox.waiting, self._inbox.open
        self.receive, self.received = self._inbox.receive, self._inbox.received
        self._running: set[Job | Batch] = set()
        """What holds a slot."""
        self._unsent_bytes = 0
        self._turn_planned = False
        self._inline_since = 0.0
        self.outstanding = 0
        """Calls that have come and whose handlers have not ended."""

    # -- from the links ------------------------------------------------------------------------------------------

    def submit(self, link: Link, call: Call) -> None:
        """Take a call; `run` answers it."""
        request = call.request
        name = request.call_method
        entry = self._main if name is None else self._handlers.find(name)
        job = Job(link, call.id, request, entry, _clock() + call.timeout_ms / 1000)
        self.outstanding += 1
        if call.more:
            self._inbox.add_begun(job)
        elif entry.batches:
            self._inbox.add(job)
        else:
            self._waiting.append(job)

    def granted(self, link: Link, credit: Credit) -> None:
        """The reader of an answer's body has room for more."""
        job = self._open.get((link, credit.id))
        if job is None or job.sender is None:
            return
        job.sender.grant(credit.size_bytes)
        if isinstance(job.sender, LongBody):
            self._send_rest(job, job.sender)

    def cancel(self, link: Link, call_id: int) -> None:
        """Nobody waits for this call: do not begin it, or let it end early."""
        job = self._inbox.find(link, call_id)
        if job is not None:
            self._cancel(job)

    def forget(self, link: Link) -> None:
        """The link is gone, and with it whoever waits for its calls."""
        for job in self._inbox:
            if job.link is link:
                self._cancel(job)

    def refuse_waiting(self) -> None:
        """The replica leaves: what has not begun goes elsewhere."""
        for job in self._inbox:
            if not job.started and not job.has_credit:
                self._refuse(job, "draining")

    def drain(self) -> None:
        """No more calls will come."""
        self._adapter.drain()

    @property
    def is_idle(self) -> bool:
        """Every call is answered, to the last byte."""
        return not self.outstanding and not self._open

    def _cancel(self, job: Job) -> None:
        if not job.started:
            self._refuse(job, "cancelled")
            return
        job.stop("nobody waits for the answer any more")
        if isinstance(job.sender, LongBody):
            self._send_rest(job, job.sender)

    # -- turns ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Answer what waits, until the turn is over; then let the loop read, and go on."""
        if self._turn_planned:
            return
        turn_ends = _clock() + TURN_S
        touched: Link | None = None
        if self._lane.ready:
            self._begin_ready()
        while self._waiting and self._has_room:
            first = self._waiting.popleft()
            if isinstance(first, Job):
                link = first.link
                if touched is not link and touched is not None:
                    touched.flush()
                touched = link
                now = self._begin(first)
            else:
                now = self._begin_batch(first)
            if now > turn_ends and self._waiting:
                self._turn_planned = True
                self._loop.call_soon(self._next_turn)
                break
        if touched is not None:
            touched.flush()
        if self._waiting:
            self._make_ready()
        if self.is_idle:
            self._idle()

    def _begin(self, job: Job) -> float:
        """Returns the time that it is after that."""
        job.started = now = _clock()
        if now >= job.expires:
            self._refuse(job, "expired")
        elif job.entry.on_loop or self._adapter.is_async:
            self._hold(job)
            self._runner.begin_task(job)
        elif self._slots > 1 or job.body is not None:
            self._hold(job)
            self._runner.begin_thread(job)
        else:
            now = self._context.copy().run(self._run_inline, job, now)
        return now

    def _run_inline(self, job: Job, now: float) -> float:
        """In a context of its own."""
        self._inline_since = now
        self._load.changed(self.outstanding)
        rendered, failed = self._caller.call(job)
        self._inline_since = 0.0
        now = _clock()
        self._reply(job, rendered, failed, now)
        return now

    def _hold(self, job: Job) -> None:
        self._running.add(job)
        self._open[job.link, job.id] = job
        self._load.changed(self.outstanding)

    @property
    def _has_room(self) -> bool:
        return len(self._running) < self._slots and self._unsent_bytes <= UNSENT_BYTES

    def _next_turn(self) -> None:
        self._turn_planned = False
        self.run()

    @property
    def busy_since(self) -> float:
        """When the oldest call that runs now began (perf_counter); 0.0 when none runs. Safe in other threads."""
        return self._inline_since or min((job.started for job in list(self._running)), default=0.0)

    def close(self) -> None:
        for job in self._inbox:
            if job.started:
                job.stop("the replica ends")
        self._runner.close()
        self._lane.close()

    # -- batches -------------------------------------------------------------------------------------------------

    def _begin_batch(self, group: Group) -> float:
        """Begin a batch, unless it is to wait for more. Returns the time that it is after that."""
        now = _clock()
        group.in_queue = False
        for job in [job for job in group.jobs if now >= job.expires]:
            self._refuse(job, "expired")
        if not group.jobs:
            return now
        wait_s = group.plan.wait_s(now, len(group.jobs))
        if wait_s > 0:
            if group.timer is None:
                group.timer = self._loop.call_later(wait_s, self._waited, group)
            return now
        call = self._taken(group, now)
        self._hold_batch(call.batch)
        if call.batch.entry.on_loop:
            self._runner.begin_batch_task(call)
        else:
            self._lane.begin(call)
        return _clock()

    def _taken(self, group: Group, now: float) -> BatchCall:
        batch = group.take(now)
        if group.jobs:
            self._inbox.queue(group)
        for job in batch.jobs:
            self._open[job.link, job.id] = job
        return BatchCall(self._adapter, batch, self._context.copy())

    def _hold_batch(self, batch: Batch) -> None:
        self._running.add(batch)
        self._load.changed(self.outstanding)

    def _begin_ready(self) -> None:
        """A thread had more to do than its handler, and did not go on by itself."""
        while self._has_room and (call := self._lane.pop_ready()) is not None:
            self._hold_batch(call.batch)
            self._lane.begin(call)

    def _make_ready(self) -> None:
        """While every slot is taken, the next full batch is made ready."""
        while self._lane.takes_ready and self._waiting:
            group = self._waiting[0]
            if not isinstance(group, Group) or group.entry.on_loop or len(group.jobs) < group.plan.max_size:
                return
            self._waiting.popleft()
            group.in_queue = False
            self._lane.ready.append(self._taken(group, _clock()))

    def _waited(self, group: Group) -> None:
        group.timer = None
        if group.jobs:
            self._inbox.queue(group)
            self.run()

    # -- what runs elsewhere comes back, on the loop ---------------------------------------------------------------

    def answered(self, job: Job, reply: Reply) -> None:
        """A handler has ended, in a thread or in a task."""
        self._reply(job, *reply, _clock())
        self.run()

    def batch_handled(self, call: BatchCall, successor: BatchCall | None = None) -> None:
        """The handler of a batch has ended, and its thread has begun ``successor``."""
        now = _clock()
        call.batch.group.running -= len(call.batch.jobs)
        if successor is not None:
            self._running.discard(call.batch)
            self._hold_batch(successor.batch)
        call.context.run(self._reply_batch, call, now)
        self.run()

    def _reply_batch(self, call: BatchCall, now: float) -> None:
        for job, (rendered, failed) in self._caller.batch_replies(call):
            self._reply(job, rendered, failed, now)

    def streamed(self, job: Job, complete: bool) -> None:
        """An answer that was made piece by piece has begun, and is over."""
        service_us = self._handler_over(job, _clock())
        job.link.send(End(job.id, complete, self.outstanding, service_us))
        self.run()

    # -- answers -------------------------------------------------------------------------------------------------

    def _reply(self, job: Job, rendered: Rendered, failed: bool, ended: float) -> None:
        """Send an answer that is there; one that is yet to be made goes on in this context, elsewhere."""
        status, head, body, _ = rendered
        if type(body) is not bytes:
            if job.batch is None:
                self._hold(job)
            self._runner.stream(job, rendered)
            return
        service_us = self._handler_over(job, ended)
        if len(body) <= PIECE_BYTES:
            job.link.send(Answer(job.id, status, head, body, self.outstanding, service_us, failed))
            return
        sender = job.sender = LongBody(job.link, job.id, body if job.request.method != "HEAD" else b"")
        rest = len(body) - len(sender.first)
        job.link.send(Answer(job.id, status, head, sender.first, self.outstanding, service_us, failed, rest))
        self._open[job.link, job.id] = job
        self._unsent_bytes += sender.unsent_bytes
        self._send_rest(job, sender)

    def _send_rest(self, job: Job, sender: LongBody) -> None:
        """The handler is over, and so is its slot free; what it made goes out as it is read."""
        self._unsent_bytes -= sender.push()
        if not sender.unsent_bytes:
            del self._open[job.link, job.id]
            job.link.send(End(job.id, not job.stopped))

    def _handler_over(self, job: Job, ended: float) -> int:
        """Its slot is free; returns how long it took, in microseconds."""
        self._over(job)
        service_us = int((ended - job.started) * 1e6)
        self._load.served(service_us)
        return service_us

    def _over(self, job: Job) -> None:
        self.outstanding -= 1
        if self._running:
            self._release(job)
        if job.batch is None or not job.batch.left:
            self._load.changed(self.outstanding)
        if self._open:
            self._open.pop((job.link, job.id), None)

    def _release(self, job: Job) -> None:
        """Give back its slot, or its part of that."""
        if job.body is not None:
            job.body.end("its call is over")  # The handler may have left a thread behind that reads it.
            job.body = None
        if job.batch is None:
            self._running.discard(job)
        else:
            job.batch.left -= 1
            if not job.batch.left:
                self._running.discard(job.batch)

    def _refuse(self, job: Job, reason: str) -> None:
        self._over(job)
        self._inbox.remove(job)
        job.link.send(Refusal(job.id, reason))

    def _unreadable(self, job: Job, error: BaseException) -> None:
        job.started = _clock()
        self._reply(job, self._caller.failure(job, error), True, job.started)

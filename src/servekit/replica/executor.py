"""A replica's calls: those that wait, those that run, in at most so many slots as the backend has.

How a call runs is for its handler to say (`runner.py`). A call waits here until its body is there and a slot is free;
one that shares a batch waits for others, too (`groups.py`). Between calls the loop gets its turn, so that cancels are
read and answers leave.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from servekit.forks import came_back, forks
from servekit.interfaces import RequestAdapter
from servekit.loopless import hide, show
from servekit.replica.batch_call import BatchCall
from servekit.replica.call import Job
from servekit.replica.calling import Caller, Reply
from servekit.replica.groups import Group, Groups
from servekit.replica.inbox import Inbox
from servekit.replica.lane import Lane
from servekit.replica.load import Load
from servekit.replica.outgoing import TURN_S
from servekit.replica.replies import Replies
from servekit.replica.runner import Runner
from servekit.replica.slots import Slots
from servekit.replica.target import Handlers
from servekit.wire.data_frames import Call, Credit
from servekit.wire.link import Link

_clock = time.perf_counter


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
        self._uses_threads = slots > 1
        self._idle = idle
        load = Load(tell_load)
        self._slots = Slots(slots, load)
        self._loop = asyncio.get_running_loop()
        self._caller = Caller(backend, replica, adapter, debug, _clock)
        self._runner = Runner(self._caller, self, threads=slots * max_batch_size)
        self._context = self._runner.context
        self._lane = Lane(self._caller, self, self._runner.mailbox, slots)
        groups, post = Groups(max_batch_size, batch_wait_s), self._runner.mailbox.post
        self._inbox = Inbox(adapter, groups, post=post, unreadable=self._unreadable)
        self._waiting, self._open = self._inbox.waiting, self._inbox.open
        self._replies = Replies(self._slots, load, self._open, self._runner.stream)
        self.receive, self.received = self._inbox.receive, self._inbox.received
        self._turn_planned = False
        self._loop_hidden = False
        """A ``def`` of the user's runs in this turn, and sees no running loop."""
        self._task: asyncio.Task[Any] | None = None
        """The one in whose step that is, if any."""
        forks.tell_child(self)

    # -- from the links ------------------------------------------------------------------------------------------

    def submit(self, link: Link, call: Call) -> None:
        """Take a call; `run` answers it."""
        request = call.request
        name = request.call_method
        entry = self._main if name is None else self._handlers.find(name)
        job = Job(link, call.id, request, entry, _clock() + call.timeout_ms / 1000)
        self._slots.outstanding += 1
        if call.more:
            self._inbox.add_begun(job)
        elif entry.batches:
            self._inbox.add(job)
        else:
            self._waiting.append(job)

    def granted(self, link: Link, credit: Credit) -> None:
        """The reader of an answer's body has room for more."""
        job = self._open.get((link, credit.id))
        if job is not None:
            self._replies.grant(job, credit)

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
        return not self._slots.outstanding and not self._open

    def _cancel(self, job: Job) -> None:
        if not job.started:
            self._refuse(job, "cancelled")
            return
        job.stop("nobody waits for the answer any more")
        self._replies.push(job)

    # -- turns ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Answer what waits, until the turn is over; then let the loop read, and go on."""
        if self._turn_planned:
            return
        turn_ends = _clock() + TURN_S
        touched: Link | None = None
        if self._lane.ready:
            self._begin_ready()
        try:
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
        finally:
            if self._loop_hidden:
                self._loop_hidden = False
                show(self._loop, self._task)
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
            self._replies.hold(job)
            self._runner.begin_task(job)
        elif self._uses_threads or job.body is not None:
            self._replies.hold(job)
            self._runner.begin_thread(job)
        else:
            now = self._context.copy().run(self._run_inline, job, now)
        return now

    def _run_inline(self, job: Job, now: float) -> float:
        """In a context of its own."""
        self._slots.hold_inline(now)
        if not self._loop_hidden:  # Once for all calls of a turn.
            self._task = hide(self._loop)
            self._loop_hidden = True
        rendered, failed = self._caller.call(job)
        self._slots.inline_since = 0.0
        now = _clock()
        self._replies.send(job, rendered, failed, now)
        return now

    @property
    def _has_room(self) -> bool:
        return self._slots.is_free and not self._replies.is_behind

    def _next_turn(self) -> None:
        self._turn_planned = False
        self.run()

    @property
    def busy_since(self) -> float:
        """When the oldest call that runs now began (perf_counter); 0.0 when none runs. Safe in other threads."""
        return self._slots.busy_since

    @property
    def outstanding(self) -> int:
        """Calls that have come and whose handlers have not ended."""
        return self._slots.outstanding

    def in_child(self) -> None:
        """A handler has forked, and this is the child: should it come back, it is to answer nothing, and begin nothing
        of what waits."""
        self._replies.send = self._runner.mailbox.post = came_back  # type: ignore[method-assign]

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
        self._slots.hold(call.batch)
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

    def _begin_ready(self) -> None:
        """A thread had more to do than its handler, and did not go on by itself."""
        while self._has_room and (call := self._lane.pop_ready()) is not None:
            self._slots.hold(call.batch)
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
        self._replies.send(job, *reply, _clock())
        self.run()

    def batch_handled(self, call: BatchCall, successor: BatchCall | None = None) -> None:
        """The handler of a batch has ended, and its thread has begun ``successor``."""
        now = _clock()
        call.batch.group.running -= len(call.batch.jobs)
        if successor is not None:
            self._slots.pass_on(call.batch, successor.batch)
        call.context.run(self._reply_batch, call, now)
        self.run()

    def _reply_batch(self, call: BatchCall, now: float) -> None:
        for job, (rendered, failed) in self._caller.batch_replies(call):
            self._replies.send(job, rendered, failed, now)

    def streamed(self, job: Job, complete: bool) -> None:
        """An answer that was made piece by piece has begun, and is over."""
        self._replies.streamed(job, complete, _clock())
        self.run()

    def _refuse(self, job: Job, reason: str) -> None:
        self._inbox.remove(job)
        self._replies.refuse(job, reason)

    def _unreadable(self, job: Job, error: BaseException) -> None:
        job.started = _clock()
        self._replies.send(job, self._caller.failure(job, error), True, job.started)

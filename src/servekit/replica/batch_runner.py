"""How calls share batches, and how batches run.

A handler of batches mostly waits outside of Python, for a GPU or in a library's own code. Where it is a ``def``, it has
as many threads as the backend has slots. Meanwhile the loop makes the next full batch ready, and answers the one
before: a thread that ends one begins the next at once.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING

from servekit.interfaces import RequestAdapter
from servekit.loopless import call_loopless
from servekit.replica import invocations
from servekit.replica.answer_streams import AnswerStreams
from servekit.replica.batch import Batch
from servekit.replica.batch_plan import BatchPlan
from servekit.replica.flow import run, run_async
from servekit.replica.handler_calls import HandlerCalls
from servekit.replica.open_call import OpenCall
from servekit.replica.runners import Runner
from servekit.replica.target import Entry
from servekit.replica.threads import Threads

if TYPE_CHECKING:
    from servekit.replica.executor import Executor

KINDS = 64
"""Groups that are remembered while no call is in them: one for each method and each set of a handle's arguments."""


class Group:
    """Calls that may share a batch, in the order in which they came."""

    __slots__ = ("calls", "entry", "in_queue", "plan", "running", "timer")

    def __init__(self, entry: Entry, plan: BatchPlan) -> None:
        self.entry = entry
        self.plan = plan
        self.calls: deque[OpenCall] = deque()
        self.running = 0
        """Calls in batches that run."""
        self.in_queue = False
        """It waits for a slot, or to be asked whether it waits for more calls."""
        self.timer: asyncio.TimerHandle | None = None

    def take(self) -> list[OpenCall]:
        """The first of them, as many as a batch may have."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        calls = [self.calls.popleft() for _ in range(min(len(self.calls), self.plan.max_size))]
        self.running += len(calls)
        self.plan.began(len(calls))
        return calls


class BatchRunner(Runner[Group]):
    """Of one replica: all groups, for only calls of one kind share a batch, and the threads in which batches run."""

    def __init__(
        self,
        executor: Executor,
        calls: HandlerCalls,
        streams: AnswerStreams,
        context: contextvars.Context,
        *,
        adapter: RequestAdapter,
        slots: int,
        max_size: int,
        wait_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.ready: deque[Batch] = deque()
        """To be begun when the handler of one that runs has ended."""
        super().__init__(executor, calls, streams, context)
        self._adapter = adapter
        self._slots = slots
        self._max_size = max_size
        self._wait_s = wait_s
        self._clock = clock
        self._groups: dict[Hashable, Group] = {}
        self._threads = Threads(slots)
        self._running = 0
        """Threads that are at work."""

    # -- waiting -----------------------------------------------------------------------------------------------------

    def join(self, call: OpenCall) -> Group:
        """Have ``call`` wait among its kind. Raises what unpickling a handle's arguments raises."""
        kind = self._kind(call)
        group = self._groups.get(kind)
        if group is None:
            self._forget_one()
            group = self._groups[kind] = Group(call.entry, BatchPlan(self._max_size, self._wait_s))
        group.calls.append(call)
        call.group = group
        group.plan.came(len(group.calls), group.running)
        return group

    def _kind(self, call: OpenCall) -> Hashable:
        name = call.entry.name
        if call.request.chain is None:
            return name
        # Unpickling may import modules of the user's, and runs what they say.
        call.arguments = args, kwargs = call_loopless(self._streams.loop, run, invocations.arguments(call.request))
        return name, len(args), *sorted(kwargs)

    def _forget_one(self) -> None:
        if len(self._groups) >= KINDS:
            for kind, group in self._groups.items():
                if not group.calls and not group.running:
                    del self._groups[kind]
                    return

    # -- beginning ---------------------------------------------------------------------------------------------------

    def begin(self, group: Group) -> None:
        """Begin a batch of these calls, unless it is to wait for more; there is a slot for it."""
        now = self._clock()
        group.in_queue = False
        for call in [call for call in group.calls if now >= call.expires]:
            self._executor.refuse(call, "expired")
        if not group.calls:
            return
        wait_s = group.plan.wait_s(now, len(group.calls))
        if wait_s > 0:
            if group.timer is None:
                group.timer = self._streams.loop.call_later(wait_s, self._waited, group)
            return
        self._start(self._taken(group, now))

    def begin_ready(self) -> None:
        """A thread had more to do than its handler, and did not go on by itself."""
        while self.ready and self._executor.has_room:
            if (batch := self._next_ready()) is not None:
                self._start(batch)

    def make_ready(self, waiting: deque[OpenCall | Group]) -> None:
        """While every slot is taken by a batch, the next full one of those that wait is made ready."""
        while waiting and self._running == self._slots and len(self.ready) < self._slots:
            group = waiting[0]
            if not isinstance(group, Group) or group.entry.on_loop or len(group.calls) < group.plan.max_size:
                return
            waiting.popleft()
            group.in_queue = False
            self.ready.append(self._taken(group, self._clock()))

    def _taken(self, group: Group, now: float) -> Batch:
        """From now on none of its calls is refused; their time counts again from when the handler is called."""
        batch = Batch(self._adapter, group, group.take(), self._context.copy())
        batch.start(now)
        self._executor.taken(batch)
        if group.calls:
            self._executor.queue(group)
        return batch

    def _start(self, batch: Batch) -> None:
        self._executor.hold(batch)
        if batch.entry.on_loop:
            batch.context.run(self._streams.loop.create_task, self._in_task(batch))
        else:
            self._running += 1
            self._threads.submit(lambda: self._in_thread(batch))

    def _waited(self, group: Group) -> None:
        group.timer = None
        if group.calls:
            self._executor.queue(group)
            self._executor.proceed()

    # -- running -----------------------------------------------------------------------------------------------------

    def _in_thread(self, batch: Batch) -> None:
        """This batch, and then those that are ready."""
        successor: Batch | None = batch
        while successor is not None:
            batch = successor
            batch.context.run(run, self._calls.calling(batch))
            successor = self._next_ready() if batch.is_plain else None
            self._streams.mailbox.post(partial(self._handled, batch, successor))

    def _next_ready(self) -> Batch | None:
        """In any thread."""
        try:
            return self.ready.popleft()
        except IndexError:  # Another thread was faster, or nothing is there.
            return None

    async def _in_task(self, batch: Batch) -> None:
        batch.task = asyncio.current_task()
        await run_async(self._calls.calling(batch))
        batch.task = None
        batch.context = contextvars.copy_context()  # That of a task is a copy.
        self._answer(batch)

    def _handled(self, batch: Batch, successor: Batch | None) -> None:
        if successor is None:
            self._running -= 1
        else:
            self._executor.hold(successor, ended=batch)
        self._answer(batch)

    def _answer(self, batch: Batch) -> None:
        batch.group.running -= len(batch.calls)
        batch.context.run(self._reply, batch)
        self._executor.proceed()

    def _reply(self, batch: Batch) -> None:
        for call, (rendered, failed) in self._calls.batch_replies(batch):
            if type(rendered[2]) is bytes:
                self._executor.answered(call, rendered, failed)
            else:
                self._streams.begin(call, rendered, contextvars.copy_context())

    def close(self) -> None:
        """The replica ends."""
        self._threads.close()
        self._groups.clear()  # They lead to the handler.

"""How calls share batches, and how batches run.

A handler of batches mostly waits outside of Python, for a GPU or in a library's own code. Where it is a ``def``, it has
as many threads as the backend has slots. Meanwhile the loop makes the next full batch ready, and answers the one
before: a thread that ends one begins the next at once.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any, Protocol

from servekit.errors import ResultError
from servekit.loopless import call_loopless
from servekit.replica import invocations
from servekit.replica.answer_streams import AnswerStreams
from servekit.replica.batch_plan import BatchPlan
from servekit.replica.flow import Flow, run, run_async
from servekit.replica.handler_calls import HandlerCalls, Reply
from servekit.replica.histograms import BatchHistograms
from servekit.replica.open_call import CallTransitions, OpenCall, SharedSlot
from servekit.replica.target import Entry
from servekit.replica.threads import Threads

KINDS = 64
"""Groups that are remembered while no call is in them: one for each method and each set of a handle's arguments."""
_PLAIN = frozenset({str, bytes, dict, list, int, float, bool, type(None)})


class Group:
    """Calls that may share a batch, in the order in which they came."""

    __slots__ = ("calls", "entry", "in_queue", "plan", "running", "timer")

    def __init__(self, entry: Entry, plan: BatchPlan) -> None:
        self.entry = entry
        self.plan = plan
        self.calls: deque[OpenCall] = deque()
        self.running = 0
        """How many calls are in batches that run."""
        self.in_queue = False
        """The group waits for a slot, or to be asked whether it waits for more calls."""
        self.timer: asyncio.TimerHandle | None = None

    def take(self) -> list[OpenCall]:
        """The first of the calls, as many as a batch may have."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        calls = [self.calls.popleft() for _ in range(min(len(self.calls), self.plan.max_size))]
        self.running += len(calls)
        self.plan.began(len(calls))
        return calls


class Batch(SharedSlot):
    """Calls that share one call of the handler: decoded requests go in, and one item for each request comes out."""

    def __init__(self, handler_calls: HandlerCalls, group: Group, context: contextvars.Context) -> None:
        """``context``: the handler is called in it, and the items become answers in it."""
        self.group = group
        super().__init__(group.take())
        self.context = context
        self._handler_calls = handler_calls
        self._asked: dict[OpenCall, Any] = {}
        """The calls that the handler is called for, each with its decoded request."""
        self._refused: dict[OpenCall, BaseException] = {}
        """The calls that the handler is not called for."""
        self._results: Any = ()
        self._error: BaseException | None = None
        """Why there are no results."""
        self._adapter = adapter = group.entry.adapter or handler_calls.adapter
        for call in self.calls:
            call.slot, call.group, call.interrupt = self, None, self._check_wanted
            try:
                self._asked[call] = adapter.decode(call.request)
            except BaseException as error:
                self._refused[call] = error

    def start(self) -> None:
        """From now on the time of the batch counts."""
        self.started = now = self._handler_calls.clock()
        for call in self.calls:
            call.started = now

    def calling(self) -> Flow[None]:
        """Call the handler, for the calls that somebody still waits for; `replies` has the outcome."""
        self.start()
        for call in list(self._asked):
            if self.started >= call.expires and not call.stopped:
                call.stopped = "its deadline has passed"
            if call.stopped:
                del self._asked[call]
                self._refused[call] = asyncio.CancelledError()
        self._handler_calls.enter(next(iter(self._asked or self.calls)), len(self._asked))
        try:
            if self._asked:
                with self._adapter.batch_context():
                    self._results = yield self._call_handler
                self._check_results()
        except BaseException as error:
            self._error = error

    @property
    def is_plain(self) -> bool:
        """The handler is done: no item is an iterator, whose pieces would be more work for the slot."""
        return self._error is not None or all(
            type(item) in _PLAIN or type(item).__module__ == "numpy" for item in self._results
        )

    def replies(self) -> Iterator[tuple[OpenCall, Reply]]:
        """One for each call of the batch."""
        error, self._error = self._error, None  # The error leads to the frames that lead to the batch.
        if error is not None:
            yield from self._handler_calls.batch_failure(self.calls, error)
        else:
            for call, item in chain(self._refused.items(), zip(self._asked, self._results, strict=True)):
                yield call, self._handler_calls.item_reply(call, item)

    def _check_wanted(self) -> None:
        """Cancel the handler once nobody waits for any of its answers."""
        if self.task is not None and all(call.stopped for call in self.calls):
            self.task.cancel()

    def _call_handler(self) -> Any:
        handler: Any = self.group.entry.blocking
        decoded = list(self._asked.values())
        arguments = [call.arguments for call in self._asked if call.arguments is not None]
        if not arguments:  # The calls came by HTTP.
            return handler(decoded)
        args, kwargs = arguments[0]
        columns = ([given[at] for given, _ in arguments] for at in range(len(args)))
        named = {name: [given[name] for _, given in arguments] for name in kwargs}
        return handler(decoded, *columns, **named)

    def _check_results(self) -> None:
        """Raises `ResultError` where the handler did not return one item for each request."""
        results: Any = self._results
        size = len(self._asked)
        if isinstance(results, (str, bytes, bytearray, Mapping)) or not hasattr(results, "__getitem__"):
            raise ResultError(
                f"a handler that accepts batches returns a list with one item for each of its {size} requests; "
                f"that of backend {self._handler_calls.backend!r} returned {type(results).__qualname__}"
            )
        self._results = list(results)  # An error of this line is the handler's failure, too.
        if len(self._results) != size:
            raise ResultError(
                "a handler that accepts batches returns one item for each request: that of backend "
                f"{self._handler_calls.backend!r} was asked for {size} and returned {len(self._results)}"
            )


class BatchTransitions(CallTransitions, Protocol):
    """Batches report their progress here, to the `Executor`, beside the progress of their calls."""

    def taken(self, calls: list[OpenCall]) -> None:
        """These calls share a batch, which is begun, or will be as soon as a thread is free."""

    def refuse(self, call: OpenCall, reason: str) -> None:
        """A call is not begun."""

    def queue(self, group: Group) -> None:
        """Have the group asked for a batch when its turn comes."""


class BatchRunner:
    """The groups of one replica, for only calls of one kind share a batch, and the threads in which batches run."""

    def __init__(
        self,
        executor: BatchTransitions,
        streams: AnswerStreams,
        context: contextvars.Context,
        *,
        slots: int,
        max_size: int,
        wait_s: float,
    ) -> None:
        """``context``: to be copied for each batch."""
        self.ready: deque[Batch] = deque()
        """Batches to be begun when the handler of a running one has ended."""
        self.histograms = BatchHistograms()
        self._executor = executor
        self._calls = streams.calls
        self._streams = streams
        self._context = context
        self._slots = slots
        self._max_size = max_size
        self._wait_s = wait_s
        self._groups: dict[Hashable, Group] = {}
        self._threads = Threads(slots)
        self._running = 0
        """How many threads are at work."""

    # -- waiting -----------------------------------------------------------------------------------------------------

    def join(self, call: OpenCall) -> None:
        """Have ``call`` wait among its kind. Raises any error of unpickling a handle's arguments."""
        kind = self._kind(call)
        group = self._groups.get(kind)
        if group is None:
            self._forget_one()
            group = self._groups[kind] = Group(call.entry, BatchPlan(self._max_size, self._wait_s))
        group.calls.append(call)
        call.group = group.calls
        call.joined = self._calls.clock()
        group.plan.came(len(group.calls), group.running)
        self._executor.queue(group)

    def _kind(self, call: OpenCall) -> Hashable:
        name = call.entry.name
        if call.request.chain is None:
            return name
        # Unpickling may import modules of the user's, and run code of theirs.
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
        """Begin a batch of the group's calls, unless the batch is to wait for more. A slot is free."""
        now = self._calls.clock()
        group.in_queue = False
        for call in [call for call in group.calls if now >= call.expires]:
            self._executor.refuse(call, "expired")
        if not group.calls:
            return
        wait_s = group.plan.wait_s(now, len(group.calls))
        if wait_s <= 0:
            self._start(self._taken(group))
        elif group.timer is None:
            group.timer = self._streams.loop.call_later(wait_s, self._waited, group)

    def begin_ready(self, slots: int) -> None:
        """Begin as many of the batches that are ready as slots are free. A thread that had more to do than its
        handler did not begin the next batch itself."""
        for _ in range(min(slots, len(self.ready))):
            if (batch := self._next_ready()) is not None:
                self._start(batch)

    def make_ready(self, waiting: deque[OpenCall | Group]) -> None:
        """While every slot is taken by a batch, make the next full batch of those that wait ready."""
        while waiting and self._running == self._slots and len(self.ready) < self._slots:
            group = waiting[0]
            if not isinstance(group, Group) or group.entry.on_loop or len(group.calls) < group.plan.max_size:
                return
            waiting.popleft()
            group.in_queue = False
            self.ready.append(self._taken(group))

    def _taken(self, group: Group) -> Batch:
        """A batch of the group's first calls. No call of the batch is refused from now on. The time of the batch counts
        again from when the handler is called."""
        batch = Batch(self._calls, group, self._context.copy())
        batch.start()
        self._executor.taken(batch.calls)
        if group.calls:
            self._executor.queue(group)
        return batch

    def _start(self, batch: Batch) -> None:
        self._executor.hold(batch)
        if batch.group.entry.on_loop:
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
        """Run this batch, and then the batches that are ready."""
        successor: Batch | None = batch
        while successor is not None:
            batch = successor
            batch.context.run(run, batch.calling())
            successor = self._next_ready() if batch.is_plain else None
            self._streams.mailbox.post(partial(self._handled, batch, successor))

    def _next_ready(self) -> Batch | None:
        """The first batch that is ready, or None. May be called in any thread."""
        try:
            return self.ready.popleft()
        except IndexError:  # Another thread was faster, or no batch is ready.
            return None

    async def _in_task(self, batch: Batch) -> None:
        batch.task = asyncio.current_task()
        await run_async(batch.calling())
        batch.task = None
        batch.context = contextvars.copy_context()  # A task has a copy of the context that it was made in.
        self._answer(batch)

    def _handled(self, batch: Batch, successor: Batch | None) -> None:
        if successor is None:
            self._running -= 1
        else:
            self._executor.hold(successor, ended=batch)
        self._answer(batch)

    def _answer(self, batch: Batch) -> None:
        batch.group.running -= len(batch.calls)
        self.histograms.sizes.add(len(batch.calls))
        self.histograms.waits.add(batch.started - batch.calls[0].joined)
        batch.context.run(self._reply, batch)

    def _reply(self, batch: Batch) -> None:
        for call, reply in batch.replies():
            self._streams.reply(call, reply)

    def close(self) -> None:
        """The replica ends."""
        self._threads.close()
        self._groups.clear()  # The groups lead to the handler.

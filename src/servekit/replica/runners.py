"""The ways to run one call: on the main thread, in another thread, in a task. `batch_runner.py` has that for batches.

Each call runs in a copy of the context in which the replica was built, and the pieces of its answer in that copy.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Protocol

from servekit.replica.answer_streams import AnswerStreams, Owner
from servekit.replica.flow import run_async
from servekit.replica.handler_calls import HandlerCalls, Reply
from servekit.replica.open_call import OpenCall
from servekit.replica.render import is_async
from servekit.replica.threads import Threads


class Runner(Protocol):
    """A way to run calls. Its methods are called on the data loop, which is marked as not running meanwhile."""

    def begin(self, call: OpenCall) -> None:
        """Run a call; there is a slot for it. The runner's owner is told what comes of it."""

    def close(self) -> None:
        """The replica ends."""


class CallOwner(Owner, Protocol):
    """Who gives out slots. See `Executor`."""

    def hold(self, call: OpenCall) -> None: ...


class InlineRunner:
    """A ``def`` where there is one slot: on the main thread, at once, and to the last piece of its answer."""

    def __init__(
        self, owner: CallOwner, calls: HandlerCalls, streams: AnswerStreams, context: contextvars.Context
    ) -> None:
        self._owner = owner
        self._answer = calls.answer
        self._streams = streams
        self._context = context

    def begin(self, call: OpenCall) -> None:
        context = self._context.copy()
        rendered, failed = context.run(self._answer, call)
        body = rendered[2]
        if type(body) is bytes:
            self._owner.answered(call, rendered, failed)
            return
        self._owner.hold(call)
        if is_async(body):
            self._streams.begin(call, rendered, context)
        else:
            self._streams.on_main_thread(call, rendered, context)

    def close(self) -> None: ...


class ThreadRunner:
    """A ``def`` where there are several slots: each call in a thread, which makes the pieces of its answer as well."""

    def __init__(
        self, owner: CallOwner, calls: HandlerCalls, streams: AnswerStreams, context: contextvars.Context, slots: int
    ) -> None:
        self._owner = owner
        self._calls = calls
        self._streams = streams
        self._context = context
        self._threads = Threads(slots)

    def begin(self, call: OpenCall) -> None:
        self._owner.hold(call)
        context = self._context.copy()
        self._threads.submit(lambda: context.run(self._run, call))

    def _run(self, call: OpenCall) -> None:
        if call.upload is not None and call.gathered is None:
            call.request.incoming = call.upload.as_file()
        rendered, failed = self._calls.answer(call)
        post, body = self._streams.mailbox.post, rendered[2]
        if type(body) is bytes:
            post(lambda: self._answered(call, (rendered, failed)))
        elif is_async(body):
            context = contextvars.copy_context()
            post(lambda: self._streams.begin(call, rendered, context))
        else:
            self._streams.in_thread(call, rendered)

    def _answered(self, call: OpenCall, reply: Reply) -> None:
        self._owner.answered(call, *reply)
        self._owner.proceed()

    def close(self) -> None:
        self._threads.close()


class TaskRunner:
    """An ``async def``, and whatever an adapter that `is_async` calls: each call in a task on the data loop."""

    def __init__(
        self, owner: CallOwner, calls: HandlerCalls, streams: AnswerStreams, context: contextvars.Context
    ) -> None:
        self._owner = owner
        self._calls = calls
        self._streams = streams
        self._context = context

    def begin(self, call: OpenCall) -> None:
        self._owner.hold(call)
        self._context.run(self._streams.loop.create_task, self._run(call))

    async def _run(self, call: OpenCall) -> None:
        # A task that is cancelled before its first step does not even begin: so until then nobody knows of it.
        task = asyncio.current_task()
        assert task is not None
        call.interrupt = task.cancel
        if call.stopped:
            reply: Reply = self._calls.failure(call, asyncio.CancelledError()), True
        else:
            if call.upload is not None and call.gathered is None:
                call.request.incoming = call.upload
            reply = await run_async(self._calls.answering(call, on_loop=True))
        rendered, failed = reply
        if type(rendered[2]) is bytes:
            call.interrupt = None
            self._owner.answered(call, rendered, failed)
            self._owner.proceed()
        elif is_async(rendered[2]):
            await self._streams.in_task(call, rendered)
        else:
            call.interrupt = None
            self._streams.begin(call, rendered, contextvars.copy_context())

    def close(self) -> None: ...

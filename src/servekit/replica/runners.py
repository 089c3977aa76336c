"""The ways to run one call: on the main thread, in another thread, in a task. `batches.py` has those for batches.

Each call runs in a copy of the context in which the replica was built, and the pieces of its answer in that copy.
"""

from __future__ import annotations

import asyncio
import contextvars

from servekit.replica.answer_streams import AnswerStreams, MainThreadAnswer, TaskAnswer, ThreadAnswer
from servekit.replica.flow import run_async
from servekit.replica.handler_calls import Reply
from servekit.replica.open_call import OpenCall
from servekit.replica.render import is_async


class CallRunner:
    """Has one method for each way. A method is called on the data loop, which is marked as not running meanwhile, for
    a call that a slot is free for; the executor is told what comes of the call."""

    def __init__(self, streams: AnswerStreams, context: contextvars.Context) -> None:
        """``context``: to be copied for each call."""
        self._executor = streams.executor
        self._calls = streams.calls
        self._streams = streams
        self._context = context

    def inline(self, call: OpenCall) -> None:
        """A ``def`` where there is one slot: on the main thread, at once, and to the last piece of its answer."""
        context = self._context.copy()
        rendered, failed = context.run(self._calls.answer, call)
        body = rendered[2]
        if type(body) is bytes:
            self._executor.answered(call, rendered, failed)
            return
        self._executor.hold(call)
        if is_async(body):
            self._streams.reply(call, (rendered, failed), context)
        else:
            MainThreadAnswer(self._streams, call, rendered, context)

    def in_thread(self, call: OpenCall) -> None:
        """A ``def`` where there are several slots: in a thread, which makes the pieces of the answer as well."""
        self._executor.hold(call)
        context = self._context.copy()
        self._streams.threads.submit(lambda: self._in_thread(call, context))

    def _in_thread(self, call: OpenCall, context: contextvars.Context) -> None:
        reply: Reply = context.run(self._calls.answer, call)
        body = reply[0][2]
        if type(body) is bytes or is_async(body):
            self._streams.mailbox.post(lambda: self._streams.reply(call, reply, context))
        else:
            context.run(ThreadAnswer(self._streams, call, reply[0]).make)

    def in_task(self, call: OpenCall) -> None:
        """An ``async def``, and whatever an adapter that `is_async` calls: in a task on the data loop."""
        self._executor.hold(call)
        self._context.run(self._streams.loop.create_task, self._in_task(call))

    async def _in_task(self, call: OpenCall) -> None:
        # A task that is cancelled before its first step does not even begin: so until then nobody knows of it.
        task = asyncio.current_task()
        assert task is not None
        call.interrupt = task.cancel
        if call.stopped:
            reply = self._calls.failure(call, asyncio.CancelledError()), True
        else:
            reply = await run_async(self._calls.answering(call, on_loop=True))
        if is_async(reply[0][2]):
            await TaskAnswer(self._streams, call, reply[0]).make()
        else:
            call.interrupt = None
            self._streams.reply(call, reply)

"""The ways to run one call: on the main thread, in another thread, in a task. `batch_runner.py` has that for batches.

Each call runs in a copy of the context in which the replica was built, and the pieces of its answer in that copy.
"""

from __future__ import annotations

import asyncio
import contextvars
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

from servekit.replica.answer_streams import AnswerStreams
from servekit.replica.flow import run_async
from servekit.replica.handler_calls import HandlerCalls
from servekit.replica.open_call import OpenCall
from servekit.replica.render import Rendered, is_async

if TYPE_CHECKING:
    from servekit.replica.executor import Executor


W = TypeVar("W")


class Runner(ABC, Generic[W]):
    """A way to run what waits for a slot: a call, or a group of calls. Chosen once for each handler, by what it is."""

    def __init__(
        self, executor: Executor, calls: HandlerCalls, streams: AnswerStreams, context: contextvars.Context
    ) -> None:
        """``context``: to be copied for each call, and never entered itself."""
        self._executor = executor
        self._calls = calls
        self._streams = streams
        self._context = context

    @abstractmethod
    def begin(self, waiting: W) -> None:
        """Run it; there is a slot. Called on the data loop, which is marked as not running meanwhile.

        The executor is told what comes of it.
        """


class InlineRunner(Runner[OpenCall]):
    """A ``def`` where there is one slot: on the main thread, at once, and to the last piece of its answer."""

    def begin(self, call: OpenCall) -> None:
        context = self._context.copy()
        rendered, failed = context.run(self._calls.answer, call)
        body = rendered[2]
        if type(body) is bytes:
            self._executor.answered(call, rendered, failed)
            return
        self._executor.hold(call)
        if is_async(body):
            self._streams.begin(call, rendered, context)
        else:
            self._streams.on_main_thread(call, rendered, context)


class ThreadRunner(Runner[OpenCall]):
    """A ``def`` where there are several slots: each call in a thread, which makes the pieces of its answer as well."""

    def begin(self, call: OpenCall) -> None:
        self._executor.hold(call)
        context = self._context.copy()
        self._streams.threads.submit(lambda: context.run(self._run, call))

    def _run(self, call: OpenCall) -> None:
        rendered, failed = self._calls.answer(call)
        post, body = self._streams.mailbox.post, rendered[2]
        if type(body) is bytes:
            post(lambda: self._answered(call, rendered, failed))
        elif is_async(body):
            context = contextvars.copy_context()
            post(lambda: self._streams.begin(call, rendered, context))
        else:
            self._streams.in_thread(call, rendered)

    def _answered(self, call: OpenCall, rendered: Rendered, failed: bool) -> None:
        self._executor.answered(call, rendered, failed)
        self._executor.proceed()


class TaskRunner(Runner[OpenCall]):
    """An ``async def``, and whatever an adapter that `is_async` calls: each call in a task on the data loop."""

    def begin(self, call: OpenCall) -> None:
        self._executor.hold(call)
        self._context.run(self._streams.loop.create_task, self._run(call))

    async def _run(self, call: OpenCall) -> None:
        # A task that is cancelled before its first step does not even begin: so until then nobody knows of it.
        task = asyncio.current_task()
        assert task is not None
        call.interrupt = task.cancel
        if call.stopped:
            rendered, failed = self._calls.failure(call, asyncio.CancelledError()), True
        else:
            rendered, failed = await run_async(self._calls.answering(call, on_loop=True))
        if is_async(rendered[2]):
            await self._streams.in_task(call, rendered)
            return
        call.interrupt = None
        if type(rendered[2]) is bytes:
            self._executor.answered(call, rendered, failed)
            self._executor.proceed()
        else:
            self._streams.begin(call, rendered, contextvars.copy_context())

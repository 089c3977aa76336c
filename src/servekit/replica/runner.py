"""Runs calls beside the executor's turns: in threads, where they would block the data loop, and in tasks on it.

Each runs in a copy of the context in which the replica was built, and the pieces of an answer in that of its handler.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Protocol

from servekit.replica.batch_call import BatchCall
from servekit.replica.call import Job
from servekit.replica.calling import Caller, Reply
from servekit.replica.incoming import IncomingStream
from servekit.replica.joining import Joiner
from servekit.replica.render import Rendered, is_async
from servekit.replica.streaming import stream, stream_async
from servekit.replica.threads import Threads
from servekit.wire.mailbox import Mailbox


class Owner(Protocol):
    """Who is told, on the data loop, how calls ended."""

    def answered(self, job: Job, reply: Reply) -> None: ...

    def streamed(self, job: Job, complete: bool) -> None: ...

    def batch_handled(self, call: BatchCall) -> None: ...


class Runner:
    """Its methods are called on the data loop, but those that say otherwise."""

    def __init__(self, caller: Caller, owner: Owner, threads: int) -> None:
        self._caller = caller
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._threads = Threads(threads)
        self.mailbox = Mailbox(self._loop)
        self._joiner = Joiner(self._loop)
        self.context = contextvars.copy_context()
        """To be copied for each call, and never entered itself."""

    def begin_thread(self, job: Job) -> None:
        context = self.context.copy()
        self._threads.submit(lambda: context.run(self._in_thread, job))

    def begin_task(self, job: Job) -> None:
        self.context.run(self._loop.create_task, self._in_task(job))

    def begin_batch_task(self, call: BatchCall) -> None:
        call.context.run(self._loop.create_task, self._batch_in_task(call))

    def stream(self, job: Job, rendered: Rendered) -> None:
        """Make and send an answer's pieces, in the current context."""
        if is_async(rendered[2]):
            self._loop.create_task(self._pieces_in_task(job, rendered))
        else:
            context = contextvars.copy_context()
            self._threads.submit(lambda: context.run(self._pieces_in_thread, job, rendered))

    def close(self) -> None:
        self._threads.close()

    # -- in a thread ---------------------------------------------------------------------------------------------

    def _in_thread(self, job: Job) -> None:
        if isinstance(job.body, IncomingStream):
            job.request.incoming = job.body.as_file()
        reply = self._caller.call(job)
        body = reply[0][2]
        if type(body) is bytes:
            self.mailbox.post(lambda: self._owner.answered(job, reply))
        elif is_async(body):
            context = contextvars.copy_context()
            self.mailbox.post(lambda: context.run(self._owner.answered, job, reply))
        else:
            self._pieces_in_thread(job, reply[0])

    def _pieces_in_thread(self, job: Job, rendered: Rendered) -> None:
        found = stream(job, rendered, self.mailbox.post, self._joiner, self._caller.failure)
        self.mailbox.post(lambda: self._over(job, found))

    # -- in a task -----------------------------------------------------------------------------------------------
    # A task that is cancelled before its first step does not even begin: so until then nobody knows of it.

    async def _in_task(self, job: Job) -> None:
        job.task = asyncio.current_task()
        if job.stopped:
            reply: Reply = self._caller.failure(job, asyncio.CancelledError()), True
        else:
            if job.body is not None:
                job.request.incoming = job.body
            reply = await self._caller.call_async(job)
        if is_async(reply[0][2]):
            await self._pieces_in_task(job, reply[0])
        else:
            job.task = None
            self._owner.answered(job, reply)

    async def _pieces_in_task(self, job: Job, rendered: Rendered) -> None:
        job.task = asyncio.current_task()
        found = await stream_async(job, rendered, self._joiner, self._caller.failure)
        job.task = None
        self._over(job, found)

    async def _batch_in_task(self, call: BatchCall) -> None:
        batch = call.batch
        batch.task = asyncio.current_task()
        await self._caller.call_batch_async(call)
        batch.task = None
        call.context = contextvars.copy_context()  # That of a task is a copy.
        self._owner.batch_handled(call)

    def _over(self, job: Job, found: bool | Reply) -> None:
        if isinstance(found, bool):
            self._owner.streamed(job, found)
        else:
            self._owner.answered(job, found)

"""Calls a backend's handler, for one request or a batch, and makes bytes of what it answers.

What is here has no loop and holds no slot: it is called on the data loop, in threads and in tasks alike, each time in a
`contextvars.Context` of its own, so that what a handler sets in it is gone with the call.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from typing import TypeAlias

from servekit.context import Context, current_call
from servekit.errors import InvalidInputError
from servekit.interfaces import RequestAdapter, Response
from servekit.replica import invoke
from servekit.replica.batch_call import BatchCall
from servekit.replica.call import Batch, Job
from servekit.replica.render import Rendered, close_body, render, text

_log = logging.getLogger("servekit.replica")

Reply: TypeAlias = tuple[Rendered, bool]
"""What a call is answered with, and whether its handler failed."""


class Caller:
    """Calls the handler of one replica."""

    def __init__(
        self, backend: str, replica: str, adapter: RequestAdapter, debug: bool, clock: Callable[[], float]
    ) -> None:
        self._backend = backend
        self._replica = replica
        self._alone = (replica,)
        self._adapter = adapter
        self._debug = debug
        self._clock = clock

    def call(self, job: Job) -> Reply:
        """Answer one request; whatever goes wrong is in the reply."""
        request, handler = job.request, job.entry.blocking
        try:
            if handler is None or (job.entry.name is not None and self._adapter.whole_application):
                return self._no_method(job)
            self._enter(job, 1)
            if request.chain is None:
                return _reply(job, self._adapter.call(handler, request))
            return _reply(job, invoke.answer(self._adapter, handler, request))
        except BaseException as error:
            # SystemExit too, or a stray CancelledError: the handler is at fault, and its replica must live.
            return self.failure(job, error), True

    async def call_async(self, job: Job) -> Reply:
        """The same in a task, for handlers that run on the loop."""
        request, handler, adapter = job.request, job.entry.handler, self._adapter
        if request.chain is None and not job.entry.is_coroutine and not adapter.is_async:
            return self.call(job)  # An async generator function: it gives an iterator at once.
        try:
            if handler is None or (job.entry.name is not None and adapter.whole_application):
                return self._no_method(job)
            self._enter(job, 1)
            if request.chain is None:
                return _reply(job, await adapter.call_async(handler, request))
            return _reply(job, await invoke.answer_async(adapter, handler, request))
        except BaseException as error:
            return self.failure(job, error), True

    def call_batch(self, call: BatchCall) -> None:
        """Call the handler for a batch; `batch_replies` has what came of it."""
        self._enter_batch(call)
        try:
            if call.asked:
                call.call()
        except BaseException as error:
            call.error = error

    async def call_batch_async(self, call: BatchCall) -> None:
        """The same in a task, for an ``async def``."""
        self._enter_batch(call)
        try:
            if call.asked:
                await call.call_async()
        except BaseException as error:
            call.error = error

    def batch_replies(self, call: BatchCall) -> Iterator[tuple[Job, Reply]]:
        """One for each request of the batch."""
        if call.error is not None:
            yield from self._batch_failure(call.batch, call.error)
            return
        for job, item in call.items():
            try:
                yield job, _reply(job, call.response(job, item))
            except BaseException as error:
                yield job, (self.failure(job, error), True)

    def _enter(self, job: Job, batch_size: int) -> None:
        request = job.request
        chain = self._alone if request.chain is None else (*request.chain, self._replica)
        current_call.set(
            Context(self._backend, self._replica, request.endpoint, request.id, batch_size, job.expires, chain)
        )

    def _enter_batch(self, call: BatchCall) -> None:
        call.begin(self._clock())
        self._enter((call.asked or call.batch.jobs)[0], len(call.asked))

    # -- what went wrong -----------------------------------------------------------------------------------------

    def failure(self, job: Job, error: BaseException) -> Rendered:
        """Log it, and say so to the client."""
        request = job.request
        what = f"backend {self._backend!r}: {request.method} {request.path} of endpoint {request.endpoint!r}"
        if job.stopped:
            _log.info("%s was given up: %s (request id %s)", what, job.stopped, request.id)
            return (500, *text("Internal Server Error: given up."), None)
        trace = "".join(traceback.format_exception(error))
        _log.error("%s failed (request id %s)\n%s", what, request.id, trace.rstrip())
        return self._apology(job, error, trace)

    def _batch_failure(self, batch: Batch, error: BaseException) -> Iterator[tuple[Job, Reply]]:
        trace = "".join(traceback.format_exception(error))
        if all(job.stopped for job in batch.jobs):
            _log.info("backend %r: a batch of %d was given up: nobody waits for it", self._backend, len(batch.jobs))
        else:
            ids = ", ".join(job.request.id for job in batch.jobs)
            _log.error("backend %r: a batch failed (request ids %s)\n%s", self._backend, ids, trace.rstrip())
        for job in batch.jobs:
            yield job, (self._apology(job, error, trace), True)

    def _apology(self, job: Job, error: BaseException, trace: str) -> Rendered:
        if job.request.chain is not None:
            return render(invoke.failure_of(error))
        message = (
            f"Internal Server Error: backend {self._backend!r} failed on this request. "
            f"The traceback is in the replica's log, beside the request id {job.request.id}."
        )
        return (500, *text(f"{message}\n\n{trace}" if self._debug else message), None)

    def _no_method(self, job: Job) -> Reply:
        name = job.entry.name
        if self._adapter.whole_application:
            message = (
                f"backend {self._backend!r} is a whole application: nothing of it can be called by name ({name!r})"
            )
        else:
            message = f"the target of backend {self._backend!r} has no method {name!r}"
        if job.request.chain is not None:
            return render(invoke.failure_of(InvalidInputError(message))), True
        return (400, *text(f"Bad Request: {message}."), None), True


def _reply(job: Job, response: Response) -> Reply:
    request = job.request
    try:
        rendered = render(response, request.upgrade, request.method == "HEAD")
        return rendered, request.chain is not None and response.status >= 500
    except BaseException:
        close_body(response.body)
        raise

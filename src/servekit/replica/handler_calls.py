"""Calls a backend's handler, for one request or a batch, and makes bytes of what it answers.

What is here has no loop and holds no slot: it is called on the data loop, in threads and in tasks alike, each time in a
`contextvars.Context` of its own, so that what a handler sets in it is gone with the call.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

from servekit.context import Context, current_call
from servekit.errors import InvalidInputError
from servekit.interfaces import RequestAdapter, Response
from servekit.replica import invocations
from servekit.replica.batch import Batch
from servekit.replica.flow import Flow, run
from servekit.replica.open_call import OpenCall
from servekit.replica.render import Rendered, close_body, render, text

_log = logging.getLogger("servekit.replica")

Reply: TypeAlias = tuple[Rendered, bool]
"""What a call is answered with, and whether its handler failed."""


class HandlerCalls:
    """Those of one replica."""

    def __init__(
        self, backend: str, replica: str, adapter: RequestAdapter, debug: bool, clock: Callable[[], float]
    ) -> None:
        self._backend = backend
        self._replica = replica
        self._alone = (replica,)
        self._adapter = adapter
        self._debug = debug
        self._clock = clock

    def answer(self, call: OpenCall) -> Reply:
        """Answer one request by a ``def``; whatever goes wrong is in the reply.

        What comes by HTTP stands here beside `answering`: a flow would cost each call two more steps.
        """
        request, entry = call.request, call.entry
        handler = entry.blocking
        if request.chain is not None or handler is None or entry.name is not None:
            return run(self.answering(call, on_loop=False))
        response = None
        try:
            expires = call.expires
            context = Context(self._backend, self._replica, request.endpoint, request.id, 1, expires, self._alone)
            current_call.set(context)
            response = self._adapter.call(handler, request)
            return render(response, request.upgrade, request.method == "HEAD"), False
        except BaseException as error:
            # SystemExit too, or a stray CancelledError: the handler is at fault, and its replica must live.
            return self._failed(call, response, error)

    def answering(self, call: OpenCall, *, on_loop: bool) -> Flow[Reply]:
        """As `answer`; ``on_loop``: in a task, for whatever runs in one."""
        request, entry, adapter, response = call.request, call.entry, self._adapter, None
        handler = entry.handler if on_loop else entry.blocking
        try:
            if handler is None or (entry.name is not None and adapter.whole_application):
                return self._no_method(call)
            self._enter(call, 1)
            if request.chain is not None:
                response = yield from invocations.answering(adapter, handler, request, on_loop=on_loop)
            elif on_loop and (entry.is_coroutine or adapter.is_async):
                response = yield partial(adapter.call_async, handler, request)
            else:  # By an async generator function, too: it gives an iterator at once.
                response = yield partial(adapter.call, handler, request)
            rendered = render(response, request.upgrade, request.method == "HEAD")
            return rendered, request.chain is not None and response.status >= 500
        except BaseException as error:
            return self._failed(call, response, error)

    def calling(self, batch: Batch) -> Flow[None]:
        """Call the handler for a batch; `batch_replies` has what came of it."""
        batch.begin(self._clock())
        self._enter((batch.asked or batch.calls)[0], len(batch.asked))
        try:
            if batch.asked:
                yield from batch.calling()
        except BaseException as error:
            batch.error = error

    def batch_replies(self, batch: Batch) -> Iterator[tuple[OpenCall, Reply]]:
        """One for each request of the batch."""
        if batch.error is not None:
            yield from self._batch_failure(batch, batch.error)
            batch.error = None  # It leads to the frames that lead to the batch.
            return
        for call, item in batch.items():
            yield call, self._item_reply(batch, call, item)

    def _item_reply(self, batch: Batch, call: OpenCall, item: object) -> Reply:
        request, response = call.request, None
        try:
            response = batch.response(call, item)
            rendered = render(response, request.upgrade, request.method == "HEAD")
            return rendered, request.chain is not None and response.status >= 500
        except BaseException as error:
            return self._failed(call, response, error)

    def _enter(self, call: OpenCall, batch_size: int) -> None:
        request = call.request
        chain = self._alone if request.chain is None else (*request.chain, self._replica)
        current_call.set(
            Context(self._backend, self._replica, request.endpoint, request.id, batch_size, call.expires, chain)
        )

    # -- what went wrong -----------------------------------------------------------------------------------------

    def _failed(self, call: OpenCall, response: Response | None, error: BaseException) -> Reply:
        """``response``: what could not go out, where there is one. It is closed."""
        try:
            close_body(getattr(response, "body", None))
        except BaseException as of_close:
            return self.failure(call, of_close), True
        return self.failure(call, error), True

    def failure(self, call: OpenCall, error: BaseException) -> Rendered:
        """Log it, and say so to the client."""
        request = call.request
        what = f"backend {self._backend!r}: {request.method} {request.path} of endpoint {request.endpoint!r}"
        if call.stopped:
            _log.info("%s was given up: %s (request id %s)", what, call.stopped, request.id)
            return (500, *text("Internal Server Error: given up."), None)
        trace = "".join(traceback.format_exception(error))
        _log.error("%s failed (request id %s)\n%s", what, request.id, trace.rstrip())
        return self._apology(call, error, trace)

    def _batch_failure(self, batch: Batch, error: BaseException) -> Iterator[tuple[OpenCall, Reply]]:
        trace = "".join(traceback.format_exception(error))
        if all(call.stopped for call in batch.calls):
            _log.info("backend %r: a batch of %d was given up: nobody waits for it", self._backend, len(batch.calls))
        else:
            ids = ", ".join(call.request.id for call in batch.calls)
            _log.error("backend %r: a batch failed (request ids %s)\n%s", self._backend, ids, trace.rstrip())
        for call in batch.calls:
            yield call, (self._apology(call, error, trace), True)

    def _apology(self, call: OpenCall, error: BaseException, trace: str) -> Rendered:
        if call.request.chain is not None:
            return render(invocations.failure_of(error))
        message = (
            f"Internal Server Error: backend {self._backend!r} failed on this request. "
            f"The traceback is in the replica's log, beside the request id {call.request.id}."
        )
        return (500, *text(f"{message}\n\n{trace}" if self._debug else message), None)

    def _no_method(self, call: OpenCall) -> Reply:
        name = call.entry.name
        if self._adapter.whole_application:
            message = (
                f"backend {self._backend!r} is a whole application: nothing of it can be called by name ({name!r})"
            )
        else:
            message = f"the target of backend {self._backend!r} has no method {name!r}"
        if call.request.chain is not None:
            return render(invocations.failure_of(InvalidInputError(message))), True
        return (400, *text(f"Bad Request: {message}."), None), True

"""Calls a backend's handler, for one request or a batch, and makes bytes of the answers.

Nothing here has a loop or holds a slot: the data loop, threads and tasks alike call it, each time in a
`contextvars.Context` of its own, so that the context variables that a handler sets are gone with the call.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

from servekit.config import nearest
from servekit.context import Context, current_call
from servekit.error_answers import ErrorAnswer
from servekit.errors import InvalidInputError, ResultError
from servekit.interfaces import Request, RequestAdapter, Response
from servekit.replica import invocations
from servekit.replica.failures import FailureCollector
from servekit.replica.flow import Flow, run
from servekit.replica.open_call import OpenCall
from servekit.replica.render import Rendered, close_body, render
from servekit.traces import TRACEPARENT, text_of, trace_id_of

_log = logging.getLogger("servekit.replica")

Reply: TypeAlias = tuple[Rendered, bool]
"""The answer to a call, and whether the handler failed."""


class HandlerCalls:
    """The calls of one replica's handler."""

    def __init__(
        self,
        backend: str,
        replica: str,
        adapter: RequestAdapter,
        debug: bool,
        clock: Callable[[], float] = time.perf_counter,
        rank: int = 0,
        failures: FailureCollector | None = None,
    ) -> None:
        """``debug``: clients are sent the tracebacks of errors. ``failures`` hears of each."""
        self.backend = backend
        self._replica = replica
        self._alone = (replica,)
        self.adapter = adapter
        self._debug = debug
        self.clock = clock
        self._rank = rank
        self._failures = failures or FailureCollector()

    def answer(self, call: OpenCall) -> Reply:
        """Answer one request by a ``def``. An error is part of the reply.

        A request by HTTP is answered here, and not by `answering`: a flow would cost each call two more steps.
        """
        request, entry = call.request, call.entry
        handler = entry.blocking
        if request.chain is not None or handler is None or entry.name is not None:
            return run(self.answering(call, on_loop=False))
        response = None
        try:
            expires = call.expires
            context = Context(
                self.backend,
                self._replica,
                request.endpoint,
                request.id,
                1,
                expires,
                self._alone,
                self._rank,
                request.headers,
                request.shadow,
            )
            current_call.set(context)
            response = (entry.adapter or self.adapter).call(handler, request)
            return render(response, request.upgrade, request.method == "HEAD"), False
        except BaseException as error:
            # SystemExit too, or a stray CancelledError: the handler is at fault, and its replica must live.
            return self._failed(call, response, error)

    def answering(self, call: OpenCall, *, on_loop: bool) -> Flow[Reply]:
        """As `answer`; ``on_loop``: in a task, for a handler that runs in one."""
        request, entry, response = call.request, call.entry, None
        adapter = entry.adapter or self.adapter
        handler = entry.handler if on_loop else entry.blocking
        try:
            if handler is None or (entry.name is not None and adapter.whole_application):
                return self._no_method(call)
            self.enter(call, 1)
            if request.chain is not None:
                response = yield from invocations.answering(
                    adapter, handler, request, partial(self._tell, call), on_loop=on_loop
                )
            elif on_loop and (entry.is_coroutine or adapter.is_async):
                response = yield partial(adapter.call_async, handler, request)
            else:  # An async generator function is called as well: it returns its iterator at once.
                response = yield partial(adapter.call, handler, request)
            return _reply(request, response)
        except BaseException as error:
            return self._failed(call, response, error)

    def item_reply(self, call: OpenCall, item: Any) -> Reply:
        """Answer a call that shared a batch, as if the handler had returned ``item``, or raised it, for this call
        alone."""
        request, response = call.request, None
        try:
            if request.chain is None:
                response = (call.entry.adapter or self.adapter).answer_item(item, request)
            elif isinstance(item, BaseException):
                self._tell(call, item)
                response = invocations.failure_of(item)
            else:
                response = invocations.response_of(item, partial(self._tell, call))
            return _reply(request, response)
        except BaseException as error:
            return self._failed(call, response, error)

    def enter(self, call: OpenCall, batch_size: int) -> None:
        """Have `servekit.get_context` tell of ``call``, which is the first one of a batch."""
        request = call.request
        chain = self._alone if request.chain is None else (*request.chain, self._replica)
        current_call.set(
            Context(
                self.backend,
                self._replica,
                request.endpoint,
                request.id,
                batch_size,
                call.expires,
                chain,
                self._rank,
                request.headers,
                request.shadow,
            )
        )

    # -- failures ------------------------------------------------------------------------------------------------

    def _failed(self, call: OpenCall, response: Response | None, error: BaseException) -> Reply:
        """``response``: the one that could not go out, where there is one. Its body is closed."""
        try:
            close_body(getattr(response, "body", None))
        except BaseException as of_close:
            return self.failure(call, of_close), True
        return self.failure(call, error), True

    def failure(self, call: OpenCall, error: BaseException) -> Rendered:
        """Log an error; returns the answer that tells the client of the error."""
        trace = self._tell(call, error)
        if call.stopped:
            return _rendered(call, ErrorAnswer("handler_failed", "given up."))
        return self._apology(call, error, trace)

    def _tell(self, call: OpenCall, error: BaseException) -> str:
        """Log an error, and count it among the failures, unless the call is given up; returns the traceback."""
        request = call.request
        what = f"{request.method} {request.path}" if request.chain is None else "a call by a handle"
        about = {
            "request_id": request.id,
            "endpoint": request.endpoint,
            "backend": self.backend,
            "replica": self._replica,
            "trace_id": trace_id_of(text_of(request.headers, TRACEPARENT)),
        }
        if call.stopped:
            _log.debug("%s was given up: %s", what, call.stopped, extra=about)
            return ""
        trace = trace_of(error)
        # Not `exc_info`: whoever keeps the record, as a test may, would keep what the handler's frames refer to.
        _log.error("%s failed\n%s", what, trace, extra={**about, "traceback": trace})
        self._failures.add("call", error, trace, endpoint=request.endpoint, request_id=request.id)
        return trace

    def batch_failure(self, calls: Sequence[OpenCall], error: BaseException) -> Iterator[tuple[OpenCall, Reply]]:
        """As `failure`, for all calls of a batch at once."""
        trace = trace_of(error)
        if all(call.stopped for call in calls):
            _log.debug("a batch of %d was given up: nobody waits for it", len(calls))
        else:
            ids = ", ".join(call.request.id for call in calls)
            _log.error("a batch failed, of the requests %s\n%s", ids, trace, extra={"traceback": trace})
            last = calls[-1].request
            count = len(calls)
            self._failures.add("call", error, trace, endpoint=last.endpoint, request_id=last.id, count=count)
        for call in calls:
            yield call, (self._apology(call, error, trace), True)

    def _apology(self, call: OpenCall, error: BaseException, trace: str) -> Rendered:
        if call.request.chain is not None:
            return render(invocations.failure_of(error))
        kind, what = "handler_failed", ""
        if isinstance(error, ResultError):  # It tells of what was to be the answer, and so of nothing secret.
            kind, what = "bad_result", f": {str(error).rstrip('.')}"
        message = (
            f"backend {self.backend!r} failed on this request{what}. "
            f"The traceback is in the replica's log, beside the request id {call.request.id}."
        )
        return _rendered(call, ErrorAnswer(kind, f"{message}\n\n{trace}\n" if self._debug else message))

    def _no_method(self, call: OpenCall) -> Reply:
        name = call.entry.name
        if self.adapter.whole_application:
            message = f"backend {self.backend!r} is a whole application: nothing of it can be called by name ({name!r})"
        elif name is None:
            message = (
                f"the target of backend {self.backend!r} has no __call__: name one of its methods, by the header "
                "X-Serve-Call-Method, or by handle.options('method')"
            )
        else:
            message = call.entry.problem or f"the target of backend {self.backend!r} has no method {name!r}"
        if call.request.chain is not None:  # HTTP clients are not told of methods that are not theirs to call.
            known = call.entry.methods and nearest(name or "", call.entry.methods)
            return render(invocations.failure_of(InvalidInputError(f"{message}{known or ''}"))), True
        return _rendered(call, ErrorAnswer("method_not_callable", f"{message}.")), True


def trace_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


def _rendered(call: OpenCall, answer: ErrorAnswer) -> Rendered:
    return (answer.status, *answer.render(call.request.headers, call.request.id), None)


def _reply(request: Request, response: Response) -> Reply:
    rendered = render(response, request.upgrade, request.method == "HEAD")
    return rendered, request.chain is not None and response.status >= 500

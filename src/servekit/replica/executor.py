"""Runs a replica's handler, in at most so many calls at a time as the backend has slots.

With one slot, a sync handler is called on the data loop, in the main thread, with no thread hop, which is the fastest
way there is; between calls the loop gets its turn, so that cancels are read and answers leave. What would block the
loop runs in a thread: calls whose body is still arriving, answers that are made piece by piece, and every call where
there are more slots.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable

from servekit.interfaces import RequestAdapter
from servekit.replica.call import Job
from servekit.replica.incoming import IncomingStream
from servekit.replica.outgoing import LongBody
from servekit.replica.render import Rendered, close_body, render, text
from servekit.replica.streaming import stream
from servekit.replica.target import Handlers
from servekit.replica.threads import Mailbox, Threads
from servekit.wire.frames import PIECE_BYTES, Answer, Call, Chunk, Credit, End, Refusal
from servekit.wire.link import Link

_log = logging.getLogger("servekit.replica")
_clock = time.perf_counter

TURN_S = 100e-6
"""An answer waits no longer than this for its neighbours to leave by the same write."""
TOLD_ABOVE_US = 1000.0
"""Mean service time above which ingress workers are told of each other's calls; below it, telling costs too much."""
UNSENT_BYTES = 64 * 1024 * 1024
"""No call begins while the bodies of ended calls that their readers have not taken are longer than this together."""


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
    ) -> None:
        """
        Args:
            idle: called whenever nothing is left to do.
            tell_load: tells every ingress worker how many calls are here; False where there is only one, who knows.
        """
        self._backend = backend
        self._handlers = handlers
        self._adapter = adapter
        self._slots = slots
        self._debug = debug
        self._idle = idle
        self._tell_load = tell_load
        self._told_load = 0
        self._mean_us = 0.0
        self._loop = asyncio.get_running_loop()
        self._mailbox = Mailbox(self._loop)
        self._threads = Threads(slots)
        self._waiting: deque[Job] = deque()
        self._open: dict[tuple[Link, int], Job] = {}
        """Those that frames may still come for: with a body to arrive, in a thread, or with a body to go out."""
        self._in_threads: set[Job] = set()
        self._unsent_bytes = 0
        self._turn_planned = False
        self._inline_since = 0.0
        self.outstanding = 0
        """Calls that have come and whose handlers have not ended."""

    # -- from the links ------------------------------------------------------------------------------------------

    def submit(self, link: Link, call: Call) -> None:
        """Take a call; `run` answers it."""
        job = Job(link, call.id, call.request, _clock() + call.timeout_ms / 1000)
        self.outstanding += 1
        if call.more:
            job.body = IncomingStream(call.request.body, lambda size: self._mailbox.post(lambda: _grant(job, size)))
            self._open[link, call.id] = job
        else:
            self._waiting.append(job)

    def receive(self, link: Link, chunk: Chunk) -> None:
        """More of a call's body."""
        job = self._open.get((link, chunk.id))
        if job is None or job.body is None or job.body.ended:
            return
        job.body.feed(chunk.data)
        if not self._adapter.streams_body:
            _grant(job, len(chunk.data))
        elif job.body.window_is_full and not job.started and job not in self._waiting:
            self._waiting.append(job)

    def received(self, link: Link, end: End) -> None:
        """A call's body is over."""
        job = self._open.get((link, end.id))
        if job is None or job.body is None or job.body.ended:
            return
        job.body.end(None if end.complete else "the client is gone")
        if not job.started and job not in self._waiting:
            # All of it is here before the handler was called: a call like any other.
            job.request.body, job.body = job.body.whole(), None
            del self._open[link, end.id]
            self._waiting.append(job)

    def granted(self, link: Link, credit: Credit) -> None:
        """The reader of an answer's body has room for more."""
        job = self._open.get((link, credit.id))
        if job is None or job.sender is None:
            return
        job.sender.grant(credit.size_bytes)
        if isinstance(job.sender, LongBody):
            self._send_rest(job, job.sender)

    def cancel(self, link: Link, call_id: int) -> None:
        """Nobody waits for this call: do not begin it, or let it end early."""
        job = self._open.get((link, call_id))
        if job is None:
            job = next((job for job in self._waiting if job.link is link and job.id == call_id), None)
        if job is not None:
            self._cancel(job)

    def forget(self, link: Link) -> None:
        """The link is gone, and with it whoever waits for its calls."""
        for job in self._all_jobs():
            if job.link is link:
                self._cancel(job)

    def refuse_waiting(self) -> None:
        """The replica leaves: what has not begun goes elsewhere."""
        for job in self._all_jobs():
            if not job.started and not job.has_credit:
                self._refuse(job, "draining")

    def _all_jobs(self) -> Iterable[Job]:
        """Each once: what waits for a slot while its body still arrives is in both."""
        return dict.fromkeys([*self._waiting, *self._open.values()])

    @property
    def is_idle(self) -> bool:
        """Every call is answered, to the last byte."""
        return not self.outstanding and not self._open

    def _cancel(self, job: Job) -> None:
        if not job.started:
            self._refuse(job, "cancelled")
            return
        job.stop("nobody waits for the answer any more")
        if isinstance(job.sender, LongBody):
            self._send_rest(job, job.sender)

    # -- running -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Answer what waits, until the turn is over; then let the loop read, and go on."""
        if self._turn_planned:
            return
        turn_ends = _clock() + TURN_S
        touched: Link | None = None
        while self._waiting and self._has_room:
            job = self._waiting.popleft()
            link = job.link
            if touched is not link and touched is not None:
                touched.flush()
            touched = link
            job.started = now = _clock()
            if now >= job.expires:
                self._refuse(job, "expired")
            elif self._slots > 1 or job.body is not None:
                self._begin_in_thread(job)
            else:
                self._inline_since = now
                self._load_changed()
                answer = self._answer(job)
                self._inline_since = 0.0
                now = _clock()
                self._reply(job, *answer, now)
            if now > turn_ends and self._waiting:
                self._turn_planned = True
                self._loop.call_soon(self._next_turn)
                break
        if touched is not None:
            touched.flush()
        if self.is_idle:
            self._idle()

    def _load_changed(self) -> None:
        """A call begins or has ended. Once told of some, ingress workers are told until there are none any more."""
        load = self.outstanding
        if load != self._told_load and (self._told_load or self._mean_us > TOLD_ABOVE_US):
            self._told_load = load if self._tell_load(load) else 0

    @property
    def _has_room(self) -> bool:
        return len(self._in_threads) < self._slots and self._unsent_bytes <= UNSENT_BYTES

    def _next_turn(self) -> None:
        self._turn_planned = False
        self.run()

    @property
    def busy_since(self) -> float:
        """When the oldest call that runs now began (perf_counter); 0.0 when none runs. Safe in other threads."""
        return self._inline_since or min((job.started for job in list(self._in_threads)), default=0.0)

    def close(self) -> None:
        self._threads.close()

    # -- in a thread ---------------------------------------------------------------------------------------------

    def _begin_in_thread(self, job: Job, rendered: Rendered | None = None) -> None:
        self._in_threads.add(job)
        self._load_changed()
        self._open[job.link, job.id] = job
        # The pieces of a handler's answer are made in the context that it left.
        context = contextvars.copy_context()
        self._threads.submit(lambda: context.run(self._work, job, rendered))

    def _work(self, job: Job, rendered: Rendered | None) -> None:
        """In a thread: call the handler, if that is not done, and send what its result makes piece by piece."""
        failed = False
        if rendered is None:
            if job.body is not None:
                job.request.incoming = job.body.as_file()
            rendered, failed = self._answer(job)
        complete: bool | None = None
        if type(rendered[2]) is not bytes:
            found = stream(job, rendered, self._mailbox.post, self._failure)
            if isinstance(found, bool):
                complete = found
            else:
                rendered, failed = found
        self._mailbox.post(lambda: self._thread_done(job, rendered, failed, complete))

    def _thread_done(self, job: Job, rendered: Rendered, failed: bool, complete: bool | None) -> None:
        """Back on the loop. ``complete`` is None where nothing was sent yet."""
        self._in_threads.discard(job)
        if job.body is not None:
            job.body.end("its call is over")  # The handler may have left a thread behind that reads it.
            job.body = None
        if complete is None:
            self._reply(job, rendered, failed, _clock())
        else:
            service_us = self._handler_over(job, _clock())
            job.link.send(End(job.id, complete, self.outstanding, service_us))
        self.run()

    # -- answers -------------------------------------------------------------------------------------------------

    def _reply(self, job: Job, rendered: Rendered, failed: bool, ended: float) -> None:
        """Send an answer that is there; what is not goes to a thread."""
        status, head, body, _ = rendered
        if type(body) is not bytes:
            self._begin_in_thread(job, rendered)
            return
        service_us = self._handler_over(job, ended)
        if len(body) <= PIECE_BYTES:
            job.link.send(Answer(job.id, status, head, body, self.outstanding, service_us, failed))
            return
        sender = job.sender = LongBody(job.link, job.id, body if job.request.method != "HEAD" else b"")
        rest = len(body) - len(sender.first)
        job.link.send(Answer(job.id, status, head, sender.first, self.outstanding, service_us, failed, rest))
        self._open[job.link, job.id] = job
        self._unsent_bytes += sender.unsent_bytes
        self._send_rest(job, sender)

    def _send_rest(self, job: Job, sender: LongBody) -> None:
        """The handler is over, and so is its slot free; what it made goes out as it is read."""
        self._unsent_bytes -= sender.push()
        if not sender.unsent_bytes:
            del self._open[job.link, job.id]
            job.link.send(End(job.id, not job.stopped))

    def _handler_over(self, job: Job, ended: float) -> int:
        """Its slot is free; returns how long it took, in microseconds."""
        self._over(job)
        service_us = int((ended - job.started) * 1e6)
        self._mean_us += (service_us - self._mean_us) * 0.2
        return service_us

    def _over(self, job: Job) -> None:
        self.outstanding -= 1
        self._load_changed()
        if self._open:
            self._open.pop((job.link, job.id), None)

    def _refuse(self, job: Job, reason: str) -> None:
        self._over(job)
        if job in self._waiting:
            self._waiting.remove(job)
        job.link.send(Refusal(job.id, reason))

    def _answer(self, job: Job) -> tuple[Rendered, bool]:
        """What the handler answers, and whether it failed. In whichever thread it is called."""
        request = job.request
        name = request.call_method
        handler = self._handlers.call if name is None else self._handlers.method(name)
        if handler is None:
            message = f"Bad Request: the target of backend {self._backend!r} has no method {name!r}."
            return (400, *text(message), None), True
        try:
            response = self._adapter.call(handler, request)
            try:
                return render(response), False
            except BaseException:
                close_body(response.body)
                raise
        except BaseException as error:
            # SystemExit too, or a stray CancelledError: the handler is at fault, and its replica must live.
            return self._failure(job, error), True

    def _failure(self, job: Job, error: BaseException) -> Rendered:
        request = job.request
        what = f"backend {self._backend!r}: {request.method} {request.path} of endpoint {request.endpoint!r}"
        if job.stopped:
            _log.info("%s was given up: %s (request id %s)", what, job.stopped, request.id)
            return (500, *text("Internal Server Error: given up."), None)
        trace = "".join(traceback.format_exception(error))
        _log.error("%s failed (request id %s)\n%s", what, request.id, trace.rstrip())
        message = (
            f"Internal Server Error: backend {self._backend!r} failed on this request. "
            f"The traceback is in the replica's log, beside the request id {request.id}."
        )
        return (500, *text(f"{message}\n\n{trace}" if self._debug else message), None)


def _grant(job: Job, size_bytes: int) -> None:
    job.has_credit = True
    job.link.send(Credit(job.id, size_bytes))

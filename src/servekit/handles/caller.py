"""Sends the calls of one process's handles to the ingress workers, and brings the answers back.

All links live on one event loop, in another thread than that in which a handler or a script waits for a result.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence

from servekit.errors import DeadlineError, LinkError, NotRunningError, UnavailableError
from servekit.handles.call import RemoteCall
from servekit.handles.future import CallFuture
from servekit.wire.data_frames import Answer, End, Invoke
from servekit.wire.data_links import DataLinks
from servekit.wire.mailbox import Mailbox
from servekit.wire.outgoing_calls import OutgoingCalls

_log = logging.getLogger("servekit.handles")

MOST_WAITING = 10_000
"""How many calls may wait for a link with room."""
CLOSE_TIMEOUT_S = 5.0


class IngressLink:
    """A caller's link to one ingress worker: dialled, and dialled again. It is the `CallsOwner` of the calls on it."""

    def __init__(self, caller: Caller, links: DataLinks, addresses: list[str], mailbox: Mailbox) -> None:
        self.addresses = addresses
        self.calls: OutgoingCalls[RemoteCall] = OutgoingCalls(self, mailbox.post)
        self._caller = caller
        self._leaving = False
        self._retired = False
        self._task = asyncio.ensure_future(self._keep(links))

    @property
    def is_open(self) -> bool:
        return self.calls.link is not None and self.calls.link.writable

    @property
    def load(self) -> tuple[int, int]:
        """How many calls the ingress worker has; and where others have as many, how many calls it has had."""
        return len(self.calls.pending), self.calls.made

    @property
    def takes_new(self) -> bool:
        """False: the ingress worker is to end, and takes only the calls of handlers whose answers it waits for."""
        return not self._leaving and not self._retired

    def retire(self) -> None:
        """The ingress worker has left the instance. It may still answer the calls that it has."""
        self._retired = True
        if not self.calls.pending:
            self._task.cancel()
            self._close()

    async def close(self, error: Exception) -> None:
        """Let go of the link; its calls fail with ``error``."""
        self._retired = True
        self._task.cancel()
        for call in self.calls.forget_all().values():
            call.fail(error)
        self._close()
        await asyncio.gather(self._task, return_exceptions=True)

    def _close(self) -> None:
        if self.calls.link is not None:
            self.calls.link.close()

    async def _keep(self, links: DataLinks) -> None:
        def note(error: OSError | None) -> None:
            if error is not None:
                _log.info("the ingress worker at %s cannot be reached: %s", ", ".join(self.addresses), error)

        def companion() -> list[str]:
            # An ingress worker takes companions where it takes links, for nothing blocks its loop.
            return [] if self.addresses[0].startswith("unix:") else self.addresses

        await self.calls.keep_linked(
            links, lambda: self.addresses, wanted=lambda: not self._retired, tried=note, companion=companion
        )

    # -- CallsOwner --------------------------------------------------------------------------------------------------

    def link_opened(self) -> None:
        if self._retired:
            self._close()
            return
        self._leaving = False
        self._caller.links_changed()

    def link_writable(self) -> None:
        self._caller.links_changed()

    def answered(self, call: RemoteCall, answer: Answer) -> None:
        call.answered(answer)

    def begun(self, call: RemoteCall, answer: Answer) -> None:
        call.begun(answer)

    def ended(self, call: RemoteCall, end: End) -> None:
        call.over(complete=end.complete)

    def refused(self, call: RemoteCall, reason: str) -> None:
        self._leaving = True
        self._caller.send(call)

    def answers_done(self) -> None:
        if self._retired and not self.calls.pending:
            self._close()

    def load_told(self, queue_length: int) -> None:
        """An ingress worker sends no `Load`."""

    def peer_leaves(self) -> None:
        self._leaving = True

    def lost(self, calls: Sequence[tuple[RemoteCall, bool]]) -> None:
        for call, sent in calls:
            if sent:
                endpoint = call.invoke.endpoint
                call.fail(
                    LinkError(
                        f"the ingress worker that had this call of endpoint {endpoint!r} is gone; "
                        "whether the handler was called is not known"
                    )
                )
        for call, sent in calls:
            if not sent:
                self._caller.send(call)


class Caller:
    """The caller of one process. ``call``, ``set_ingresses`` and ``close`` may be called in any thread but the loop's
    own."""

    def __init__(
        self,
        token: bytes,
        name: str,
        loop: asyncio.AbstractEventLoop,
        ingresses: Sequence[list[str]] = (),
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            name: the name of this process at the other ends.
            loop: runs in another thread. Needed from the first call on, and until `close` has returned.
            ingresses: the addresses of each ingress worker.
            closed: called at the end of `close`.
        """
        self._data_links = DataLinks(token, name)
        self._loop = loop
        self._closed_too = closed
        self._mailbox = Mailbox(loop)
        self._ingresses = [list(addresses) for addresses in ingresses]
        self._links: dict[str, IngressLink] = {}
        self._retired: list[IngressLink] = []
        """Links to ingress workers that have left, and may still answer."""
        self._dialled = False
        self._waiting: deque[RemoteCall] = deque()
        self._lock = threading.Lock()
        self._closed: Exception | None = None
        self._pid = os.getpid()
        self.in_child: Callable[[], Caller] | None = None
        """Gives the caller for the child of a fork, where the loop's thread is not; None: a child has none."""

    # -- from other threads --------------------------------------------------------------------------------------

    def call(self, invoke: Invoke, payload: bytes, timeout_s: float) -> CallFuture:
        """Send a call. ``timeout_s``: how long the call may wait for an ingress worker to be there."""
        if not self.is_here:
            if self.in_child is not None:
                return self.in_child().call(invoke, payload, timeout_s)
            raise NotRunningError(
                "this process was forked from the one that the handle is of, and has no links; get a handle here, "
                "by servekit.init(address='auto') and servekit.get_handle"
            )
        call = RemoteCall(invoke, payload, timeout_s, self._abandon)
        future = call.future
        assert future is not None
        with self._lock:
            closed = self._closed
            if closed is None:
                self._mailbox.post(lambda: self._begin(call))
        if closed is not None:
            call.fail(closed)
        return future

    @property
    def is_here(self) -> bool:
        """Whether the caller was made in this process, which is then no fork of that process."""
        return os.getpid() == self._pid

    def set_ingresses(self, ingresses: Sequence[list[str]]) -> None:
        """Use the ingress workers at these addresses from now on."""
        self._mailbox.post(lambda: self._take_over([list(addresses) for addresses in ingresses]))

    def close(self, why: str = "the instance was shut down") -> None:
        """Let go of the links; calls that are not answered fail with `NotRunningError`. A second call does nothing."""
        if not self.is_here:
            return
        with self._lock:
            if self._closed is not None:
                return
            self._closed = NotRunningError(f"{why}; the call was not answered")
        with contextlib.suppress(RuntimeError, concurrent.futures.TimeoutError):
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(CLOSE_TIMEOUT_S)
        self._closed_too()

    # -- on the loop ---------------------------------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Whether there is a call that no ingress worker has been sent yet."""
        return bool(self._waiting)

    def _begin(self, call: RemoteCall) -> None:
        if not self._dialled:
            self._dialled = True
            self._take_over(self._ingresses)
        if call.future is not None and not call.future.cancelled():
            self.send(call)

    def _take_over(self, ingresses: list[list[str]]) -> None:
        self._ingresses = ingresses
        if not self._dialled or self._closed is not None:
            return
        # One ingress worker is told from another by its own socket, or where there is none by its port.
        wanted = {addresses[0]: addresses for addresses in ingresses}
        for key in self._links.keys() - wanted.keys():
            self._retired = [link for link in self._retired if link.calls.pending]
            self._retired.append(self._links.pop(key))
            self._retired[-1].retire()
        for key, addresses in wanted.items():
            if key in self._links:
                self._links[key].addresses = addresses
            else:
                self._links[key] = IngressLink(self, self._data_links, addresses, self._mailbox)

    def send(self, call: RemoteCall) -> None:
        """Send a call by a link with room; where there is none, the call waits for one."""
        link = self._link_for(call)
        if link is not None:
            call.start(link.calls)
        elif len(self._waiting) >= MOST_WAITING:
            call.fail(UnavailableError(f"{MOST_WAITING} calls wait already for an ingress worker that takes them"))
        else:
            self._waiting.append(call)
            if call.timer is None:
                call.timer = self._loop.call_later(call.left_s, self._expired, call)

    def _link_for(self, call: RemoteCall) -> IngressLink | None:
        """The open link with the fewest calls. Where all ingress workers are to end, one of them takes the calls of
        handlers: it may be waiting for the answer of such a handler."""
        found = [link for link in self._links.values() if link.is_open]
        fit = [link for link in found if link.takes_new] or (found if call.invoke.chain else [])
        return min(fit, key=lambda link: link.load, default=None)

    def links_changed(self) -> None:
        """A link has opened, or has room again."""
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            self.send(call)

    def _abandon(self, call: RemoteCall) -> None:
        """Nobody waits for the call any more. May be called in any thread."""
        self._mailbox.post(lambda: self._give_up(call))

    def _give_up(self, call: RemoteCall) -> None:
        if call in self._waiting:
            self._waiting.remove(call)
        elif call.calls is not None:
            call.calls.forget(call)
        call.fail(LinkError("nobody waits for this call any more"))

    def _expired(self, call: RemoteCall) -> None:
        call.timer = None
        if call in self._waiting:
            self._waiting.remove(call)
            call.fail(DeadlineError(f"endpoint {call.invoke.endpoint!r}: no ingress worker could be reached in time"))

    async def _close(self) -> None:
        assert self._closed is not None
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            call.fail(self._closed)
        links = [*self._links.values(), *self._retired]
        self._links, self._retired = {}, []
        await asyncio.gather(*(link.close(self._closed) for link in links))

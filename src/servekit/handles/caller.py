"""Sends the calls of one process's handles to the ingress workers, and brings the answers back.

All links live on one event loop, in another thread than the one in which a handler or a script waits for a result.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence

from servekit.errors import DeadlineError, LinkError, NotRunningError, UnavailableError
from servekit.handles.call import RemoteCall
from servekit.handles.future import CallFuture
from servekit.handles.links import IngressLink, key_of
from servekit.wire.data_frames import Invoke
from servekit.wire.data_links import DataLinks
from servekit.wire.mailbox import Mailbox
from servekit.wire.network import Network

MOST_WAITING = 10_000
"""Calls that wait for a link with room."""
CLOSE_TIMEOUT_S = 5.0


class Caller:
    """One per process. ``call``, ``set_ingresses`` and ``close`` may be called in any thread but the loop's own."""

    def __init__(
        self,
        network: Network,
        token: bytes,
        name: str,
        loop: asyncio.AbstractEventLoop,
        ingresses: Sequence[list[str]] = (),
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            name: what this process is called at the other end.
            loop: runs in another thread. It is needed from the first call on, and until `close` has returned.
            ingresses: the addresses of each ingress worker.
            closed: called at the end of `close`.
        """
        self._network = network
        self._data_links = DataLinks(token, name)
        self._loop = loop
        self._closed_too = closed
        self._mailbox = Mailbox(loop)
        self._ingresses = [list(addresses) for addresses in ingresses]
        self._links: dict[str, IngressLink] = {}
        self._retired: list[IngressLink] = []
        """Of ingress workers that there are no more; they may still answer."""
        self._dialled = False
        self._waiting: deque[RemoteCall] = deque()
        self._lock = threading.Lock()
        self._closed: Exception | None = None
        self._pid = os.getpid()
        self.in_child: Callable[[], Caller] | None = None
        """What calls in the child of a fork, where the loop's thread is not; None: nothing does."""

    # -- from other threads --------------------------------------------------------------------------------------

    def call(self, invoke: Invoke, payload: bytes, timeout_s: float) -> CallFuture:
        """Send a call; ``timeout_s``: how long it may wait for an ingress worker to be there."""
        if not self.is_here:
            if self.in_child is not None:
                return self.in_child().call(invoke, payload, timeout_s)
            raise NotRunningError(
                "this process was forked from the one that the handle is of, and has no links; get a handle here, "
                "by servekit.init(address='auto') and servekit.get_handle"
            )
        call = RemoteCall(invoke, payload, timeout_s, post=self._mailbox.post, abandon=self._abandon)
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
        """Whether this is the process that it was made in, and no child that was forked from that."""
        return os.getpid() == self._pid

    def set_ingresses(self, ingresses: Sequence[list[str]]) -> None:
        """The ingress workers that there are from now on."""
        self._mailbox.post(lambda: self._take_over([list(addresses) for addresses in ingresses]))

    def close(self, why: str = "the instance was shut down") -> None:
        """Let go of the links; calls that are not answered fail with `NotRunningError`. Again: nothing."""
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

    def _begin(self, call: RemoteCall) -> None:
        if not self._dialled:
            self._dialled = True
            self._take_over(self._ingresses)
        if call.future is not None and not call.future.cancelled():
            self._send(call)

    def _take_over(self, ingresses: list[list[str]]) -> None:
        self._ingresses = ingresses
        if not self._dialled or self._closed is not None:
            return
        wanted = {key_of(addresses): addresses for addresses in ingresses}
        for key in self._links.keys() - wanted.keys():
            self._retired = [link for link in self._retired if link.calls.pending]
            self._retired.append(self._links.pop(key))
            self._retired[-1].retire()
        for key, addresses in wanted.items():
            if key in self._links:
                self._links[key].addresses = addresses
            else:
                link = IngressLink(self, self._network, self._data_links, addresses, self._mailbox.post)
                self._links[key] = link

    def _send(self, call: RemoteCall) -> None:
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
        """The one with the fewest calls. One that is to end takes what a handler calls, if there is no other: what it
        waits for may wait for that."""
        found = [link for link in self._links.values() if link.is_open]
        fit = [link for link in found if link.takes_new] or (found if call.chain else [])
        return min(fit, key=lambda link: link.load, default=None)

    def links_changed(self) -> None:
        """A link has opened, or has room again."""
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            self._send(call)

    def again(self, calls: list[RemoteCall]) -> None:
        """An ingress worker did not begin these."""
        for call in calls:
            self._send(call)

    def _abandon(self, call: RemoteCall) -> None:
        """Nobody waits for it any more."""
        if call in self._waiting:
            self._waiting.remove(call)
        elif call.calls is not None:
            call.calls.forget(call)
        call.fail(LinkError("nobody waits for this call any more"))

    def _expired(self, call: RemoteCall) -> None:
        call.timer = None
        if call in self._waiting:
            self._waiting.remove(call)
            call.fail(DeadlineError(f"endpoint {call.endpoint!r}: no ingress worker could be reached in time"))

    async def _close(self) -> None:
        assert self._closed is not None
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            call.fail(self._closed)
        links = [*self._links.values(), *self._retired]
        self._links, self._retired = {}, []
        await asyncio.gather(*(link.close(self._closed) for link in links))

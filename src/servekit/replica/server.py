"""The replica's side of its data links: takes calls, and ends when there will be no more."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from servekit.replica.executor import Executor
from servekit.wire.data_frames import DATA_FRAME_BYTES, Bye, Call, Cancel, Chunk, Credit, End, Load, data_codec
from servekit.wire.handshake import Handshake
from servekit.wire.link import Link, finish_all
from servekit.wire.polling import BusyPoll

_log = logging.getLogger("servekit.replica")


class DataServer:
    """Every ingress worker's link to this replica. Lives on the data loop."""

    def __init__(self, token: bytes, hello: bytes, busy_poll_s: float) -> None:
        self._token = token
        self._hello = hello
        self._polling = BusyPoll(asyncio.get_running_loop(), busy_poll_s)
        self._codec = data_codec()
        self._links: set[Link] = set()
        self._quiet: set[Link] = set()
        """Links whose ingress has said that no call will follow."""
        self._draining = False
        self._done = asyncio.Event()
        self.executor: Executor

    def new_link(self) -> Link:
        handshake = Handshake(self._token, self._hello, dialing=False)
        return Link(self, self._codec, handshake, max_frame_bytes=DATA_FRAME_BYTES, polling=self._polling)

    async def serve(self) -> None:
        """Until drained."""
        await self._done.wait()

    async def finish(self) -> None:
        """Let go of the links. Nobody may be able to dial any more: whoever loses a link dials again at once."""
        # Half-closed: at a socket that is gone, an ingress that still has something to say loses what it has not read.
        await finish_all(self._links)

    def drain(self, timeout_s: float) -> None:
        """End once no ingress worker will send more and every call is answered, or after ``timeout_s``."""
        if self._draining:
            return
        self._draining = True
        self.executor.drain()
        asyncio.get_running_loop().call_later(timeout_s, self._give_up, timeout_s)
        self.check_drained()

    def leave(self, timeout_s: float) -> None:
        """Ask every ingress worker to send no more, give back what has not begun, and drain."""
        for link in self._links:
            link.send(Bye())
        self.executor.refuse_waiting()
        self.drain(timeout_s)

    def tell_load(self, queue_length: int) -> bool:
        """Tell every ingress worker, at once: the loop may be about to stand still in a handler."""
        if len(self._links) < 2:
            return False
        for link in self._links:
            link.send(Load(queue_length))
            link.flush()
        return True

    def check_drained(self) -> None:
        """Called whenever the executor has nothing left."""
        if self._draining and self.executor.is_idle and self._links <= self._quiet:
            self._done.set()

    def _give_up(self, timeout_s: float) -> None:
        if not self._done.is_set():
            _log.warning("not drained within %g s; %d calls are cut off", timeout_s, self.executor.outstanding)
            self._done.set()

    # -- LinkOwner ----------------------------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        self._links.add(link)
        if self._draining:
            link.send(Bye())

    def frame_received(self, link: Link, frame: Any) -> None:
        kind = type(frame)
        if kind is Call:
            self.executor.submit(link, frame)
        elif kind is Chunk:
            self.executor.receive(link, frame)
        elif kind is End:
            self.executor.received(link, frame)
        elif kind is Credit:
            self.executor.granted(link, frame)
        elif kind is Cancel:
            self.executor.cancel(link, frame.id)
        elif kind is Bye:
            self._quiet.add(link)

    def frames_done(self, link: Link) -> None:
        self.executor.run()

    def link_writable(self, link: Link) -> None: ...

    def link_lost(self, link: Link, error: Exception | None) -> None:
        self._links.discard(link)
        self._quiet.discard(link)
        self.executor.forget(link)
        self.check_drained()

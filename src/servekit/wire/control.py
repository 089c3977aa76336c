"""Control links; and a worker's end of its own: dial, say hello, report, dial again when the controller is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from servekit.backoff import Backoff
from servekit.errors import AuthenticationError
from servekit.processes import is_alive
from servekit.tasks import came_within
from servekit.wire.bootstrap import WorkerBootstrap
from servekit.wire.control_frames import CONTROL_FRAME_BYTES, WorkerHello, control_codec
from servekit.wire.handshake import Handshake
from servekit.wire.link import Link
from servekit.wire.network import FIRST_REDIAL_S, LONGEST_REDIAL_S, dial

REPORT_EVERY_S = 1.0


class ControlLinkOwner:
    """The base of what owns a control link: a `LinkOwner`, of which a subclass overrides the methods that it needs."""

    def link_opened(self, link: Link) -> None: ...

    def frame_received(self, link: Link, frame: Any) -> None: ...

    def frames_done(self, link: Link) -> None: ...

    def link_writable(self, link: Link) -> None: ...

    def link_lost(self, link: Link, error: Exception | None) -> None: ...


def control_link(owner: ControlLinkOwner, token: bytes, hello: bytes, *, dialing: bool) -> Link:
    """One end of a control link.

    To another machine the link needs no companion (`servekit.wire.companion`): both ends are read by loops on which
    nobody's handler runs, and what the controller sends to a replica that serves is far less than a socket holds. So it
    carries keep-alive and user timeout itself (``peer_reads``). Were it ever reset for C code that holds the GIL while
    the socket is full, the worker would dial again.
    """
    handshake = Handshake(token, hello, dialing=dialing)
    return Link(owner, control_codec(), handshake, max_frame_bytes=CONTROL_FRAME_BYTES)


class ControlClient(ControlLinkOwner):
    """Keeps one worker's control link up. Lives on one event loop; `send` may be called from others."""

    def __init__(
        self,
        bootstrap: WorkerBootstrap,
        *,
        hello: Callable[[], WorkerHello],
        received: Callable[[Any], None],
        report: Callable[[], Any],
    ) -> None:
        self._bootstrap = bootstrap
        self._hello = hello
        self._received = received
        self._report = report
        self.link: Link | None = None
        """While the controller is there. On the client's own loop."""
        self._gone = asyncio.Event()
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        keeper = bootstrap.keeper
        self._keeper = keeper if keeper is not None and is_alive(keeper) else None
        """None as well in a container, where its number is another."""

    async def run(self) -> str:
        """Until `close`, or until the controller has been gone for too long; returns why it ended."""
        lost_at = time.monotonic()
        pauses = Backoff(FIRST_REDIAL_S, LONGEST_REDIAL_S)
        while not self._ended.is_set():
            self._gone.clear()
            try:
                await dial(self._bootstrap.control, self._new_link, peer_reads=True)
            except AuthenticationError as error:
                return str(error)
            except OSError as error:
                if why := self._orphaned(time.monotonic() - lost_at):
                    return f"{why} ({error})"
                await came_within(self._ended, pauses.next())
                continue
            pauses.reset()
            while not await came_within(self._gone, REPORT_EVERY_S):
                self._send(self._report())
            lost_at = time.monotonic()
        return "told to end"

    def send(self, frame: Any, link: Link | None = None) -> None:
        """Send a frame if the controller is there; from any thread.

        ``link``: the one that a question came by, whose answer goes out on that link or not at all.
        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self._send(frame, link)
        else:
            self._loop.call_soon_threadsafe(self._send, frame, link)

    def close(self) -> None:
        """End `run`, after what was sent. On the client's own loop."""
        self._ended.set()
        self._gone.set()
        if self.link is not None:
            self.link.close()

    @property
    def local_address(self) -> Any:
        """The local end of the link, as ``getsockname`` gives it; None without a link."""
        return self.link.local_address if self.link is not None else None

    # -- LinkOwner -------------------------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        self.link = link

    def frame_received(self, link: Link, frame: Any) -> None:
        self._received(frame)

    def link_lost(self, link: Link, error: Exception | None) -> None:
        if self.link is link:
            self.link = None
        self._gone.set()

    # -- inside ------------------------------------------------------------------------------------------------

    def _orphaned(self, gone_s: float) -> str:
        """Why no controller will follow the one that has been gone for so long; empty: one may."""
        if self._keeper is not None:
            return "" if is_alive(self._keeper) else "the instance has ended"
        longest_s = self._bootstrap.orphan_timeout_s
        return f"the controller has been gone for {longest_s:g} s" if gone_s > longest_s else ""

    def _new_link(self) -> Link:
        return control_link(self, self._bootstrap.token, msgspec.msgpack.encode(self._hello()), dialing=True)

    def _send(self, frame: Any, link: Link | None = None) -> None:
        link = link or self.link
        if link is not None:
            link.send(frame)

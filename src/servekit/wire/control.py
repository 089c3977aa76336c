"""A worker's side of its control link: dial, say hello, report; dial again when the controller is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from servekit.backoff import Backoff
from servekit.errors import AuthenticationError
from servekit.tasks import came_within
from servekit.wire.bootstrap import WorkerBootstrap
from servekit.wire.control_frames import CONTROL_FRAME_BYTES, WorkerHello, control_codec
from servekit.wire.handshake import Handshake
from servekit.wire.link import Link
from servekit.wire.network import FIRST_REDIAL_S, LONGEST_REDIAL_S, Network, dial

REPORT_EVERY_S = 1.0


class ControlLinkOwner:
    """The base of what owns a control link: a `LinkOwner` in which a subclass overrides what it is to hear of."""

    def link_opened(self, link: Link) -> None: ...

    def frame_received(self, link: Link, frame: Any) -> None: ...

    def frames_done(self, link: Link) -> None: ...

    def link_writable(self, link: Link) -> None: ...

    def link_lost(self, link: Link, error: Exception | None) -> None: ...


class ControlClient(ControlLinkOwner):
    """Keeps one worker's control link up. Lives on one event loop; `send` may be called from others."""

    def __init__(
        self,
        bootstrap: WorkerBootstrap,
        network: Network,
        *,
        hello: Callable[[], WorkerHello],
        received: Callable[[Any], None],
        report: Callable[[], Any],
    ) -> None:
        self._bootstrap = bootstrap
        self._network = network
        self._hello = hello
        self._received = received
        self._report = report
        self.link: Link | None = None
        """While the controller is there. On the client's own loop."""
        self._gone = asyncio.Event()
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def run(self) -> str:
        """Until `close`, or until the controller has been gone for too long; returns why it ended."""
        lost_at = time.monotonic()
        pauses = Backoff(FIRST_REDIAL_S, LONGEST_REDIAL_S)
        while not self._ended.is_set():
            try:
                await self._connect()
            except AuthenticationError as error:
                return str(error)
            except OSError as error:
                if time.monotonic() - lost_at > self._bootstrap.orphan_timeout_s:
                    return f"the controller has been gone for {self._bootstrap.orphan_timeout_s:g} s ({error})"
                await came_within(self._ended, pauses.next())
                continue
            pauses.reset()
            await self._keep_reporting()
            lost_at = time.monotonic()
        return "told to end"

    def send(self, frame: Any, link: Link | None = None) -> None:
        """Send a frame if the controller is there; from any thread.

        ``link``: an answer goes out on the link that its question came by, or not at all.
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

    async def _connect(self) -> None:
        self._gone.clear()

        def new_link() -> Link:
            hello = msgspec.msgpack.encode(self._hello())
            handshake = Handshake(self._bootstrap.token, hello, dialing=True)
            return Link(self, control_codec(), handshake, max_frame_bytes=CONTROL_FRAME_BYTES)

        await dial(self._network, self._bootstrap.control, new_link)

    async def _keep_reporting(self) -> None:
        while not await came_within(self._gone, REPORT_EVERY_S):
            self._send(self._report())

    def _send(self, frame: Any, link: Link | None = None) -> None:
        link = link or self.link
        if link is not None:
            link.send(frame)

"""The controller's ends of the control links: a hello finds the record of its worker, which then owns the link."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import msgspec

from servekit.tasks import TaskSet
from servekit.wire.control import ControlLinkOwner
from servekit.wire.control_frames import CONTROL_FRAME_BYTES, Drain, WorkerHello, control_codec
from servekit.wire.frames import Frame
from servekit.wire.handshake import Handshake
from servekit.wire.link import Link
from servekit.wire.network import Listener, Network

_log = logging.getLogger("servekit.control")


class LinkedWorker(ControlLinkOwner):
    """What the controller has of one worker: the id of its process, and its control link while there is one."""

    def __init__(self, worker_id: str) -> None:
        self.id = worker_id
        self.pid = 0
        self.link: Link | None = None
        self._link_tasks = TaskSet()
        """What is done on the link, and ends with the link."""
        self._answer: asyncio.Future[Any] | None = None

    def dialled(self, link: Link, hello: WorkerHello) -> None:
        """The worker has dialled, for the first time or again."""
        if self.link is not None:
            self.link_lost(self.link, None)
        self.link, self.pid = link, hello.pid

    async def ask(self, question: Frame) -> Any:
        """Send ``question``, and return the worker's answer. To be called in a task of the link, one at a time."""
        assert self.link is not None
        self._answer = answer = asyncio.get_running_loop().create_future()
        self.link.send(question)
        return await answer

    def answered(self, answer: Frame) -> None:
        """The worker has answered the question that it was asked on this link."""
        if self._answer is not None:
            self._answer.set_result(answer)
            self._answer = None

    def process_ended(self) -> None:
        """The worker's process has ended: the link is lost, whoever else holds the worker's socket."""
        if self.link is not None:
            self.link.peer_ended()
            self.link_lost(self.link, None)

    def link_lost(self, link: Link, error: Exception | None) -> None:
        if link is self.link:
            self.link = self._answer = None
            self._link_tasks.cancel()


class ControlServer(ControlLinkOwner):
    """Listens for workers, and owns each link until the hello says whose link that is."""

    def __init__(self, token: bytes, network: Network) -> None:
        self.workers: dict[str, LinkedWorker] = {}
        """All that may dial, by id."""
        self._token = token
        self._network = network
        self._codec = control_codec()
        self._listeners: list[Listener] = []
        self._strangers: set[Link] = set()
        self._by_host: dict[str, str] = {}
        """The addresses for workers on other machines, by the host that reaches this one."""
        self._listening = asyncio.Lock()

    async def listen(self, address: str) -> str:
        """Take links on ``address``; returns it with the port that was chosen."""
        listener = await self._network.listen(address, self._new_link)
        self._listeners.append(listener)
        return listener.address

    async def listen_on(self, host: str) -> str:
        """Take links on ``host``, by which workers on other machines reach this one; returns the address to dial."""
        async with self._listening:
            if host not in self._by_host:
                self._by_host[host] = await self.listen(f"tcp:{host}:0")
        return self._by_host[host]

    def close(self) -> None:
        for link in (*self._strangers, *(worker.link for worker in self.workers.values())):
            if link is not None:
                link.close()
        for listener in self._listeners:
            with contextlib.suppress(FileNotFoundError):
                listener.close()

    def _new_link(self) -> Link:
        handshake = Handshake(self._token, b"controller", dialing=False)
        return Link(self, self._codec, handshake, max_frame_bytes=CONTROL_FRAME_BYTES)

    # -- LinkOwner ---------------------------------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        try:
            hello = msgspec.msgpack.decode(link.peer_hello, type=WorkerHello)
        except msgspec.MsgspecError as error:
            _log.warning("a worker's hello was not understood: %s", error)
            link.abort()
            return
        worker = self.workers.get(hello.worker_id)
        if worker is None:
            self._strangers.add(link)
            link.send(Drain(0.0))
        else:
            link.owner = worker
            worker.dialled(link, hello)

    def link_lost(self, link: Link, error: Exception | None) -> None:
        self._strangers.discard(link)

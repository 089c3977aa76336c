"""The controller's ends of the control links: the hello of a worker finds the worker's record, which then owns the
link."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import Any

import msgspec

from servekit.control.silence import LOOK_EVERY_S, Silence
from servekit.processes import Activity, activity
from servekit.tasks import TaskSet
from servekit.wire.control import ControlLinkOwner, control_link
from servekit.wire.control_frames import Drain, WorkerHello
from servekit.wire.frames import Frame
from servekit.wire.link import Link
from servekit.wire.network import Listener, listen

_log = logging.getLogger("servekit.control")


class LinkedWorker(ControlLinkOwner):
    """A worker as the controller knows it: the id of its process, and its control link while there is one."""

    def __init__(self, worker_id: str) -> None:
        self.id = worker_id
        self.pid = 0
        self.link: Link | None = None
        self._link_tasks = TaskSet()
        """The tasks that use the link, and end with it."""
        self._answer: asyncio.Future[Any] | None = None
        self._silence = Silence()

    @property
    def serves(self) -> bool:
        """Whether the worker has begun its work."""
        return False

    @property
    def is_stopped(self) -> bool:
        """Whether the worker's process is stopped by a signal; False where the process cannot be looked at."""
        process = self._process()
        return process is not None and process.state == "T"

    def look(self) -> None:
        """Find out whether the worker is silent, and what that means. To be called every `LOOK_EVERY_S`."""
        if self.link is not None and self._silence.looked():
            meaning = self._silence.meaning(self._process(), serves=self.serves)
            if meaning:
                self.found_silent(meaning)

    def found_silent(self, why: str) -> None:
        """The worker will say nothing more, nor answer, though its process is there."""

    def _process(self) -> Activity | None:
        """What the worker's process does; None where that cannot be seen, on another machine, or is this process."""
        pid = self.link.peer_pid if self.link is not None else 0
        return activity(pid) if pid not in (0, os.getpid()) else None

    def dialled(self, link: Link, hello: WorkerHello) -> None:
        """Take over the link by which the worker has dialled, for the first time or again."""
        if self.link is not None:
            self.link_lost(self.link, None)
        self.link, self.pid = link, hello.pid
        self._silence = Silence()

    def frame_received(self, link: Link, frame: Any) -> None:
        self._silence.heard()

    async def ask(self, question: Frame) -> Any:
        """Send ``question``, and return the worker's answer. Called in a task of the link, one question at a time."""
        assert self.link is not None
        self._answer = answer = asyncio.get_running_loop().create_future()
        self.link.send(question)
        return await answer

    def answered(self, answer: Frame) -> None:
        """Hand the answer to whoever asks: the worker has answered the question on this link."""
        if self._answer is not None:
            self._answer.set_result(answer)
            self._answer = None

    def process_ended(self) -> None:
        """Lose the link: the worker's process has ended, though another may hold the worker's socket."""
        if self.link is not None:
            self.link.peer_ended()
            self.link_lost(self.link, None)

    def link_lost(self, link: Link, error: Exception | None) -> None:
        if link is self.link:
            self.link = self._answer = None
            self._link_tasks.cancel()


class ControlServer(ControlLinkOwner):
    """Listens for workers, and owns each link until the hello says which worker dialled."""

    def __init__(self, token: bytes) -> None:
        self.workers: dict[str, LinkedWorker] = {}
        """The workers that may dial, by id."""
        self._token = token
        self._listeners: list[Listener] = []
        self._unknown: set[Link] = set()
        """Links of workers that have no record here; they are told to end."""
        self._by_host: dict[str, str] = {}
        """The addresses for workers on other machines, by the host that reaches this one."""
        self._listening = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None

    async def listen(self, address: str) -> str:
        """Take links on ``address``; returns the address with the port that was chosen."""
        # A worker reads its link in a thread of its own, or on a loop on which nothing blocks.
        listener = await listen(address, self._new_link, peer_reads=True)
        self._listeners.append(listener)
        return listener.address

    async def listen_on(self, host: str, port: int = 0) -> str:
        """Take links on ``host``, by which workers on other machines reach this one; returns the address to dial."""
        async with self._listening:
            if host not in self._by_host:
                self._by_host[host] = await self.listen(f"tcp:{host}:{port}")
        return self._by_host[host]

    def watch(self) -> None:
        """From now on, until `close`, look at the workers that say nothing."""
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for worker in list(self.workers.values()):
                try:
                    worker.look()
                except Exception:
                    _log.exception("worker %s could not be looked at", worker.id)

    def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        for link in (*self._unknown, *(worker.link for worker in self.workers.values())):
            if link is not None:
                link.close()
        for listener in self._listeners:
            with contextlib.suppress(FileNotFoundError):
                listener.close()

    def _new_link(self) -> Link:
        return control_link(self, self._token, b"controller", dialing=False)

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
            self._unknown.add(link)
            link.send(Drain(0.0))
        else:
            link.owner = worker
            worker.dialled(link, hello)

    def link_lost(self, link: Link, error: Exception | None) -> None:
        self._unknown.discard(link)

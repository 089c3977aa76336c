"""The controller's end of the control links: who dialled, and whose frames these are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from servekit.control.counts import Counts
from servekit.control.ingresses import IngressFleet
from servekit.control.replicas import ReplicaFleet
from servekit.wire.control_frames import CONTROL_FRAME_BYTES, Applied, LinkAddresses, Report, WorkerHello, control_codec
from servekit.wire.handshake import Handshake
from servekit.wire.link import Link

_log = logging.getLogger("servekit.control")


class ControlServer:
    """Accepts workers' links, and hands what they say to the fleet that they belong to."""

    def __init__(
        self,
        token: bytes,
        ingresses: IngressFleet,
        replicas: ReplicaFleet,
        counts: Counts,
        requests_wait: Callable[[], None],
    ) -> None:
        self._token = token
        self._ingresses = ingresses
        self._replicas = replicas
        self._counts = counts
        self._requests_wait = requests_wait
        self._codec = control_codec()
        self._worker_ids: dict[Link, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def new_link(self) -> Link:
        handshake = Handshake(self._token, b"controller", dialing=False)
        return Link(self, self._codec, handshake, max_frame_bytes=CONTROL_FRAME_BYTES)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for link in list(self._worker_ids):
            link.close()

    # -- LinkOwner ---------------------------------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        try:
            hello = msgspec.msgpack.decode(link.peer_hello, type=WorkerHello)
        except msgspec.MsgspecError as error:
            _log.warning("a worker's hello was not understood: %s", error)
            link.abort()
            return
        self._worker_ids[link] = hello.worker_id
        if hello.worker_id in self._ingresses.workers:
            self._counts.forget_load(hello.worker_id)
            self._ingresses.link_opened(link, hello)
        else:
            task = asyncio.ensure_future(self._replicas.link_opened(link, hello))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def frame_received(self, link: Link, frame: Any) -> None:
        worker_id = self._worker_ids[link]
        if isinstance(frame, Report):
            self._counts.add(frame.counts, frame.failovers)
        if worker_id in self._ingresses.workers:
            if isinstance(frame, Applied | LinkAddresses):
                self._ingresses.frame_received(worker_id, frame)
            elif isinstance(frame, Report):
                self._counts.set_load(worker_id, frame.replica_outstanding, frame.waiting)
                if frame.waiting:
                    self._requests_wait()
        else:
            self._replicas.frame_received(worker_id, frame)

    def frames_done(self, link: Link) -> None: ...

    def link_writable(self, link: Link) -> None: ...

    def link_lost(self, link: Link, error: Exception | None) -> None:
        worker_id = self._worker_ids.pop(link, None)
        if worker_id is None:
            return
        ingress = self._ingresses.workers.get(worker_id)
        if ingress is None:
            self._replicas.link_lost(worker_id, link)
        elif ingress.link is link:
            self._counts.forget_load(worker_id)
            self._ingresses.link_lost(ingress)

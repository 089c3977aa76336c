"""A controller's end of the control links and nothing more: workers dial it, and are told what to serve."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import uvloop

from servekit.config import ORPHAN_TIMEOUT_S, BackendConfig
from servekit.interfaces import ReplicaRuntime
from servekit.targets import pack_target
from servekit.testing.conformance import probes
from servekit.wire.bootstrap import WorkerBootstrap, pack
from servekit.wire.control_frames import (
    CONTROL_FRAME_BYTES,
    Assign,
    Blob,
    PluginRef,
    Ready,
    StartFailed,
    WorkerHello,
    control_codec,
)
from servekit.wire.handshake import Handshake
from servekit.wire.link import Link
from servekit.wire.network import Listener, SocketNetwork

T = TypeVar("T")
CALL_TIMEOUT_S = 10.0


@dataclass
class Heard:
    """What one worker has said, and what it is to serve."""

    target: bytes
    hellos: list[WorkerHello] = field(default_factory=list)
    ready: bool = False
    failure: str = ""


class StandInController:
    """Listens in ``directory``, on a loop in a thread of its own."""

    def __init__(self, directory: str, instance_id: str) -> None:
        self.token = secrets.token_bytes(32)
        self._directory = directory
        self._instance_id = instance_id
        self._network = SocketNetwork()
        self._codec = control_codec()
        self._workers: dict[str, Heard] = {}
        self._links: dict[Link, str] = {}
        self._listeners: dict[str, Listener] = {}
        self._changed = threading.Condition()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stand-in controller", daemon=True)
        self._thread.start()
        self._address = self._listen(f"unix:{directory}/control.sock")

    def bootstrap(self, worker_id: str, host: str | None, runtime: ReplicaRuntime, target: type, *args: Any) -> bytes:
        """What to start a worker with that is to serve ``target(*args)``.

        ``host`` is what `ReplicaRuntime.advertise_host` gave.
        """
        path = f"{target.__module__}:{target.__qualname__}"
        with self._changed:
            self._workers[worker_id] = Heard(pack_target(path, args, None).data)
        control = [self._address]
        if host is not None:
            remote = self._listen(f"tcp:{host}:0")
            control = [*control, remote] if runtime.local_links else [remote]
        told = WorkerBootstrap(
            "replica", worker_id, self._instance_id, self.token, control, self._directory, ORPHAN_TIMEOUT_S
        )
        return pack(told)

    def heard(self, worker_id: str) -> Heard:
        return self._workers[worker_id]

    def wait(self, worker_id: str, condition: Callable[[Heard], bool], timeout_s: float) -> bool:
        """Whether what was heard of the worker came to fulfil ``condition`` in time."""
        heard = self._workers[worker_id]
        with self._changed:
            return self._changed.wait_for(lambda: condition(heard), timeout_s)

    def close(self) -> None:
        async def close() -> None:
            for listener in self._listeners.values():
                listener.close()
            for link in list(self._links):
                link.abort()

        self._call(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()

    def _listen(self, address: str) -> str:
        if address not in self._listeners:
            self._listeners[address] = self._call(self._network.listen(address, self._new_link))
        return self._listeners[address].address

    def _new_link(self) -> Link:
        handshake = Handshake(self.token, b"controller", dialing=False)
        return Link(self, self._codec, handshake, max_frame_bytes=CONTROL_FRAME_BYTES)

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT_S)

    # -- LinkOwner, on the loop ------------------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        hello = msgspec.msgpack.decode(link.peer_hello, type=WorkerHello)
        heard = self._workers[hello.worker_id]
        self._links[link] = hello.worker_id
        with self._changed:
            heard.hellos.append(hello)
            self._changed.notify_all()
        if not hello.ready:
            adapter = PluginRef(f"{probes.__name__}:{probes.TextAdapter.__qualname__}")
            link.send(
                Assign(
                    backend="conformance",
                    target_bytes=len(heard.target),
                    sys_path=[],
                    cwd=self._directory,
                    adapter=adapter,
                    config=BackendConfig(),
                )
            )
            link.send(Blob(heard.target))

    def frame_received(self, link: Link, frame: Any) -> None:
        heard = self._workers[self._links[link]]
        with self._changed:
            if isinstance(frame, Ready):
                heard.ready = True
            elif isinstance(frame, StartFailed):
                heard.failure = frame.message
            self._changed.notify_all()

    def frames_done(self, link: Link) -> None: ...

    def link_writable(self, link: Link) -> None: ...

    def link_lost(self, link: Link, error: Exception | None) -> None:
        del self._links[link]


def until(found: Callable[[], T], timeout_s: float) -> T:
    """What ``found`` gives once it is true; or what it gives at last, when that takes too long."""
    ends = time.monotonic() + timeout_s
    while not (value := found()) and time.monotonic() < ends:
        time.sleep(0.02)
    return value

"""An ingress worker that does what the test says, at the other end of a caller's link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until

from servekit.handles import answers
from servekit.handles.caller import Caller
from servekit.handles.future import CallFuture
from servekit.handles.payload import pack
from servekit.wire.data_frames import DATA_FRAME_BYTES, Answer, Chunk, Invoke, data_codec
from servekit.wire.handshake import Handshake
from servekit.wire.link import Link
from servekit.wire.loop_thread import LoopThread
from servekit.wire.network import Listener, listen

TOKEN = b"t" * 32
LIMIT_S = 10.0


def head(content_type: str) -> bytes:
    return f"x-request-id: 1\r\ncontent-type: {content_type}\r\n".encode()


class FakeIngress:
    """Keeps the frames that come, and answers what the test says. Its methods are called from the test's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str) -> None:
        self.address = address
        self.frames: list[Any] = []
        self.links: list[Link] = []
        self._loop = loop
        self._listener: Listener | None = None

    def of(self, kind: type) -> list[Any]:
        return [frame for frame in self.frames if type(frame) is kind]

    def body(self, invoke: Invoke) -> bytes:
        return invoke.body + b"".join(bytes(chunk.data) for chunk in self.of(Chunk) if chunk.id == invoke.id)

    def wait_invoked(self, count: int = 1) -> Invoke:
        until(lambda: len(self.of(Invoke)) >= count)
        found: Invoke = self.of(Invoke)[count - 1]
        return found

    def listen(self) -> None:
        self.run(self._listen())

    def stop_listening(self) -> None:
        listener = self._listener
        assert listener is not None
        self.soon(listener.close)

    def cut(self) -> None:
        self.soon(lambda: [link.abort() for link in self.links])

    def send(self, *frames: Any) -> None:
        self.soon(lambda: [self.links[-1].send(frame) for frame in frames])

    def answer(self, invoke: Invoke, value: Any) -> None:
        self.send(Answer(invoke.id, 200, head(answers.VALUE), pack(value), 0, 0))

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT_S)

    def soon(self, act: Callable[[], Any]) -> None:
        async def run() -> None:
            act()

        self.run(run())

    def close(self) -> None:
        self.stop_listening()
        self.cut()

    async def _listen(self) -> None:
        def new_link() -> Link:
            handshake = Handshake(TOKEN, b"ingress", dialing=False)
            return Link(self, data_codec(), handshake, max_frame_bytes=DATA_FRAME_BYTES)

        self._listener = await listen(self.address, new_link)

    # -- LinkOwner ---------------------------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        self.links.append(link)

    def frame_received(self, link: Link, frame: Any) -> None:
        self.frames.append(frame)

    def frames_done(self, link: Link) -> None: ...

    def link_writable(self, link: Link) -> None: ...

    def link_lost(self, link: Link, error: Exception | None) -> None:
        self.links.remove(link)


class Rig:
    """A caller, ingress workers for it, and the loop on which both live."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ingresses: list[FakeIngress] = []
        self.thread = LoopThread("test-links")
        self.ingress = self.new_ingress("ingress")
        self.caller = Caller(TOKEN, "test", self.thread.loop, [[self.ingress.address]])

    def new_ingress(self, name: str) -> FakeIngress:
        ingress = FakeIngress(self.thread.loop, f"unix:{self._folder}/{name}")
        ingress.listen()
        self._ingresses.append(ingress)
        return ingress

    def close(self) -> None:
        self.caller.close()
        for ingress in self._ingresses:
            ingress.close()
        self.thread.close()

    until = staticmethod(until)

    def call(self, *args: Any, timeout_s: float = LIMIT_S, **fields: Any) -> CallFuture:
        return self.caller.call(Invoke(0, "e", b"", **fields), pack((args, {})), timeout_s)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    try:
        yield made
    finally:
        made.close()

"""A worker's side of its control link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from servekit.wire import control as module
from servekit.wire.bootstrap import WorkerBootstrap
from servekit.wire.control import ControlClient, ControlLinkOwner
from servekit.wire.control_frames import (
    CONTROL_FRAME_BYTES,
    Reconfigured,
    Report,
    StartFailed,
    WorkerHello,
    control_codec,
)
from servekit.wire.handshake import Handshake
from servekit.wire.link import Link
from servekit.wire.memory import MemoryNetwork

TOKEN = bytes(32)


class Controller(ControlLinkOwner):
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.frames: list[Any] = []

    def new_link(self) -> Link:
        handshake = Handshake(TOKEN, b"controller", dialing=False)
        return Link(self, control_codec(), handshake, max_frame_bytes=CONTROL_FRAME_BYTES)

    def link_opened(self, link: Link) -> None:
        self.links.append(link)

    def frame_received(self, link: Link, frame: Any) -> None:
        self.frames.append(frame)


async def until(condition: Callable[[], bool]) -> None:
    ends = asyncio.get_running_loop().time() + 10
    while not condition():
        assert asyncio.get_running_loop().time() < ends
        await asyncio.sleep(0.001)


def run(test: Callable[[Controller, ControlClient], Any], *, orphan_timeout_s: float = 10.0) -> str:
    """Runs a test on a client that is linked; returns why the client ended."""

    async def whole() -> str:
        network, controller = MemoryNetwork(), Controller()
        listener = await network.listen("memory:control", controller.new_link)
        bootstrap = WorkerBootstrap("replica", "r1", "i", TOKEN, ["memory:control"], "/", orphan_timeout_s)
        client = ControlClient(
            bootstrap,
            network,
            hello=lambda: WorkerHello("r1", 1, "node"),
            received=lambda frame: None,
            report=Report,
        )
        running = asyncio.ensure_future(client.run())
        await until(lambda: len(controller.links) == 1 and client.link is not None)
        await test(controller, client)
        listener.close()
        return await asyncio.wait_for(running, 10)

    return asyncio.run(whole())


def test_an_answer_goes_by_the_link_of_its_question_or_not_at_all() -> None:
    async def test(controller: Controller, client: ControlClient) -> None:
        asked_by = client.link
        client.send(Reconfigured("first"), asked_by)
        await until(lambda: controller.frames == [Reconfigured("first")])
        controller.links[0].close()
        await until(lambda: len(controller.links) == 2 and client.link is not None)
        client.send(Reconfigured("second"), asked_by)
        client.send(StartFailed("after it"))
        await until(lambda: StartFailed("after it") in controller.frames)
        assert Reconfigured("second") not in controller.frames
        client.close()

    assert run(test) == "told to end"


def test_a_client_reports_while_it_is_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPORT_EVERY_S", 0.001)

    async def test(controller: Controller, client: ControlClient) -> None:
        await until(lambda: controller.frames.count(Report()) >= 2)
        client.close()

    run(test)


def test_a_client_ends_when_the_controller_has_been_gone_for_too_long() -> None:
    async def test(controller: Controller, client: ControlClient) -> None:
        for link in controller.links:
            link.close()

    # The listener is closed with it, and there is nobody to dial.
    assert "the controller has been gone for 0.05 s" in run(test, orphan_timeout_s=0.05)

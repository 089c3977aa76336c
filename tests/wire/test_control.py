"""A worker's side of its control link."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.waiting import until_async

from servekit.processes import ProcessIdentity, identify
from servekit.wire import control as module
from servekit.wire.bootstrap import WorkerBootstrap
from servekit.wire.control import ControlClient, ControlLinkOwner, control_link
from servekit.wire.control_frames import Reconfigured, Report, StartFailed, WorkerHello
from servekit.wire.link import Link
from servekit.wire.network import listen

TOKEN = bytes(32)


class Controller(ControlLinkOwner):
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.frames: list[Any] = []

    def new_link(self) -> Link:
        return control_link(self, TOKEN, b"controller", dialing=False)

    def link_opened(self, link: Link) -> None:
        self.links.append(link)

    def frame_received(self, link: Link, frame: Any) -> None:
        self.frames.append(frame)


def run(
    test: Callable[[Controller, ControlClient], Any],
    *,
    orphan_timeout_s: float = 10.0,
    keeper: ProcessIdentity | None = None,
) -> str:
    """Runs a test on a client that is linked; returns why the client ended."""

    async def whole() -> str:
        controller = Controller()
        listener = await listen("tcp:127.0.0.1:0", controller.new_link)
        bootstrap = WorkerBootstrap("replica", "r1", TOKEN, [listener.address], "/", orphan_timeout_s, keeper=keeper)
        client = ControlClient(
            bootstrap,
            hello=lambda: WorkerHello("r1", 1, "node"),
            received=lambda frame: None,
            report=Report,
        )
        running = asyncio.ensure_future(client.run())
        await until_async(lambda: len(controller.links) == 1 and client.link is not None)
        await test(controller, client)
        listener.close()
        return await asyncio.wait_for(running, 10)

    return asyncio.run(whole())


def test_an_answer_goes_by_the_link_of_its_question_or_not_at_all() -> None:
    async def test(controller: Controller, client: ControlClient) -> None:
        asked_by = client.link
        client.send(Reconfigured("first"), asked_by)
        await until_async(lambda: controller.frames == [Reconfigured("first")])
        controller.links[0].close()
        await until_async(lambda: len(controller.links) == 2 and client.link is not None)
        client.send(Reconfigured("second"), asked_by)
        client.send(StartFailed("after it"))
        await until_async(lambda: StartFailed("after it") in controller.frames)
        assert Reconfigured("second") not in controller.frames
        client.close()

    assert run(test) == "told to end"


def test_a_client_reports_while_it_is_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPORT_EVERY_S", 0.001)

    async def test(controller: Controller, client: ControlClient) -> None:
        await until_async(lambda: controller.frames.count(Report()) >= 2)
        client.close()

    run(test)


def test_a_client_ends_when_the_controller_has_been_gone_for_too_long() -> None:
    async def test(controller: Controller, client: ControlClient) -> None:
        for link in controller.links:
            link.close()

    # The listener is closed with it, and there is nobody to dial.
    assert "the controller has been gone for 0.05 s" in run(test, orphan_timeout_s=0.05)


def test_a_client_goes_on_without_a_controller_as_long_as_the_keeper_is_there() -> None:
    async def test(controller: Controller, client: ControlClient) -> None:
        for link in controller.links:
            link.close()

    with subprocess.Popen(["sleep", "0.5"]) as keeper:
        assert "the instance has ended" in run(test, orphan_timeout_s=0.05, keeper=identify(keeper.pid))

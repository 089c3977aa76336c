"""The tasks that keep links to replicas, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from servekit.config import BackendConfig
from servekit.ingress.backend import Backend, Replica
from servekit.ingress.links import ReplicaLinks
from servekit.wire import network
from servekit.wire.control_frames import ReplicaEntry
from servekit.wire.data_links import DataLinks


class Gone:
    """Connecting in the place of `network.connect`, which fails when the test says so."""

    def __init__(self) -> None:
        self.gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.dialled = asyncio.Event()

    async def connect(self, address: str, protocol: Callable[[], asyncio.Protocol], **_: Any) -> None:
        self.dialled.set()
        await self.gate
        raise FileNotFoundError(address)


def test_closing_ends_a_task_whose_dial_fails_at_that_moment(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`asyncio.wait_for` gives the failure in the place of the cancellation there, before Python 3.12."""

    async def close_as_it_fails() -> None:
        gone = Gone()
        monkeypatch.setattr(network, "connect", gone.connect)
        links = ReplicaLinks(DataLinks(b"t" * 32, "ingress1"))
        backend = Backend("b", BackendConfig(), world.shared)
        replica = Replica(ReplicaEntry("r1", "node", ("unix:/gone",)), backend)
        opening = asyncio.ensure_future(links.open([replica]))
        await gone.dialled.wait()
        gone.gate.set_result(None)
        await asyncio.sleep(0)  # The dial has failed; who waits for it does not know yet.
        await asyncio.wait_for(links.close(), 10)
        await opening

    asyncio.run(close_as_it_fails())

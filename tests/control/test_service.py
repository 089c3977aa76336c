"""The control plane as a whole, on a disk that takes nothing more."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest
from tests.support.full_disk import no_room

from servekit.control.service import Service
from servekit.control.setup import InstanceOptions, InstanceSetup
from servekit.control.store import Store, WorkerRecord
from servekit.plugins import discover
from servekit.wire.bootstrap import WorkerBootstrap


class Remote:
    """A runtime whose workers are on other machines."""

    local_links = False


async def no_ingress(bootstrap: WorkerBootstrap) -> NoReturn:
    raise NotImplementedError


def service(folder: Path, control: str = "") -> Service:
    options = InstanceOptions("i", "process")
    setup = InstanceSetup(options, "i-1", str(folder), b"token", "", None, [], standing=True, resumed=True)
    fakes: Any = no_ingress, Remote()
    return Service(setup, discover(), launch_ingress=fakes[0], control_address=control, fixed_runtime=fakes[1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state with a worker of a backend that is gone."""
    store = Store(str(tmp_path))
    store.save_worker(WorkerRecord("r1", "gone", 1, b"", 1, 0.0))
    store.close()
    return tmp_path


def test_remote_replicas_start_though_their_address_finds_no_room(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        control, saved = service(folder), Store(str(folder))
        bootstrap: Any = control._replica_bootstrap
        with no_room():
            first = msgspec.msgpack.decode(await bootstrap("r2", "b", "127.0.0.1", Remote()))
        assert "workers on other machines would not find a later controller" in caplog.text
        assert saved.addresses() == {}
        for _ in range(2):
            assert msgspec.msgpack.decode(await bootstrap("r2", "b", "127.0.0.1", Remote())) == first
        assert [f"tcp:{host}:{port}" for host, port in saved.addresses().items()] == first["control"]
        with no_room():  # It is saved: there is nothing to write.
            caplog.clear()
            await bootstrap("r2", "b", "127.0.0.1", Remote())
        assert not caplog.text
        saved.close()
        await control.stop(0.0)

    asyncio.run(test())


def test_a_worker_that_cannot_be_forgotten_keeps_no_controller_from_starting(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        control = service(folder, f"unix:{folder}/no/such/folder")
        with no_room(), pytest.raises(OSError, match="No such file"):  # What follows has begun.
            await control.start()
        assert "replica gone r1 is in the store yet" in caplog.text
        await control.stop(0.0)

    asyncio.run(test())

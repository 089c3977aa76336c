"""A shadow of a standing instance is there again when its controller is, and when it is."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest
from instance_handlers import Named
from instance_tools import attach, controller, descendants, started_standing
from tests.support.waiting import until

import servekit as serve
from servekit.cli.main import main

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("detached")]


def compares(instance: serve.Instance) -> None:
    """Requests are copied, once the shadow's replica is there, and the two answers are compared."""
    before = instance.shadow_report("e")["pairs"]

    def more() -> bool:
        assert httpx.get(f"{instance.url}/e?hello", timeout=30).json()["name"] == "one"
        return bool(instance.shadow_report("e")["pairs"] > before)

    until(more)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_shadow_outlives_its_controller_and_the_instance(temporary: Path) -> None:
    with started_standing() as keeper:
        instance = attach()
        instance.create_backend("v1", Named, "one")
        instance.create_backend("v3", Named, "three")
        instance.create_endpoint("e", "/e", backend="v1")
        instance.shadow("e", "v3", share=1.0, noise=0.0, ignore=["/pid"])
        compares(instance)
        shadows, killed = instance.status()["shadows"], controller(keeper)
        os.kill(killed, signal.SIGKILL)
        until(lambda: not any(process.pid == killed for process in descendants(keeper.pid)))
        assert instance.status()["shadows"] == shadows
        compares(instance)
        (path,) = instance.shadow_report("e")["paths"]
        assert path["path"] == "/name"
        assert main(["stop"]) == 0
        keeper.wait(60)
    with started_standing():
        instance = attach()
        assert instance.status()["shadows"] == shadows
        compares(instance)

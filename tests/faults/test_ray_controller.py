"""A standing instance's controller is killed: the next one adopts every replica on Ray, and no request notices."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from benchmarks.faults.load import Load
from instance_tools import Scripts, replicas
from ray_tools import controller, serve_echo, standing_on_ray
from tests.support.waiting import until

import servekit as serve
from servekit import errors

pytestmark = [
    pytest.mark.processes,
    pytest.mark.ray,
    # httpcore leaves the socket of a refused connection to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

KILLS = 2


def lasting(instance: serve.Instance) -> dict[str, Any]:
    """What of the ready replicas does not change while they live."""
    return {name: {(one["id"], one["pid"]) for one in replicas(instance, name)} for name in ("fast", "slow")}


@pytest.mark.parametrize("links", ["auto", "tcp"])
def test_its_replicas_are_adopted_and_no_request_fails(scripts: Scripts, ray_address: str, links: str) -> None:
    with standing_on_ray(scripts, {"address": ray_address, "links": links}) as (instance, keeper):
        serve_echo(instance, "fast")
        serve_echo(instance, "slow", 0.5)
        before = lasting(instance)

        def adopted() -> bool:
            try:
                return lasting(instance) == before
            except errors.ControllerGoneError:
                return False

        with Load(instance.url, "/fast", gets=8, posts=2) as fast, Load(instance.url, "/slow", gets=8, posts=2) as slow:
            for _ in range(KILLS):
                killed = controller(keeper).pid
                os.kill(killed, signal.SIGKILL)
                until(lambda killed=killed: controller(keeper).pid != killed)  # type: ignore[misc]
                until(adopted)
                fast.more(500)
                slow.more(10)
        assert not fast.counts.failed, str(fast.counts)
        assert not slow.counts.failed, str(slow.counts)
        assert lasting(instance) == before

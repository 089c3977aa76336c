"""Roll-outs of a standing instance, whose controller is killed: each goes on where it was, with the traffic of that."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import instance_handlers
import pytest
from instance_tools import controller
from tests.support.waiting import until

import servekit as serve

pytestmark = [
    pytest.mark.processes,
    pytest.mark.runtimes("process"),
    # httpcore leaves its socket open when a Unix socket refuses the connection.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

LONG_S = 3600.0
SURE = {"min_requests": 5, "failures_in_row": 1, "look_every_s": 0.5}


@pytest.fixture
def instance(standing: subprocess.Popen[str], tmp_path: Path) -> Iterator[serve.Instance]:
    """A standing one: endpoint ``e`` has its traffic on ``v1``, and ``v2`` waits for the file ``gate``."""
    serve.shutdown()
    with serve.init(address="auto") as instance:
        instance.create_backend("v1", instance_handlers.Named, "v1")
        instance.create_backend("v2", instance_handlers.ReadyLater, "v2", str(tmp_path / "gate"), wait=False)
        instance.create_endpoint("e", "/e", backend="v1")
        yield instance


@pytest.fixture
def kill_controller(standing: subprocess.Popen[str]) -> Callable[[], None]:
    """Kill the controller; return when another is there."""

    def kill() -> None:
        pid = controller(standing)
        os.kill(pid, signal.SIGKILL)
        until(lambda: others(standing, pid))

    return kill


def others(standing: subprocess.Popen[str], pid: int) -> bool:
    try:
        return controller(standing) != pid
    except ValueError:  # None is there.
        return False


def told(instance: serve.Instance) -> dict[str, Any]:
    found: dict[str, Any] = instance.status()["rollouts"]["e"]
    return found


def seen(instance: serve.Instance) -> int:
    return sum(each["requests"] for each in told(instance)["seen"].values())


def names(client: httpx.Client, count: int = 4) -> list[str]:
    return sorted(client.get("/e").raise_for_status().json()["name"] for _ in range(count))


@pytest.fixture
def client(instance: serve.Instance) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=instance.url, timeout=60) as client:
        yield client


def test_it_goes_on_in_every_state(
    instance: serve.Instance, client: httpx.Client, kill_controller: Callable[[], None], tmp_path: Path
) -> None:
    def begin(**more: Any) -> None:
        options = {"steps": [0.5, 1.0], "hold_s": LONG_S, "warmup_s": 0.0, "max_duration_s": LONG_S, **more}
        instance.rollout("e", to="v2", judge="threshold", judge_options=SURE, **options)

    begin()
    assert told(instance)["state"] == "waiting"
    kill_controller()
    assert (told(instance)["state"], instance.get_traffic("e")) == ("waiting", {"v1": 1.0})
    (tmp_path / "gate").touch()
    until(lambda: told(instance)["state"] == "holding")
    assert instance.get_traffic("e") == {"v1": 0.5, "v2": 0.5}

    until(lambda: names(client) and told(instance)["verdict"] == "no_worse")
    before = seen(instance)
    kill_controller()
    until(lambda: told(instance)["verdict"] == "no_worse")
    assert seen(instance) >= before > 0, "what was counted is known"
    assert names(client) == ["v1", "v1", "v2", "v2"]

    instance.pause_rollout("e", "for a look")
    kill_controller()
    assert (told(instance)["state"], told(instance)["reason"]) == ("paused", "for a look")
    assert instance.get_traffic("e") == {"v1": 0.5, "v2": 0.5}
    with pytest.raises(serve.ServekitError, match="abort_rollout"):
        instance.set_traffic("e", {"v2": 1.0})
    instance.abort_rollout("e")
    kill_controller()
    assert (told(instance)["state"], instance.get_traffic("e")) == ("rolled_back", {"v1": 1.0})
    assert set(names(client)) == {"v1"}

    begin(hold_s=0.1, max_duration_s=1.0)
    until(lambda: told(instance)["state"] == "inconclusive")
    kill_controller()
    assert (told(instance)["state"], instance.get_traffic("e")) == ("inconclusive", {"v1": 0.5, "v2": 0.5})
    instance.promote_rollout("e")
    kill_controller()
    assert (told(instance)["state"], instance.get_traffic("e")) == ("promoted", {"v2": 1.0})
    assert set(names(client)) == {"v2"}

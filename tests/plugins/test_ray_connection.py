"""The connection to a Ray, with a stub in place of the agent: it has no Ray."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from tests.support.full_disk import no_room

from servekit.errors import InstanceStartError
from servekit.interfaces import RuntimeContext
from servekit.processes import ProcessIdentity, identify, is_alive
from servekit_ray import cluster, connection
from servekit_ray.agent_link import AgentLostError
from servekit_ray.asks import Attached
from servekit_ray.connection import Connection, Known

ADDRESS = "127.0.0.1:1"


class StubAgent:
    made: ClassVar[list[StubAgent]] = []
    refuses: ClassVar[bool] = False

    def __init__(self, environ: Mapping[str, str], prefix: str, *, owned: bool) -> None:
        self.has_ended = False
        self.made.append(self)

    def ask(self, ask: Any, answer: Any, timeout_s: float) -> Any:
        if self.refuses:
            raise AgentLostError("it is no Ray")
        return Attached("session", "127.0.0.1", None)

    def kill(self) -> None:
        self.has_ended = True

    close = kill


@pytest.fixture(autouse=True)
def agents(monkeypatch: pytest.MonkeyPatch) -> list[StubAgent]:
    """The agents that are made."""
    monkeypatch.setattr(StubAgent, "made", [])
    monkeypatch.setattr(connection, "AgentLink", StubAgent)
    monkeypatch.setattr(cluster, "require_ray", lambda: None)
    monkeypatch.setattr(cluster, "answers", lambda address: True)
    return StubAgent.made


@pytest.fixture
def keeper() -> Iterator[ProcessIdentity]:
    """A process in the place of a keeper, which an earlier controller has started."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True) as child:
        identity = identify(child.pid)
        assert identity is not None
        yield identity
        child.kill()


def record(path: Path, instance: str, keeper: ProcessIdentity | None) -> None:
    path.write_bytes(msgspec.json.encode(Known(ADDRESS, "a Ray", Attached("old", "127.0.0.1", None), keeper, instance)))


def record_path(folder: Path) -> Path:
    """Where a connection to `ADDRESS` has its record."""
    earlier = Connection(ADDRESS, None, {})
    earlier.open(RuntimeContext("a", True, str(folder)))
    (path,) = folder.glob("ray-*.json")
    earlier.close()
    return path


def test_a_record_that_finds_no_room_costs_neither_the_connection_nor_an_agent(
    agents: list[StubAgent], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ray = Connection(ADDRESS, None, {})
    with no_room():
        ray.open(RuntimeContext("a", True, str(tmp_path)))
    try:
        assert ray.is_up
        assert [agent.has_ended for agent in agents] == [False]
        assert f"a later controller will not know of the Ray cluster at {ADDRESS}" in caplog.text
    finally:
        ray.close()
    assert agents[0].has_ended


def test_whatever_fails_before_an_agent_is_kept_ends_it(
    agents: list[StubAgent], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(connection, "write_private", fail)
    with pytest.raises(MemoryError):
        Connection(ADDRESS, None, {}).open(RuntimeContext("a", True, str(tmp_path)))
    assert [agent.has_ended for agent in agents] == [True]


def test_a_later_controller_is_connected_in_the_background(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keeper: ProcessIdentity
) -> None:
    record(record_path(tmp_path), "a", keeper)
    monkeypatch.setattr(StubAgent, "refuses", True)
    ray = Connection(ADDRESS, None, {})
    ray.open(RuntimeContext("a", True, str(tmp_path)))
    assert not ray.is_up
    assert is_alive(keeper)
    ray.close()
    assert not is_alive(keeper)


def test_a_bad_ray_is_an_error_at_start_though_a_killed_instance_has_left_a_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record(record_path(tmp_path), "a", None)
    monkeypatch.setattr(StubAgent, "refuses", True)
    with pytest.raises(InstanceStartError, match="it is no Ray"):
        Connection(ADDRESS, None, {}).open(RuntimeContext("b", True, str(tmp_path)))


@pytest.mark.parametrize("refuses", [False, True])
def test_local_rays_that_a_killed_instance_has_left_are_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keeper: ProcessIdentity, refuses: bool
) -> None:
    record(tmp_path / "ray-00000000.json", "a", keeper)  # Of other options.
    monkeypatch.setattr(StubAgent, "refuses", refuses)
    ray = Connection(ADDRESS, None, {})
    if refuses:
        with pytest.raises(InstanceStartError):
            ray.open(RuntimeContext("b", True, str(tmp_path)))
    else:
        ray.open(RuntimeContext("b", True, str(tmp_path)))
    assert not is_alive(keeper)
    ray.close()

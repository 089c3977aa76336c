"""Every hook of an observing plugin, on a whole instance: told what happens, whatever another observer does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from importlib_metadata import EntryPoint, entry_points

import servekit
from servekit.factories import load_path
from servekit.interfaces import ReplicaEvent, TrafficEvent
from servekit.plugins import Registry, discover
from servekit.testing.instances import serve

OBSERVER = """
from servekit.hookspecs import hookimpl

events, records = [], []

@hookimpl
def servekit_replica_state_changed(event):
    events.append(event)
    raise RuntimeError("its own trouble")

@hookimpl
def servekit_traffic_changed(event):
    events.append(event)

@hookimpl
def servekit_requests_finished(records):
    globals()["records"].extend(records)
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    (tmp_path / "watching.py").write_text(OBSERVER)
    monkeypatch.syspath_prepend(str(tmp_path))
    bundled = [point for point in entry_points(group="servekit") if point.name in ("flask", "process", "weighted")]
    found = discover(entry_points=[*bundled, EntryPoint("watching", "watching", "servekit")])
    assert found.problems == ()
    yield found
    sys.modules.pop("watching", None)


def watching() -> ModuleType:
    load_path("watching:events")
    return sys.modules["watching"]


def test_observers_are_told_what_happens(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    with serve(registry) as served:
        servekit.create_backend("b", lambda request: "")
        servekit.create_endpoint("e", "/e", backend="b")
        answer: httpx.Response = served.client.get("/e")
        assert served.client.get("/none").status_code == 404
        (replica,) = (entry["id"] for entry in servekit.status()["backends"]["b"]["replicas"])
    seen = watching()
    states = [event.state for event in seen.events if isinstance(event, ReplicaEvent)]
    assert states == ["starting", "ready", "draining", "gone"]
    assert {event.replica for event in seen.events if isinstance(event, ReplicaEvent)} == {replica}
    assert [event for event in seen.events if isinstance(event, TrafficEvent)] == [TrafficEvent("e", {"b": 1.0})]
    routed, unrouted = seen.records
    assert (routed.id, routed.endpoint, routed.backend, routed.replica) == (
        answer.headers["x-request-id"],
        "e",
        "b",
        replica,
    )
    assert (unrouted.status, unrouted.path, unrouted.replica) == (404, "/none", "")
    blamed = [
        record.getMessage() for record in caplog.records if "servekit_replica_state_changed" in record.getMessage()
    ]
    assert len(blamed) == len(states)

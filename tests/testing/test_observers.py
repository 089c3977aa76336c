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
from servekit.errors import PluginOptionsError, UnknownPluginError
from servekit.factories import load_path
from servekit.inprocess import InProcessInstance
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

TELLING = """
from servekit.hookspecs import hookimpl
from servekit.interfaces import RequestObserver

made = []

class Telling(RequestObserver):
    trace_share = 1.0

    def __init__(self, words: list[str] = []):
        self.words, self.seen, self.closed = words, [], 0
        made.append(self)

    def requests_finished(self, records):
        self.seen += records

    def close(self):
        self.closed += 1

@hookimpl
def servekit_register_request_observers():
    return {"telling": Telling}
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


def test_a_request_observer_is_chosen_by_name_with_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "telling.py").write_text(TELLING)
    monkeypatch.syspath_prepend(str(tmp_path))
    bundled = [point for point in entry_points(group="servekit") if point.name in ("flask", "process", "weighted")]
    registry = discover(entry_points=[*bundled, EntryPoint("telling", "telling", "servekit")])
    assert "request observers telling" in "\n".join(registry.loaded)
    with pytest.raises(PluginOptionsError, match="request observer 'telling'.* has no option 'word'"):
        InProcessInstance(registry, observers={"telling": {"word": 1}})
    with pytest.raises(UnknownPluginError, match="no request observer is called 'tells'; did you mean 'telling'"):
        InProcessInstance(registry, observers={"tells": {}})
    with InProcessInstance(registry, observers={"telling": {"words": ["one"]}}) as instance:
        instance.create_backend("b", lambda request: request.headers["traceparent"])
        instance.create_endpoint("e", "/e", backend="b")
        with httpx.Client(transport=httpx.HTTPTransport(uds=instance.http_socket), base_url=instance.url) as client:
            trace = client.get("/e").text
    try:
        checked, used = sys.modules["telling"].made
    finally:
        sys.modules.pop("telling")
    assert (checked.seen, checked.closed) == ([], 1), "the controller makes one, to see whether it can be made"
    assert ([record.trace for record in used.seen], used.closed, used.words) == ([trace], 1, ["one"])

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ingress.conftest import World

from servekit.ingress import recent as recent_module
from servekit.ingress.recent import RecentRequests, RequestKind
from servekit.interfaces import RequestRecord


def whole(request_id: str) -> RequestRecord:
    return RequestRecord(request_id, "e", "b", "r1", "GET", "/x", 500, 0.5)


def served(world: World) -> World:
    world.shared.observe = None  # Or every request is handed on, and none packed.
    world.apply(world.backend(max_concurrent_queries=9), world.endpoint())
    return world


def ask(world: World, request_id: str, **more: Any) -> Any:
    asked = world.ask(headers=[("x-request-id", request_id)])
    world.answer("r1", world.calls("r1")[-1], service_us=0, **more)
    return asked


def test_a_usual_request_is_packed_and_found_by_its_id(world: World) -> None:
    served(world)
    ask(world, "mine", body=b"four")
    ask(world, "other")
    recent = world.shared.recent
    assert not recent.whole
    (found,) = recent.of("mine")
    names = (found.id, found.endpoint, found.route, found.backend, found.replica, found.method, found.path)
    assert names == ("mine", "e", "/x", "b", "r1", "GET", "/x")
    assert (found.status, found.error, found.body_bytes, found.sends, found.ahead) == (200, "", 4, 1, 0)
    assert 0 <= found.sent_s <= found.began_s == found.latency_s < 60
    assert found.ended_at == pytest.approx(recent.began_at, abs=60)
    assert found.snapshot == world.shared.snapshot
    assert recent.of("nobody's") == []


@pytest.mark.parametrize("way", ["failed", "slow", "unrouted"])
def test_what_is_unusual_is_kept_whole(world: World, way: str) -> None:
    served(world)
    world.router.endpoints["e"].slow_s = 0.0 if way == "slow" else math.inf
    if way == "unrouted":
        world.ask("/none", headers=[("x-request-id", "mine")])
    else:
        ask(world, "mine", status=500 if way == "failed" else 200)
    (found,) = world.shared.recent.of("mine")
    assert bool(world.shared.recent.whole) == (way != "unrouted")
    assert found.status == {"failed": 500, "slow": 200, "unrouted": 404}[way]


def test_more_kinds_than_there_may_be_are_forgotten_with_all_that_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent_module, "MOST_KINDS", 2)
    served(world)
    for request_id, status in (("a", 200), ("b", 201), ("c", 200)):
        ask(world, request_id, status=status)
    assert len(world.shared.recent) == 3
    ask(world, "d", status=202)
    ask(world, "e", status=200)
    assert [len(world.shared.recent.of(each)) for each in "abcde"] == [0, 0, 0, 1, 1]
    assert [status for _, status, _ in world.shared.recent.last(9, 9)] == [202, 200]


@given(st.integers(1, 6), st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
def test_it_is_a_ring(most: int, requests: list[tuple[str, bool]]) -> None:
    ring = RecentRequests(most)
    number = ring.number_of(RequestKind("e", "/x", "b", "r1", "GET", 200, ""))
    for at, (request_id, packed) in enumerate(requests):
        if packed:
            values = (hash(request_id), float(at), 1.0, 0.0, 0, 1, 1, number, 0, 0, 0)
            recent_module.PACKED.pack_into(ring.memory, at % most * recent_module.PACKED_BYTES, *values)
            ring.added += 1
        else:
            ring.append(whole(request_id))
    left = requests[-most:]
    assert len(ring) == len(left)
    assert [record.status for record in ring] == [200 if packed else 500 for _, packed in left]
    assert [status for _, status, _ in ring.last(most, most)] == [record.status for record in ring]
    for request_id in "abcd":
        found = ring.of(request_id)
        assert [record.status for record in found] == [
            200 if packed else 500 for one, packed in left if one == request_id
        ]
        assert {record.id for record in found} <= {request_id}

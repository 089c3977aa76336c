"""What ingress workers counted, by endpoint and by backend."""

from __future__ import annotations

from typing import Any

import pytest

from servekit.control.counts import Counts


@pytest.fixture
def totals(new_totals: Any) -> Any:
    return new_totals()


def requests(stat: dict[str, Any], side: str = "endpoints") -> dict[str, int]:
    return {name: entry["requests"] for name, entry in stat[side].items()}


def test_what_was_deleted_is_forgotten(totals: Any) -> None:
    counts = Counts(totals)
    totals.count("e", "b", 200, 3, 0.3, failovers=1)
    totals.count("e", "b", 502, 4, 0.0, error="deadly_request")
    old = totals.count("old", "gone", 200, 1, 0.1, failovers=2)
    counts.keep_only({"e"}, {"b"})
    stat = counts.stat()
    assert requests(stat) == {"e": 7}
    assert (stat["endpoints"]["e"]["failovers"], stat["endpoints"]["e"]["deadly"]) == (1, 4)
    assert list(stat["backends"]) == ["b"]
    old[3] += 5  # Another one has its name.
    assert requests(counts.stat()) == {"e": 7, "old": 5}
    assert counts.stat()["endpoints"]["old"]["failovers"] == 0


def test_what_has_counted_nothing_yet_is_told_where_it_is_asked_for(totals: Any) -> None:
    counts = Counts(totals)
    totals.count("e", "b", 200, 3, 0.3)
    counts.sample()
    stat = counts.stat(["e", "new"], ["b", "idle"])
    assert requests(stat) == {"e": 3, "new": 0}
    assert requests(stat, "backends") == {"b": 3, "idle": 0}
    nothing = {"p50": None, "p90": None, "p99": None}
    assert stat["endpoints"]["new"] == {
        "requests": 0,
        "by_status": {},
        "mean_latency_s": 0.0,
        "latency_s": {"minute": nothing, "hour": nothing},
        "failovers": 0,
        "deadly": 0,
        "backends": {},
    }


def test_of_a_backend_that_endpoints_share_each_has_a_part(totals: Any) -> None:
    counts = Counts(totals)
    counts.sample()
    totals.count("e", "b", 200, 3, 0.3)
    totals.count("e", "a", 200, 1, 0.1)
    totals.count("f", "b", 500, 2, 4.0)
    counts.sample()
    stat = counts.stat()
    assert requests(stat, "backends") == {"a": 1, "b": 5}
    assert requests(stat["endpoints"]["e"], "backends") == {"a": 1, "b": 3}
    assert stat["endpoints"]["f"]["backends"]["b"]["by_status"] == {"500": 2}
    assert stat["endpoints"]["f"]["backends"]["b"]["latency_s"]["minute"]["p50"] > 1.0
    assert sorted(counts.parts()) == [("e", "a"), ("e", "b"), ("f", "b")]
    assert [(point.requests, point.errors) for point in counts.history("f", "b")] == [(2, 2)]


@pytest.mark.parametrize("last", ["endpoint", "backend"])
def test_a_part_begins_anew_with_each_of_its_two(totals: Any, last: str) -> None:
    counts = Counts(totals)
    totals.count("e", "b", 200, 3, 0.3)
    both, either = ({"e"}, {"b"}), [(set(), {"b"}), ({"e"}, set())]
    for present in either if last == "backend" else either[::-1]:
        counts.sample()
        counts.keep_only(*present)
        counts.keep_only(*both)
        assert counts.parts() == []
        totals.count("e", "b", 200, 1, 0.1)
    assert requests(counts.stat()["endpoints"]["e"], "backends") == {"b": 1}
    assert requests(counts.stat(), f"{last}s") == {last[0]: 1}


def test_a_backend_that_was_deleted_is_of_its_endpoint_yet(totals: Any) -> None:
    counts = Counts(totals)
    totals.count("e", "a", 200, 1, 0.1)
    totals.count("e", "b", 200, 2, 0.1)
    counts.keep_only({"e"}, {"b"})
    assert requests(counts.stat()) == {"e": 3}
    assert requests(counts.stat(), "backends") == {"b": 2}


def test_the_percentiles_are_of_what_came_since_the_controller_began(totals: Any) -> None:
    totals.count("e", "b", 200, 100, 300.0)
    counts = Counts(totals)
    counts.sample()
    nothing = {"p50": None, "p90": None, "p99": None}
    assert counts.stat()["endpoints"]["e"]["latency_s"] == {"minute": nothing, "hour": nothing}
    totals.count("e", "b", 200, 10, 0.02)  # Each in 2 ms.
    for _ in range(2):
        told = counts.stat()["backends"]["b"]["latency_s"]
        assert 0.0015 <= told["minute"]["p50"] <= told["minute"]["p99"] <= 0.002
        counts.sample()
    totals.count("e", "b", 503, 1, 0.5)
    counts.sample()
    first, second, third, last = counts.history("e", "")
    assert (first.requests, first.p50, second.requests, third.requests) == (0, None, 10, 0)
    assert (last.requests, last.errors, last.mean_s) == (1, 1, 0.5)
    assert counts.history("other", "") == []

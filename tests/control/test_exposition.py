"""Families of metrics as text, and the bound on series."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from servekit.control.exposition import Family, bounded, bounded_metrics, render
from servekit.control.request_metrics import request_families
from servekit.tallies import BOUNDS, BYTES_IN, FIRST_BYTE, HANDLER, RESENDS, SLOTS, SUM

OPENMETRICS = "application/openmetrics-text; version=1.0.0; q=0.9, text/plain; q=0.1"


def samples(text: bytes, parse: Any = parse_text) -> dict[str, dict[tuple[str, ...], float]]:
    """By name, the values by those of the labels, in the labels' order."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in parse(text.decode()):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def histogram(*rows: str) -> Family:
    counts = [*range(len(BOUNDS) + 1)]
    return Family("h_seconds", "histogram", "H.", ("name",), [((row,), (counts, 1.5)) for row in rows])


@pytest.mark.parametrize(("accept", "parse"), [("", parse_text), (OPENMETRICS, parse_openmetrics)])
def test_all_kinds_in_both_formats(accept: str, parse: Any) -> None:
    odd = 'a"\\\n é'
    families = [
        Family("c_total", "counter", "C.", ("x", "y"), [(("1", odd), 3)]),
        Family("g_bytes", "gauge", "G.", (), [((), 0.5)]),
        histogram("e"),
    ]
    text, content_type = render(families, accept)
    found = samples(text, parse)
    assert ("openmetrics" in content_type) == bool(accept)
    assert found["c_total"] == {("1", odd): 3}
    assert found["g_bytes"] == {(): 0.5}
    assert found["h_seconds_sum"] == {("e",): 1.5}
    total = sum(range(len(BOUNDS) + 1))
    assert found["h_seconds_count"] == {("e",): total}
    assert found["h_seconds_bucket"]["0.01", "e"] == 1
    assert found["h_seconds_bucket"]["+Inf", "e"] == total


@pytest.mark.parametrize("accept", ["*/*", "application/openmetrics-text; version=x", "text/plain;version=9;;=", ";,"])
def test_whatever_is_accepted_there_is_an_answer(accept: str) -> None:
    assert b"g 1.0" in render([Family("g", "gauge", "G.", (), [((), 1)])], accept)[0]


def test_what_is_beyond_the_bound_is_left_out_and_counted() -> None:
    gauges = Family("g", "gauge", "G.", ("x",), [((str(n),), n) for n in range(10)])
    per_row = histogram().series_per_row
    kept, dropped = bounded([gauges, histogram("a", "b", "c")], 10 + 2 * per_row)
    assert [len(family.rows) for family in kept] == [10, 2]
    assert dropped == per_row
    text, _ = render(kept, "")
    assert sum(len(values) for values in samples(text).values()) == 10 + 2 * per_row
    assert bounded([gauges], 10)[1] == 0


def test_what_is_old_is_left_out_first() -> None:
    gauges = Family("g", "gauge", "G.", ("name",), [(("gone",), 1), (("there",), 2)])
    families = [gauges, histogram("gone", "there")]
    per_row = histogram().series_per_row
    kept, dropped = bounded(families, 1 + per_row + 1, lambda labels: labels["name"] == "gone")
    assert [[labels for labels, _ in family.rows] for family in kept] == [[("there",), ("gone",)], [("there",)]]
    assert dropped == per_row


def test_requests_by_their_labels() -> None:
    def slots(requests: int, **more: int) -> list[int]:
        found = [0] * SLOTS
        found[5] = requests
        for at, number in more.items():
            found[int(at[1:])] = number
        return found

    handler = {f"_{HANDLER}": 3, f"_{HANDLER + SUM}": 1_500_000, f"_{BYTES_IN}": 10, f"_{RESENDS}": 1}
    sums: Any = {
        ("request", "e", "b", "GET", 200, ""): slots(3, **handler),
        ("request", "e", "b", "GET", 500, ""): slots(1),
        ("request", "e", "b", "GET", 500, "handler_failed"): slots(2),
        ("request", "e", "b", "POST", 502, "replica_died"): slots(4),
        ("request", "e", "a", "POST", 502, "replica_died"): slots(5),
        ("request", "e", "a", "GET", 200, "broken_off"): slots(6, **{f"_{FIRST_BYTE}": 6}),
        ("request", "", "", "GET", 404, "not_found"): slots(7),
        ("restart", "b", "exited"): slots(99),
    }
    text, _ = render(list(request_families(sums)), "")
    found = samples(text)
    assert found["servekit_http_requests_total"] == {
        ("b", "e", "GET", "200"): 3,
        ("b", "e", "GET", "500"): 3,
        ("b", "e", "POST", "502"): 4,
        ("a", "e", "POST", "502"): 5,
        ("a", "e", "GET", "200"): 6,
        ("", "", "GET", "404"): 7,
    }
    assert found["servekit_http_request_duration_seconds_count"] == found["servekit_http_requests_total"]
    assert found["servekit_http_refusals_total"] == {("e", "replica_died"): 9, ("", "not_found"): 7}
    assert found["servekit_http_failures_total"] == {("b", "e", "handler_failed"): 2, ("a", "e", "broken_off"): 6}
    assert found["servekit_http_request_handler_seconds_sum"] == {("b", "e"): 1.5}
    assert found["servekit_http_request_first_byte_seconds_count"] == {("a", "e"): 6}
    assert found["servekit_http_request_body_bytes_total"]["b", "e"] == 10
    assert found["servekit_http_resends_total"]["b", "e"] == 1


def told(name: str, series: int) -> Metric:
    metric = Metric(name, "T.", "counter")
    for number in range(series):
        metric.add_sample(f"{name}_total", {"n": str(number)}, number)
    return metric


def test_parts_of_a_metric_are_one_metric() -> None:
    kept, dropped = bounded_metrics([told("a", 3), told("b", 1), told("a", 4), told("a", 1)], 6)
    assert ([(metric.name, len(metric.samples)) for metric in kept], dropped) == ([("a", 4), ("b", 1)], 4)


def test_what_replicas_tell_is_whole_or_left_out() -> None:
    kept, dropped = bounded_metrics([told("a", 3), told("b", 4), told("c", 2), told("d", 1)], 5)
    assert ([metric.name for metric in kept], dropped) == (["a", "c"], 5)
    assert bounded_metrics([told("a", 3)], 0) == ([], 3)


@pytest.mark.parametrize(("accept", "parse"), [("", parse_text), (OPENMETRICS, parse_openmetrics)])
def test_what_replicas_tell_comes_behind(accept: str, parse: Any) -> None:
    text, _ = render([Family("c_total", "counter", "C.", (), [((), 3)])], accept, [told("words", 2)])
    assert samples(text, parse) == {"c_total": {(): 3}, "words_total": {("0",): 0, ("1",): 1}}

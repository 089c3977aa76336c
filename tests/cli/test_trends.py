"""What is drawn of the last minutes."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from servekit.cli.status import trends_table
from servekit.cli.trends import (
    BLOCKS,
    CELL_S,
    CELLS,
    PLAIN_BLOCKS,
    Reading,
    Span,
    Trend,
    Trends,
    reading_of,
    shares,
    sparkline,
)


def told(requests: int, *, failed: int = 0, mean_s: float = 0.01, **more: Any) -> dict[str, Any]:
    by_status = {"200": requests - failed, "503": failed}
    return {"requests": requests, "by_status": by_status, "mean_latency_s": mean_s, **more}


def steady(seconds: int, rate: int = 50, begins: float = 1000.0) -> Trend:
    trend = Trend()
    for second in range(seconds + 1):
        trend.add(Reading(begins + second, second * rate, second * rate // 10, 0.02))
    return trend


def test_a_reading_is_of_what_stat_says() -> None:
    assert reading_of(7.0, told(200, failed=3, mean_s=0.5)) == Reading(7.0, 200, 3)
    assert reading_of(7.0, None) == Reading(7.0)
    minute = {"latency_s": {"minute": {"p50": 0.1, "p99": 0.7}, "hour": {}}}
    assert reading_of(7.0, told(1, **minute)).p99_s == 0.7
    assert reading_of(7.0, told(1, latency_s={"minute": {"p99": None}})).p99_s is None


def test_rates_errors_and_latencies_are_those_of_the_last_seconds() -> None:
    trend = steady(60)
    assert trend.now() == pytest.approx((50.0, 0.1, 0.02))
    trend.add(Reading(1070.0, 3000, 300))
    assert trend.now() == Span(0.0)


def test_one_reading_says_nothing_yet() -> None:
    trend = Trend()
    trend.add(Reading(1000.0, 9_000_000))
    assert trend.now() == Span()
    assert trend.cells() == [Span()] * CELLS
    assert sparkline([cell.rate for cell in trend.cells()]) == " " * CELLS


def test_cells_are_of_the_last_minutes_and_stay_where_they_are() -> None:
    trend = steady(int(CELLS * CELL_S * 2))
    assert [cell.rate for cell in trend.cells()[:-1]] == pytest.approx([50.0] * (CELLS - 1))
    short = steady(35).cells()
    assert [cell.rate is None for cell in short] == [True] * (CELLS - 4) + [False] * 4
    assert steady(39).cells()[-4:-1] == short[-4:-1]


def test_the_percentile_is_taken_where_it_is_said() -> None:
    trend = Trend()
    for second, p99_s in enumerate([None, 0.1, 0.3, 0.2]):
        trend.add(Reading(1000.0 + second, second, 0, p99_s))
    assert trend.now().latency_s == 0.2
    assert trend.cells()[-1].latency_s == 0.3


def test_a_controller_that_counts_from_the_beginning_is_no_negative_rate() -> None:
    trends = Trends()
    for at, requests in ((1.0, 500), (2.0, 600), (3.0, 20), (4.0, 30)):
        trend = trends.add(at, {"endpoints": {"e": told(requests)}}, ["e", "quiet"])["e"]
    assert trend.now().rate == 10.0
    assert trends.add(5.0, {"endpoints": {}}, ["quiet"]).keys() == {"quiet"}


@given(st.lists(st.tuples(st.floats(0.1, 100), st.integers(0, 1000)), min_size=1, max_size=600))
def test_rates_are_never_below_0_and_never_above_all_that_came(steps: list[tuple[float, int]]) -> None:
    trend, at, requests = Trend(), 0.0, 0
    for pause_s, more in steps:
        at, requests = at + pause_s, requests + more
        trend.add(Reading(at, requests))
    cells = [cell.rate for cell in [*trend.cells(), trend.now()] if cell.rate is not None]
    fastest = max(more / pause_s for pause_s, more in steps)
    assert all(0 <= rate <= fastest * 1.000001 for rate in cells)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e9))))
def test_a_sparkline_has_a_character_a_value_and_the_greatest_is_the_highest(values: list[float | None]) -> None:
    line = sparkline(values)
    assert len(line) == len(values)
    assert set(line) <= {" ", *BLOCKS}
    numbers = [value for value in values if value is not None]
    if numbers and max(numbers) > 0:
        assert line[values.index(max(numbers))] == BLOCKS[-1]
    for value, other, one, two in zip(values, values[1:], line, line[1:], strict=False):
        if value is not None and other is not None and value <= other:
            assert BLOCKS.index(one) <= BLOCKS.index(two)


def test_a_sparkline() -> None:
    assert sparkline([0, 1, 2, 4, None, 8]) == "▁▂▃▅ █"
    assert sparkline([0, 8], PLAIN_BLOCKS) == "_#"
    assert sparkline([0.0, 0.0]) == "▁▁"


@given(st.integers(-5, 100), st.lists(st.integers(0, 50), min_size=1))
def test_rows_are_shared(rows: int, wanted: list[int]) -> None:
    found = shares(rows, wanted)
    if sum(max(each, 1) for each in wanted) <= rows:
        assert [max(each, 1) for each in wanted] == found
    assert all(1 <= each <= max(1, want) for each, want in zip(found, wanted, strict=True))
    assert sum(found) <= max(rows, 0) + len(wanted)


def test_the_table_fits_80_columns() -> None:
    trends = {"e": steady(60), "a_name_that_is_longer_than_others": steady(200, 123_456), "new": steady(0)}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(trends_table(trends))
    lines = console.export_text().splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["LAST", "3", "MIN", "REQ/S", "5XX", "P99"]
    assert lines[1].split() == ["e", "50.0", "█" * 6, "10%", "20.0", "ms", "█" * 7]
    assert lines[2].split()[1:2] == ["123456"]
    assert lines[3].split() == ["new", "20.0", "ms", "█"]

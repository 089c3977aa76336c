from __future__ import annotations

import json

import pytest
from benchmarks.cases import Figure
from benchmarks.report import Report, Summary, advantage, as_json, fill_page, number, summary, table, text

RATE = Figure("hello", "requests/s", "high")
TIME = Figure("start", "s", "low")


def a_report() -> Report:
    report = Report({"CPUs": "2 of X"}, {"servekit": "servekit 1", "other": "other 2"})
    for value in (100.0, 400.0, 300.0):
        report.add(RATE, "servekit", value)
        report.add(RATE, "other", value / 4)
    return report


def test_a_summary_is_median_minimum_and_maximum() -> None:
    assert summary([5.0, 1.0, 2.0]) == Summary(median=2.0, low=1.0, high=5.0)


def test_an_advantage_above_1_is_better_whichever_way_the_figure_goes() -> None:
    assert advantage(RATE, 400.0, 100.0) == 4.0
    assert advantage(TIME, 1.0, 4.0) == 4.0


@pytest.mark.parametrize("values", [(0.0, 1.0), (1.0, 0.0), (-1.0, 2.0)])
def test_there_is_no_advantage_over_nothing(values: tuple[float, float]) -> None:
    assert advantage(RATE, *values) is None


def test_a_table_has_a_line_for_each_peer_in_order() -> None:
    lines = table(RATE, a_report().samples[RATE], ["servekit", "other", "absent"]).splitlines()

    assert [line.split() for line in lines[1:]] == [
        ["servekit", "300", "(100", "to", "400)", "1.00x"],
        ["other", "75.0", "(25.0", "to", "100)", "4.00x"],
    ]


def test_without_the_peer_that_others_are_compared_to_there_are_no_ratios() -> None:
    assert "x" not in table(RATE, {"other": [1.0]}, ["servekit", "other"]).splitlines()[1]


def test_memory_of_a_replica_is_the_difference_by_the_number_added() -> None:
    report = Report({})
    for replicas, megabytes in ((1, 100.0), (4, 160.0)):
        report.add(Figure(f"memory, replicas: {replicas}", "MB"), "servekit", megabytes)
    report.add(Figure("memory, replicas: 1", "MB"), "other", 9.0)

    assert report.all_samples()[Figure("memory of each replica added", "MB")] == {"servekit": [20.0]}


def test_what_was_not_measured_is_in_the_text_with_its_reason() -> None:
    report = a_report()
    report.missing["other, sleep x4"] = "it did not start"

    assert "other, sleep x4: it did not start" in text(report, ["servekit", "other"])


def test_json_holds_every_value() -> None:
    figure = json.loads(as_json(a_report()))["figures"][0]

    assert figure["peers"]["servekit"] == {"median": 300.0, "min": 100.0, "max": 400.0, "values": [100.0, 400.0, 300.0]}


def test_a_page_is_filled_between_its_marks_as_often_as_one_likes() -> None:
    page = "above\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nbelow\n"
    filled = fill_page(fill_page(page, "one\n"), "two\n")

    assert filled == "above\n<!-- figures: begin -->\n```text\ntwo\n```\n<!-- figures: end -->\nbelow\n"


def test_marks_of_another_name_are_left_alone() -> None:
    page = "<!-- figures: begin -->\nold\n<!-- figures: end -->\n<!-- growth: begin -->\n<!-- growth: end -->\n"
    filled = fill_page(page, "new", "growth")

    assert filled.startswith("<!-- figures: begin -->\nold\n<!-- figures: end -->\n")
    assert "```text\nnew\n```" in filled.partition("<!-- growth: begin -->")[2]


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        fill_page("nothing here", "figures")


@pytest.mark.parametrize(("value", "shown"), [(12345.6, "12,346"), (99.94, "99.9"), (1.234, "1.23"), (0.0, "0.00")])
def test_numbers_have_three_digits_that_count(value: float, shown: str) -> None:
    assert number(value) == shown

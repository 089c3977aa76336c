"""When an endpoint began to refuse requests, and when that had ended."""

from __future__ import annotations

import pytest

from servekit.control.refusals import OF_STATE, QUIET_S, RefusalWatch
from servekit.error_answers import OF_HTTP, STATUSES


def test_the_first_report_begins_it_and_ten_quiet_seconds_end_it() -> None:
    watch = RefusalWatch()
    (began,) = watch.reported([("e", "queue_full", 3)], 100.0)
    assert (began.endpoint, began.type, began.requests) == ("e", "queue_full", 3)
    assert watch.reported([("e", "queue_full", 4)], 100.5) == []
    assert watch.reported([("e", "queue_full", 5)], 109.0) == []
    assert watch.ended(109.0 + QUIET_S - 0.1) == []
    (ended,) = watch.ended(109.0 + QUIET_S)
    assert (ended.requests, ended.began_at, ended.last_at) == (12, 100.0, 109.0)
    assert watch.ended(200.0) == []
    assert len(watch.reported([("e", "queue_full", 1)], 200.0)) == 1


def test_endpoints_and_types_are_apart() -> None:
    watch = RefusalWatch()
    refused = [("e", "queue_full", 1), ("e", "deadline", 2), ("f", "deadline", 3)]
    assert [each[:3] for each in watch.reported(refused, 1.0)] == refused
    assert watch.reported([("f", "deadline", 1)], 5.0) == []
    assert [each[:3] for each in watch.ended(1.0 + QUIET_S)] == refused[:2]


@pytest.mark.parametrize("type_", sorted(STATUSES.keys() - OF_STATE))
def test_what_is_the_clients_or_the_handlers_fault_is_no_refusal(type_: str) -> None:
    assert RefusalWatch().reported([("e", type_, 1)], 1.0) == []


def test_the_types_are_known_and_none_is_of_the_front() -> None:
    assert STATUSES.keys() >= OF_STATE
    assert OF_STATE.isdisjoint(OF_HTTP)
    assert RefusalWatch().reported([("", "deadline", 1)], 1.0) == []  # It belongs to no endpoint.

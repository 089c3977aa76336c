"""Requests that belong to a trace, in the ingress."""

from __future__ import annotations

from typing import Any

import pytest

from servekit.traces import trace_id_of

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"
CAME = f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.fixture
def served(world: Any) -> Any:
    world.apply(world.backend(), world.endpoint())
    return world


def finished(world: Any, *headers: tuple[str, str]) -> tuple[Any, Any]:
    """The request as its replica has it, and its record."""
    world.ask(headers=headers)
    call = world.calls("r1")[-1]
    world.answer("r1", call, batch_size=3)
    return call.request, world.records[-1]


def test_the_replica_sees_the_span_that_the_record_is_of(served: Any) -> None:
    request, record = finished(served, ("x", "1"), ("traceparent", CAME), ("tracestate", "v=1"), ("baggage", "u=7"))
    assert (record.parent, trace_id_of(record.trace), record.trace[-2:]) == (SPAN_ID, TRACE_ID, "01")
    assert request.headers == [
        (b"x", b"1"),
        (b"traceparent", record.trace.encode()),
        (b"tracestate", b"v=1"),
        (b"baggage", b"u=7"),
    ]
    assert SPAN_ID not in record.trace
    assert (record.scheme, record.by_handle, record.batch_size) == ("http", False, 3)


def test_a_request_without_a_trace_stays_without_one(served: Any) -> None:
    request, record = finished(served, ("x", "1"))
    assert request.headers == [(b"x", b"1")]
    assert (record.trace, record.parent) == ("", "")


def test_what_is_malformed_does_not_go_on(served: Any) -> None:
    request, record = finished(served, ("traceparent", CAME + "-00"), ("tracestate", "v=1"), ("x", "1"))
    assert request.headers == [(b"x", b"1")]
    assert (record.trace, record.parent) == ("", "")


def test_a_trace_begins_where_a_share_is_asked_for(served: Any) -> None:
    served.shared.trace_share = 1.0
    request, record = finished(served)
    assert request.headers == [(b"traceparent", record.trace.encode())]
    assert (record.parent, record.trace[-2:]) == ("", "03")
    continued = finished(served, ("traceparent", CAME))[1]
    assert (trace_id_of(continued.trace), continued.parent) == (TRACE_ID, SPAN_ID)


def test_a_request_that_is_refused_has_its_trace_in_its_record_and_its_lines(served: Any) -> None:
    asked = served.ask("/nowhere", headers=[("traceparent", CAME)])
    assert asked.status == 404
    assert (served.records[-1].parent, trace_id_of(served.records[-1].trace)) == (SPAN_ID, TRACE_ID)
    assert asked.exchange.log_fields()["trace_id"] == TRACE_ID

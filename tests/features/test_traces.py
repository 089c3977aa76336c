"""Traces on every runtime: what a handler sees of its own, and what its handles pass on."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import servekit
from servekit.context import get_context
from servekit.logs import RequestFilter
from servekit.testing.instances import ServedInstance
from servekit.traces import trace_id_of

# Ray has a part in where a replica is; none in what headers a request has.
pytestmark = pytest.mark.runtimes("inprocess", "process")

LIMIT_S = 30.0
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CAME = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


def seen(request: Any) -> dict[str, Any]:
    context = get_context()
    line = logging.LogRecord("it", logging.INFO, "", 0, "", (), None)
    RequestFilter().filter(line)
    return {
        "context": [context.traceparent, context.tracestate, context.baggage, context.trace_id],
        "headers": [request.headers.get(name, "") for name in ("traceparent", "tracestate", "baggage")],
        "logged": line.__dict__["trace_id"],
    }


def front(request: Any) -> Any:
    return [seen(request), servekit.get_handle("middle").remote().result(LIMIT_S)]


async def middle(request: Any) -> Any:
    return [seen(request), *await servekit.get_handle("last").remote()]


@servekit.accept_batch
def last(requests: list[Any]) -> list[Any]:
    return [[seen(request)] for request in requests]


@pytest.fixture
def served(serve: ServedInstance) -> ServedInstance:
    for name, target in (("front", front), ("middle", middle), ("last", last)):
        serve.create_backend(name, target, config={"max_batch_size": 4} if name == "last" else {})
        serve.create_endpoint(name, "/front" if name == "front" else None, backend=name)
    return serve


def test_a_trace_goes_through_handles(served: ServedInstance) -> None:
    headers = {"traceparent": CAME, "tracestate": "v=1", "baggage": "user=7"}
    outer, (inner, innermost) = served.client.get("/front", headers=headers).json()
    for each in (outer, inner, innermost):
        assert each["context"][:3] == each["headers"]
        assert each["context"][1:] == ["v=1", "user=7", TRACE_ID]
        assert each["logged"] == TRACE_ID
    parents = [each["context"][0] for each in (outer, inner, innermost)]
    assert {trace_id_of(parent) for parent in parents} == {TRACE_ID}
    assert len({CAME, *parents}) == 4, "each has a span id of its own"


def test_baggage_goes_without_a_trace(served: ServedInstance) -> None:
    outer, (inner, innermost) = served.client.get("/front", headers={"baggage": "user=7"}).json()
    assert {tuple(each["context"]) for each in (outer, inner, innermost)} == {("", "", "user=7", "")}
    assert {tuple(each["headers"]) for each in (outer, inner, innermost)} == {("", "", "user=7")}

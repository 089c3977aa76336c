"""Spans of requests, as they reach a collector."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
import pytest
from tests.support.waiting import until

import servekit
import servekit_otel
from servekit.errors import MissingDependencyError, PluginOptionsError
from servekit.factories import Kind, at_path, build
from servekit.inprocess import InProcessInstance
from servekit.instance import Instance
from servekit.interfaces import RequestRecord
from servekit.plugins import Registry, discover

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="servekit[otel] is not installed")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from tests.support.otlp import Received, Receiver

from servekit_otel.sampling import share_of
from servekit_otel.spans import steps

OTEL = "servekit_otel:create_observer"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"
OWN = f"00-{TRACE_ID}-1111111111111111-01"
SAMPLED = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}
LIMIT_S = 30.0
SERVER, INTERNAL = 2, 1

Serving = Callable[..., AbstractContextManager[tuple[Instance, httpx.Client]]]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("NO_PROXY", "*")
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover()


@contextmanager
def in_process(registry: Registry, options: dict[str, Any]) -> Iterator[tuple[Instance, httpx.Client]]:
    with servekit.api.make_current(InProcessInstance(registry, observers={OTEL: options})) as instance:
        transport = httpx.HTTPTransport(uds=instance.http_socket)
        with httpx.Client(transport=transport, base_url=instance.url, timeout=LIMIT_S, trust_env=False) as client:
            yield instance, client


@contextmanager
def in_processes(options: dict[str, Any]) -> Iterator[tuple[Instance, httpx.Client]]:
    with (
        servekit.init(runtime="process", http_port=0, observers={OTEL: options}) as instance,
        httpx.Client(base_url=instance.url, timeout=LIMIT_S, trust_env=False) as client,
    ):
        yield instance, client


@pytest.fixture(params=["inprocess", pytest.param("process", marks=pytest.mark.processes)])
def serving(request: pytest.FixtureRequest, registry: Registry, receiver: Receiver) -> Serving:
    def serving(**options: Any) -> AbstractContextManager[tuple[Instance, httpx.Client]]:
        told = {"endpoint": receiver.endpoint, **options}
        return in_process(registry, told) if request.param == "inprocess" else in_processes(told)

    return serving


def front(request: Any) -> Any:
    return servekit.get_handle("middle").remote().result(LIMIT_S)


async def middle(request: Any) -> Any:
    return await servekit.get_handle("last").remote()


@servekit.accept_batch
def last(requests: list[Any]) -> list[str]:
    return [servekit.get_context().traceparent for _ in requests]


def chained(instance: Instance) -> None:
    for name, target in (("front", front), ("middle", middle), ("last", last)):
        instance.create_backend(name, target, config={"max_batch_size": 4} if name == "last" else {})
        instance.create_endpoint(name, "/front/<int:n>" if name == "front" else None, backend=name)


def test_a_chain_of_handles_is_one_tree(serving: Serving, receiver: Receiver) -> None:
    with serving(service_name="shop", headers={"x-key": "k"}, resource={"deployment.environment.name": "test"}) as up:
        instance, client = up
        chained(instance)
        before_ns = time.time_ns()
        answer = client.get("/front/7?secret=1", headers={**SAMPLED, "x-request-id": "mine"})
        assert answer.status_code == 200
        spans = until(lambda: len(receiver.of(TRACE_ID)) >= 10 and receiver.of(TRACE_ID))
    found = {span.id: span for span in spans}
    assert len(found) == len(spans) == 10
    servers = {span.name: span for span in spans if span.kind == SERVER}
    assert servers.keys() == {"GET /front/<int:n>", "middle", "last"}
    outer, inner, innermost = servers["GET /front/<int:n>"], servers["middle"], servers["last"]
    assert (outer.parent, inner.parent, innermost.parent) == (SPAN_ID, outer.id, inner.id)
    assert answer.text == f"00-{TRACE_ID}-{innermost.id}-01", "what the handler was given is what is exported"
    for server in servers.values():
        within = {span.name: span for span in spans if span.parent == server.id and span.kind == INTERNAL}
        assert within.keys() == {"queue", "handler"} | ({"batch"} if server is innermost else set())
        for span in within.values():
            assert server.began_ns <= span.began_ns <= span.ended_ns <= server.ended_ns
        assert within["queue"].ended_ns <= within["handler"].began_ns
        assert not server.failed
    assert before_ns // 10**9 <= outer.began_ns // 10**9
    replica = outer.attributes.pop("servekit.replica")
    assert replica
    assert outer.attributes == {
        "http.request.method": "GET",
        "http.route": "/front/<int:n>",
        "http.response.status_code": 200,
        "url.path": "/front/7",
        "url.scheme": "http",
        **({"client.address": "127.0.0.1"} if "client.address" in outer.attributes else {}),
        "servekit.request.id": "mine",
        "servekit.endpoint": "front",
        "servekit.backend": "front",
    }
    assert innermost.attributes["servekit.batch.size"] == 1
    assert "http.request.method" not in innermost.attributes
    assert outer.resource["service.name"] == "shop"
    assert outer.resource["deployment.environment.name"] == "test"
    assert {headers["x-key"] for headers in receiver.headers} == {"k"}
    assert {headers["content-type"] for headers in receiver.headers} == {"application/x-protobuf"}


def seen(request: Any) -> str:
    return servekit.get_context().traceparent


def test_what_is_not_sampled_is_not_exported(serving: Serving, receiver: Receiver) -> None:
    with serving(sample=1.0) as (instance, client):
        instance.create_backend("b", seen)
        instance.create_endpoint("e", "/e", backend="b")
        unsampled = client.get("/e", headers={"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-00"}).text
        begun = client.get("/e").text
        assert (unsampled[3:35], unsampled[-2:], begun[-2:]) == (TRACE_ID, "00", "03")
        spans = until(lambda: len(receiver.spans) >= 3 and receiver.spans)
    assert {span.trace_id for span in spans} == {begun[3:35]}
    (server,) = (span for span in spans if span.kind == SERVER)
    assert (server.id, server.parent) == (begun[36:52], "")


def test_where_no_share_is_asked_for_no_trace_begins(registry: Registry, receiver: Receiver) -> None:
    with in_process(registry, {"endpoint": receiver.endpoint, "sample": 0.0}) as (instance, client):
        instance.create_backend("b", seen)
        instance.create_endpoint("e", "/e", backend="b")
        assert client.get("/e").text == ""
        assert client.get("/e", headers=SAMPLED).text[3:35] == TRACE_ID
        until(lambda: len(receiver.spans) == 3)
    assert {span.trace_id for span in receiver.spans} == {TRACE_ID}


def test_spans_of_a_handler_are_children_of_its_request(registry: Registry, receiver: Receiver) -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("the handler's own")

    def handler(request: Any) -> str:
        context = TraceContextTextMapPropagator().extract(request.headers)
        with tracer.start_as_current_span("work", context):
            return "ok"

    with in_process(registry, {"endpoint": receiver.endpoint}) as (instance, client):
        instance.create_backend("b", handler)
        instance.create_endpoint("e", "/e", backend="b")
        assert client.get("/e", headers=SAMPLED).text == "ok"
        until(lambda: len(receiver.spans) == 3)
    (work,) = kept.get_finished_spans()
    (server,) = (span for span in receiver.spans if span.kind == SERVER)
    assert work.parent is not None
    assert (f"{work.context.trace_id:032x}", f"{work.parent.span_id:016x}") == (TRACE_ID, server.id)


# -- the spans of a record ---------------------------------------------------------------------------------------------


def record(**fields: Any) -> RequestRecord:
    told: dict[str, Any] = {
        "id": "id",
        "endpoint": "e",
        "backend": "b",
        "replica": "r1",
        "method": "GET",
        "path": "/x/7",
        "status": 200,
        "latency_s": 0.5,
        "ended_at": 1_800_000_000.0,
        "route": "/x/<n>",
        "client": "192.0.2.1",
        "sent_s": 0.1,
        "began_s": 0.4,
        "service_s": 0.2,
        "sends": 1,
        "trace": OWN,
        "parent": SPAN_ID,
    }
    return RequestRecord(**{**told, **fields})


def exported(receiver: Receiver, *records: RequestRecord) -> list[Received]:
    observer: Any = build(at_path(Kind.OBSERVER, OTEL), {"endpoint": receiver.endpoint})
    observer.requests_finished(records)
    observer.close()
    return sorted(receiver.spans, key=lambda span: (span.kind != SERVER, span.began_ns))


def test_what_waits_is_exported_at_the_end(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "by variable")
    spans = exported(receiver, *[record() for _ in range(700)], record(trace=""))
    assert len(spans) == 2100
    assert {span.resource["service.name"] for span in spans} == {"by variable"}


def test_a_request_is_a_span_with_its_steps_within(receiver: Receiver) -> None:
    server, queue, handler = exported(receiver, record(sends=2, batch_size=0, scheme="https"))
    assert (server.name, server.id, server.parent) == ("GET /x/<n>", "1111111111111111", SPAN_ID)
    ended_ns = 1_800_000_000 * 10**9
    assert (server.began_ns, server.ended_ns) == (ended_ns - 500_000_000, ended_ns)
    assert [
        (span.name, span.began_ns - server.began_ns, span.ended_ns - server.began_ns) for span in (queue, handler)
    ] == [
        ("queue", 0, 100_000_000),
        ("handler", 200_000_000, 400_000_000),
    ]
    assert server.attributes["servekit.sends"] == 2
    assert (server.attributes["client.address"], server.attributes["url.scheme"]) == ("192.0.2.1", "https")
    assert server.resource["service.name"] == "servekit"


@pytest.mark.parametrize(
    ("fields", "failure", "handler_fails"),
    [
        ({"status": 404, "error": "not_found"}, None, False),
        ({"status": 503, "error": "no_replica", "sent_s": -1.0}, "no_replica", False),
        ({"status": 500, "error": "handler_failed"}, "handler_failed", True),
        ({"status": 502}, "502", False),
        ({"status": 499}, "abandoned", False),
        ({"status": 200, "error": "broken_off"}, "broken_off", True),
    ],
)
def test_what_is_a_failure(
    receiver: Receiver, fields: dict[str, Any], failure: str | None, handler_fails: bool
) -> None:
    server, *within = exported(receiver, record(**fields))
    assert (server.attributes.get("error.type"), server.failed) == (failure, failure is not None)
    assert [span.name for span in within if span.failed] == (["handler"] if handler_fails else [])
    assert ("http.response.status_code" in server.attributes) == (fields["status"] != 499)


def test_names_are_few_whatever_clients_send(receiver: Receiver) -> None:
    lost = {"endpoint": "", "backend": "", "replica": "", "route": "", "status": 404, "client": "", "sent_s": -1.0}
    (server,) = exported(receiver, record(method="BREW", parent="", **lost))
    assert (server.name, server.parent) == ("HTTP", "")
    assert server.attributes == {
        "http.request.method": "_OTHER",
        "http.request.method_original": "BREW",
        "http.response.status_code": 404,
        "url.path": "/x/7",
        "url.scheme": "http",
        "servekit.request.id": "id",
    }


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, [("queue", 0.0, 0.1), ("handler", 0.2, 0.4)]),
        ({"batch_size": 3}, [("queue", 0.0, 0.1), ("batch", 0.1, 0.2), ("handler", 0.2, 0.4)]),
        ({"service_s": -1e-6}, [("queue", 0.0, 0.1)]),
        ({"sent_s": -1.0}, []),
        ({"began_s": 0.15, "service_s": 0.3}, [("queue", 0.0, 0.1), ("handler", 0.1, 0.4)]),
        ({"began_s": 0.15, "service_s": 9.0}, [("queue", 0.0, 0.1), ("handler", 0.1, 0.5)]),
    ],
)
def test_the_steps_of_a_request(fields: dict[str, Any], found: list[tuple[str, float, float]]) -> None:
    assert steps(record(**fields)) == [
        (name, pytest.approx(began), pytest.approx(ended)) for name, began, ended in found
    ]


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "environ", "share"),
    [
        (None, {}, 1.0),
        (0.25, {"OTEL_TRACES_SAMPLER": "always_off"}, 0.25),
        (None, {"OTEL_TRACES_SAMPLER": "always_off"}, 0.0),
        (None, {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, 1.0),
        (None, {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, 0.5),
        (None, {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}, 1.0),
    ],
)
def test_the_share_that_is_sampled(sample: float | None, environ: dict[str, str], share: float) -> None:
    assert share_of(sample, environ) == share


@pytest.mark.parametrize(
    ("options", "environ", "said"),
    [
        ({"sample": 1.5}, {}, "sample must be from 0 to 1, not 1.5"),
        ({}, {"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "OTEL_TRACES_SAMPLER must be .*, not 'jaeger_remote'"),
        (
            {},
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "half"},
            "OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1, not 'half'",
        ),
        ({"endpoint": "collector:4318"}, {}, "endpoint must be a URL"),
        ({"most_waiting": 0}, {}, "refused its options"),
        ({"samples": 1.0}, {}, "has no option 'samples'"),
    ],
)
def test_options_that_cannot_be_are_refused(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], environ: dict[str, str], said: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PluginOptionsError, match=said):
        build(at_path(Kind.OBSERVER, OTEL), options)


def test_few_may_wait(receiver: Receiver) -> None:
    observer: Any = build(at_path(Kind.OBSERVER, OTEL), {"endpoint": receiver.endpoint, "most_waiting": 3})
    observer.requests_finished([record()])
    observer.close()
    assert len(receiver.spans) == 3


def test_a_collector_that_is_not_there_holds_up_nothing(registry: Registry) -> None:
    options = {"endpoint": "http://127.0.0.1:9/v1/traces", "timeout_s": 0.1}
    with in_process(registry, options) as (instance, client):
        instance.create_backend("b", seen)
        instance.create_endpoint("e", "/e", backend="b")
        assert client.get("/e", headers=SAMPLED).status_code == 200


def test_without_opentelemetry_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "servekit_otel.observer", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'servekit\[otel\]'"):
        servekit_otel.create_observer()

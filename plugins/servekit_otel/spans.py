"""Makes spans of the record of a request, by OpenTelemetry's semantic conventions for HTTP servers."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from servekit.interfaces import RequestRecord
from servekit.traces import TraceParent, parse

_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "QUERY"})
"""Those that the conventions name; any other is ``_OTHER``, so that there are no more than a few."""
_GONE = 499
_NS = 1_000_000_000


class GivenIds(IdGenerator):
    """Gives a span the ids that its request has had from the beginning; other spans have random ones."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self._trace_id = self._span_id = 0

    def give(self, own: TraceParent) -> None:
        """To the span that is made next."""
        self._trace_id, self._span_id = int(own.trace_id, 16), int(own.span_id, 16)

    def generate_span_id(self) -> int:
        given, self._span_id = self._span_id, 0
        return given or self._random.generate_span_id()

    def generate_trace_id(self) -> int:
        return self._trace_id

    def is_trace_id_random(self) -> bool:
        return True


class Spans:
    """The maker of spans. Used by one thread at a time, for the ids of a span are set before the span is made."""

    def __init__(self, tracer: Tracer, ids: GivenIds) -> None:
        self._tracer = tracer
        self._ids = ids

    def make(self, record: RequestRecord) -> None:
        """Make the span of a request, and those of its steps within; none where its trace is not sampled."""
        own = parse(record.trace.encode())
        if own is None or not own.is_sampled:
            return
        ended_ns = int(record.ended_at * _NS)
        began_ns = ended_ns - int(record.latency_s * _NS)
        self._ids.give(own)
        server = self._tracer.start_span(
            _name(record), _parent(own, record.parent), SpanKind.SERVER, _attributes(record), start_time=began_ns
        )
        failure = _failure(record)
        _fail(server, failure)
        within = set_span_in_context(server, Context())
        for name, from_s, to_s in steps(record):
            step = self._tracer.start_span(name, within, start_time=began_ns + int(from_s * _NS))
            if record.batch_size and name != "queue":
                step.set_attribute("servekit.batch.size", record.batch_size)
            if name == "handler" and failure in ("handler_failed", "broken_off"):
                _fail(step, failure)
            step.end(began_ns + int(to_s * _NS))
        server.end(ended_ns)


def steps(record: RequestRecord) -> list[tuple[str, float, float]]:
    """The steps of a request: its name, and when it began and ended, in seconds after the request came.

    ``queue`` is the time in the ingress worker. ``batch`` is the time that a request waited in its replica for the
    handler to be called, for a handler of batches. ``handler`` is that of the handler. The time between them is that on
    the way, and in the replica.
    """
    if record.sent_s < 0:
        return []
    found = [("queue", 0.0, record.sent_s)]
    if record.service_s < 0:
        return found
    # Of an answer in pieces it is not known when the handler was called: it is made while it goes out.
    began_s = max(record.sent_s, record.began_s - record.service_s)
    if record.batch_size:
        found.append(("batch", record.sent_s, began_s))
    found.append(("handler", began_s, max(began_s, min(began_s + record.service_s, record.latency_s))))
    return found


def _name(record: RequestRecord) -> str:
    if record.by_handle:
        return record.endpoint or "handle"
    method = record.method if record.method in _METHODS else "HTTP"
    return f"{method} {record.route}" if record.route else method


def _parent(own: TraceParent, span_id: str) -> Context:
    if not span_id:
        return Context()
    flags = TraceFlags(own.flags)
    sender = SpanContext(int(own.trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(sender), Context())


def _attributes(record: RequestRecord) -> dict[str, str | int]:
    found: dict[str, str | int] = {"servekit.request.id": record.id}
    if not record.by_handle:
        method = record.method if record.method in _METHODS else "_OTHER"
        found |= {"http.request.method": method, "url.path": record.path, "url.scheme": record.scheme}
        if method == "_OTHER":
            found["http.request.method_original"] = record.method
        if record.status != _GONE:
            found["http.response.status_code"] = record.status
        said = {"http.route": record.route, "client.address": record.client}
        found |= {name: value for name, value in said.items() if value}
    named = {"endpoint": record.endpoint, "backend": record.backend, "replica": record.replica}
    found |= {f"servekit.{name}": value for name, value in named.items() if value}
    if record.sends > 1:
        found["servekit.sends"] = record.sends
    if record.batch_size:
        found["servekit.batch.size"] = record.batch_size
    return found


def _failure(record: RequestRecord) -> str:
    """What the conventions call ``error.type``; empty: the server has done its part."""
    if record.status == _GONE:
        return "abandoned"
    if record.status >= 500 or record.error == "broken_off":
        return record.error or str(record.status)
    return ""


def _fail(span: Span, failure: str) -> None:
    if failure:
        span.set_attribute("error.type", failure)
        span.set_status(StatusCode.ERROR)

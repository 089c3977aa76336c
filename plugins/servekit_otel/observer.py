"""Sends the spans of requests that have ended to a collector, in batches."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from servekit.interfaces import RequestObserver, RequestRecord
from servekit_otel.sampling import share_of
from servekit_otel.spans import GivenIds, Spans

MOST_WAITING = 20_000
"""A second of requests comes at once, so that OpenTelemetry's own 2,048 would be few."""
AT_ONCE = 512
"""OpenTelemetry's own."""


class OtelObserver(RequestObserver):
    """The export has a thread of its own: a collector that is slow, or gone, holds up no other observer."""

    def __init__(
        self,
        endpoint: str | None,
        headers: Mapping[str, str] | None,
        service_name: str | None,
        resource: Mapping[str, str] | None,
        sample: float | None,
        timeout_s: float | None,
        most_waiting: int | None,
    ) -> None:
        """See `create_observer`. Raises ``ValueError`` for what cannot be."""
        if endpoint is not None and not endpoint.startswith(("http://", "https://")):
            raise ValueError(f"endpoint must be a URL, http://HOST:PORT/v1/traces, not {endpoint!r}")
        if most_waiting is None:
            most_waiting = int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", MOST_WAITING))
        self.trace_share = share_of(sample, os.environ)
        exporter = OTLPSpanExporter(
            endpoint=endpoint, headers=None if headers is None else dict(headers), timeout=timeout_s
        )
        ids = GivenIds()
        # Which requests are sampled is decided when they come. And it is the worker that ends the provider, in time.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=_resource(service_name, resource), shutdown_on_exit=False, id_generator=ids
        )
        at_once = min(most_waiting, int(os.environ.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", AT_ONCE)))
        waiting = BatchSpanProcessor(exporter, max_queue_size=most_waiting, max_export_batch_size=at_once)
        self._provider.add_span_processor(waiting)
        self._spans = Spans(self._provider.get_tracer("servekit"), ids)

    def requests_finished(self, records: Sequence[RequestRecord]) -> None:
        for record in records:
            self._spans.make(record)

    def close(self) -> None:
        self._provider.shutdown()


def _resource(service_name: str | None, more: Mapping[str, str] | None) -> Resource:
    said: dict[str, str] = dict(more or {})
    if service_name is not None:
        said[SERVICE_NAME] = service_name
    found = Resource.create(said)
    if str(found.attributes[SERVICE_NAME]).startswith("unknown_service"):
        found = found.merge(Resource({SERVICE_NAME: "servekit"}))
    return found

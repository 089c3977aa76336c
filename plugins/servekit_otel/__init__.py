"""The request observer ``otel``: spans of each request whose trace is sampled, and of the steps of the request, sent to
an OpenTelemetry collector by OTLP over HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from servekit.errors import MissingDependencyError
from servekit.hookspecs import hookimpl
from servekit.interfaces import RequestObserver, RequestObserverFactory


def create_observer(
    *,
    endpoint: str | None = None,
    headers: Mapping[str, str] | None = None,
    service_name: str | None = None,
    resource: Mapping[str, str] | None = None,
    sample: float | None = None,
    timeout_s: float | None = None,
    most_waiting: int | None = None,
) -> RequestObserver:
    """The request observer ``otel``. What is not given, OpenTelemetry's own environment variables say, and where those
    are not set, OpenTelemetry's defaults.

    Args:
        endpoint: the URL that spans are posted to, with its path: ``http://collector:4318/v1/traces``. Variables:
            ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``, ``OTEL_EXPORTER_OTLP_ENDPOINT``.
        headers: sent along, a key of the collector's for instance. Variables: ``OTEL_EXPORTER_OTLP_TRACES_HEADERS``,
            ``OTEL_EXPORTER_OTLP_HEADERS``.
        service_name: what the spans are of. Variable: ``OTEL_SERVICE_NAME``; default: ``servekit``.
        resource: more attributes of what the spans are of. Variable: ``OTEL_RESOURCE_ATTRIBUTES``.
        sample: of the requests that come without a ``traceparent``, how many are sampled, from 0 to 1; of the others
            the ``traceparent`` says whether they are. Variables: ``OTEL_TRACES_SAMPLER``, ``OTEL_TRACES_SAMPLER_ARG``;
            default: 1.0.
        timeout_s: how long an export may take, tries included. Variables: ``OTEL_EXPORTER_OTLP_TRACES_TIMEOUT``,
            ``OTEL_EXPORTER_OTLP_TIMEOUT``.
        most_waiting: spans that wait to be exported, at most; beyond, the oldest are dropped. Variable:
            ``OTEL_BSP_MAX_QUEUE_SIZE``; default: 20,000.
    """
    try:
        from servekit_otel.observer import OtelObserver
    except ImportError as error:
        raise MissingDependencyError(
            f"the request observer 'otel' needs OpenTelemetry ({error}): pip install 'servekit[otel]'"
        ) from error
    return OtelObserver(endpoint, headers, service_name, resource, sample, timeout_s, most_waiting)


@hookimpl
def servekit_register_request_observers() -> Mapping[str, RequestObserverFactory]:
    return {"otel": create_observer}

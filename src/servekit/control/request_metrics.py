"""The families of metrics of requests that have ended: pure functions of what was counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from servekit.control.exposition import Family
from servekit.control.quantiles import rebucketed
from servekit.control.totals import Sums
from servekit.tallies import (
    BOUNDS,
    BYTES_IN,
    BYTES_OUT,
    COUNT,
    DURATION_US,
    FAILOVERS,
    FINE_BOUNDS,
    FINE_BUCKETS,
    FIRST_BYTE,
    HANDLER,
    INGRESS_WAIT,
    OTHER,
    REPLICA_WAIT,
    RESENDS,
    SLOTS,
    SUM,
)

FAILURES = ("handler_failed", "broken_off")
"""The errors that are a handler's, and no answer of servekit's own."""
_PARTS = (
    ("ingress_wait", INGRESS_WAIT, "From a request's coming until it was sent to its replica, the last one."),
    ("replica_wait", REPLICA_WAIT, "On the way to a replica and back, and waiting there."),
    ("handler", HANDLER, "In the handler. Answers in pieces are not in it, nor in the wait at the replica."),
    ("first_byte", FIRST_BYTE, "From a request's coming until an answer in pieces began."),
)


class _Sum:
    """The slots of several records."""

    def __init__(self) -> None:
        self.slots = [0] * SLOTS

    def add(self, slots: Sequence[int]) -> None:
        for at, number in enumerate(slots):
            if number:
                self.slots[at] += number


def request_families(sums: Sums) -> Iterator[Family]:
    by_status: dict[tuple[str, ...], _Sum] = {}
    by_backend: dict[tuple[str, ...], _Sum] = {}
    by_endpoint: dict[tuple[str, ...], _Sum] = {}
    refusals: dict[tuple[str, ...], int] = {}
    failures: dict[tuple[str, ...], int] = {}
    for key, slots in sums.items():
        if key[0] != "request":
            continue
        endpoint, backend, method, status, error = map(str, key[1:])
        by_status.setdefault((endpoint, backend, method, status), _Sum()).add(slots)
        by_backend.setdefault((endpoint, backend), _Sum()).add(slots)
        by_endpoint.setdefault((endpoint,), _Sum()).add(slots)
        requests = sum(slots[:FINE_BUCKETS])
        if error in FAILURES:
            failures[endpoint, backend, error] = failures.get((endpoint, backend, error), 0) + requests
        elif error not in ("", OTHER):
            refusals[endpoint, error] = refusals.get((endpoint, error), 0) + requests
    yield _counters(
        "servekit_http_requests_total",
        "Requests that have ended, calls of handles among them (POST).",
        ("endpoint", "backend", "method", "status"),
        {labels: sum(found.slots[:FINE_BUCKETS]) for labels, found in by_status.items()},
    )
    yield _counters(
        "servekit_http_refusals_total",
        "Requests that servekit itself answered with an error, by the error's type.",
        ("endpoint", "reason"),
        refusals,
    )
    yield _counters(
        "servekit_http_failures_total",
        "Requests whose handler raised, or whose answer broke off after it had begun.",
        ("endpoint", "backend", "reason"),
        failures,
    )
    yield _counters(
        "servekit_http_failovers_total",
        "Requests that were sent on while some backend of their endpoint had no live replica.",
        ("endpoint",),
        {labels: found.slots[FAILOVERS] for labels, found in by_endpoint.items()},
    )
    yield _counters(
        "servekit_shadow_copies_total",
        "What has become of copies of requests for shadows, which are counted nowhere else.",
        ("endpoint", "backend", "outcome"),
        {(str(key[1]), str(key[2]), str(key[3])): slots[COUNT] for key, slots in sums.items() if key[0] == "shadow"},
    )
    for name, slot, text in (
        (
            "servekit_http_resends_total",
            RESENDS,
            "Sends of requests beyond the first: a replica died, or left, with it.",
        ),
        ("servekit_http_request_body_bytes_total", BYTES_IN, "Bytes of requests' bodies, as far as they came."),
        (
            "servekit_http_response_body_bytes_total",
            BYTES_OUT,
            "Bytes of answers' bodies, as far as clients took them.",
        ),
    ):
        counted = {labels: found.slots[slot] for labels, found in by_backend.items()}
        yield _counters(name, text, ("endpoint", "backend"), counted)
    for part, first, text in _PARTS:
        family = Family(f"servekit_http_request_{part}_seconds", "histogram", text, ("endpoint", "backend"))
        for labels, found in by_backend.items():
            if any(counts := found.slots[first : first + SUM]):
                family.add((counts, found.slots[first + SUM] / 1e6), *labels)
        yield family
    text = "From a request's coming, with its head and the first part of its body, to the last byte of its answer."
    durations = Family(
        "servekit_http_request_duration_seconds", "histogram", text, ("endpoint", "backend", "method", "status")
    )
    for labels, found in by_status.items():
        counts = rebucketed(found.slots, FINE_BOUNDS, BOUNDS)
        durations.add((counts, found.slots[DURATION_US] / 1e6), *labels)
    yield durations


def _counters(name: str, text: str, labels: tuple[str, ...], values: dict[tuple[str, ...], int]) -> Family:
    return Family(name, "counter", text, labels, list(values.items()))

"""Ten times the requests that the replicas can answer, at a fixed rate, from another process."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable

from benchmarks.faults.row import Row
from benchmarks.faults.scene import scene
from benchmarks.fixed_rate import Outcome, measure

REPLICAS = 2
TIMES = 10
TIMEOUT_S = 2.0
WARMUP_S, LASTS_S = 2.0, 8.0
REFUSALS = ("503", "429")
"""mosec has the second."""
CLIENT_BEHIND_MS = 50.0
"""A client that sends later than this says so: the times of its answers are then its own as well."""


def ten_times(handler_s: float) -> Callable[[str], Row]:
    def run(runtime: str) -> Row:
        with scene(runtime, replicas=REPLICAS, pause_s=handler_s, timeout_s=TIMEOUT_S) as at:
            port = urllib.parse.urlsplit(at.instance.url).port
            assert port is not None
            return overloaded(f"ten times the capacity, {1000 * handler_s:g} ms", at.setup, port, handler_s)

    return run


def overloaded(fault: str, setup: str, port: int, handler_s: float, path: str = "/echo", body: str = "") -> Row:
    """First exactly the capacity, then ten times that. ``body``: of a POST. Raises `LoadError`."""
    peak, over = (
        measure(port, path, times * REPLICAS / handler_s, WARMUP_S + LASTS_S, TIMEOUT_S, WARMUP_S, body)
        for times in (1, TIMES)
    )
    return row(fault, setup, peak, over)


def row(fault: str, setup: str, peak: Outcome, over: Outcome) -> Row:
    """Failed is what got no 200 within its deadline; refused may be what is beyond the capacity."""
    failed = over.sent - over.in_time
    refused = min(sum(over.statuses.get(status, 0) for status in REFUSALS), over.sent - peak.in_time)
    statuses = ", ".join(f"{count:,} {status}" for status, count in over.statuses.items())
    notes = [f"goodput {over.in_time / max(peak.in_time, 1):.2f} of that at the capacity; answers: {statuses}"]
    if "503" in over.statuses:
        percentiles = f"{over.refused_p50_ms:.1f} ms in the median, {over.refused_p99_ms:.0f} ms at the 99th percentile"
        notes.append(f"503s after {percentiles}")
    if over.behind_ms > CLIENT_BEHIND_MS:
        notes.append(f"the client itself was late by {over.behind_ms:.0f} ms at the most")
    why = "refused, beyond the capacity"
    return Row(fault, setup, over.sent, failed, "", refused, why, has_times=False, has_whole=False, notes=notes)


FAULTS = {"ten-times-20": ten_times(0.02), "ten-times-200": ten_times(0.2)}

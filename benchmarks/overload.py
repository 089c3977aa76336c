"""Goodput at ten times the capacity: how many answers still come within their deadline.

    python -m benchmarks.overload [--quick] [--ingress-workers N] [--only 20ms]
    PYTHONPATH=/another/tree/src:/another/tree/plugins python -m benchmarks.overload   # the same of another servekit

Handlers that sleep, in two replicas, or in one that is fast; requests at a fixed rate from another process, first at
exactly the capacity, then at ten times that. Goodput is the answers with 200 within `TIMEOUT_S`, a second, over those
at the capacity.
"""

from __future__ import annotations

import argparse
import time
import urllib.parse
from collections.abc import Callable

import servekit
from benchmarks.fixed_rate import Outcome, measure

REPLICAS = {"2ms": 1, "20ms": 2, "200ms": 2}
"""Ten times what two of the fast ones do would be more than two cores can send and refuse."""
TIMEOUT_S = 2.0
TIMES = 10
WARMUP_S = 2.0
HANDLERS_S = {"2ms": 0.002, "20ms": 0.02, "200ms": 0.2}
QUEUES = (10, 1_000, 10_000)


class Sleeps:
    def __init__(self, time_s: float) -> None:
        self.time_s = time_s

    def __call__(self, request: object) -> str:
        time.sleep(self.time_s)
        return "done"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a third of the time, and the longest queue alone")
    parser.add_argument("--ingress-workers", type=int, default=1, metavar="N")
    parser.add_argument("--only", choices=list(HANDLERS_S), help="one handler")
    options = parser.parse_args()
    duration_s = 5.0 if options.quick else 10.0
    queues = QUEUES[-1:] if options.quick else QUEUES
    limits = {"connections": 20_000}
    with servekit.init(
        runtime="process", http_port=0, http_limits=limits, ingress_workers=options.ingress_workers
    ) as instance:
        port = urllib.parse.urlsplit(instance.url).port
        assert port is not None
        print(
            "| handler | queue | at capacity, /s | at ten times, /s | goodput | 503 p50, ms | 503 p99, ms | statuses |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for name in [options.only] if options.only else HANDLERS_S:
            for queue in queues:
                ends = _serve(f"{name}-{queue}", HANDLERS_S[name], REPLICAS[name], queue)
                rate = REPLICAS[name] / HANDLERS_S[name]
                found = [
                    measure(port, f"/{name}-{queue}", times * rate, WARMUP_S + duration_s, TIMEOUT_S, WARMUP_S)
                    for times in (1, TIMES)
                ]
                print(_row(name, queue, duration_s, *found), flush=True)
                ends()


def _serve(name: str, time_s: float, replicas: int, queue: int) -> Callable[[], None]:
    servekit.create_backend(name, Sleeps, time_s, config={"num_replicas": replicas, "max_queued_requests": queue})
    servekit.create_endpoint(name, f"/{name}", ["GET"], backend=name, timeout_s=TIMEOUT_S)

    def ends() -> None:
        servekit.delete_endpoint(name)
        servekit.delete_backend(name)

    return ends


def _row(name: str, queue: int, duration_s: float, peak: Outcome, over: Outcome) -> str:
    at_peak, at_ten = peak.in_time / duration_s, over.in_time / duration_s
    late = f"; the client was {over.behind_ms:.0f} ms late" if over.behind_ms > 50 else ""
    statuses = ", ".join(f"{count} of {status}" for status, count in over.statuses.items())
    return (
        f"| {name} | {queue:,} | {at_peak:.1f} | {at_ten:.1f} | {at_ten / max(at_peak, 0.1):.2f} "
        f"| {over.refused_p50_ms:.1f} | {over.refused_p99_ms:.1f} | {statuses}{late} |"
    )


if __name__ == "__main__":
    main()

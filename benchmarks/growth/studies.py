"""Replicas, connections, headers, ingress workers: each a function that adds to the curves what it finds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.growth.curves import Curve, Curves
from benchmarks.growth.effort import Budget, Effort
from benchmarks.growth.instance import hello_instance, port_of
from benchmarks.load import wrk
from benchmarks.processes import tree_memory_mb
from benchmarks.servers import Call

HELLO = Call("GET", "/hello")
CONNECTIONS = 64


def there_and_back(steps: Sequence[int], repeats: int) -> Iterator[int]:
    """Every step once a repeat, every other time from the last to the first: what drifts is then no step's own."""
    for repeat in range(repeats):
        yield from steps if repeat % 2 == 0 else reversed(steps)


def replicas(curves: Curves, effort: Effort, budget: Budget, scratch: Path) -> None:
    rate = Curve(f"hello by replicas, {CONNECTIONS} connections", "replicas", "requests/s", "high")
    memory = Curve("memory of the tree by replicas", "replicas", "MB")
    for count in there_and_back(effort.replicas, effort.repeats):
        budget.check()
        with hello_instance(replicas=count) as instance:
            wrk(port_of(instance), HELLO, CONNECTIONS, effort.warmup_s, scratch)
            curves.add(rate, count, wrk(port_of(instance), HELLO, CONNECTIONS, effort.seconds, scratch).rate)
            curves.add(memory, count, tree_memory_mb())


def connections(curves: Curves, effort: Effort, budget: Budget, scratch: Path) -> None:
    rate = Curve("hello by connections", "connections", "requests/s", "high")
    median = Curve("hello by connections, median", "connections", "ms")
    p99 = Curve("hello by connections, p99", "connections", "ms")
    with hello_instance() as instance:
        wrk(port_of(instance), HELLO, CONNECTIONS, effort.warmup_s, scratch)
        for count in there_and_back(effort.connections, effort.repeats):
            budget.check()
            load = wrk(port_of(instance), HELLO, count, effort.seconds, scratch)
            curves.add(rate, count, load.rate)
            curves.add(median, count, load.p50_ms)
            curves.add(p99, count, load.p99_ms)


def headers(curves: Curves, effort: Effort, budget: Budget, scratch: Path) -> None:
    rate = Curve(f"hello by headers of a request, {CONNECTIONS} connections", "headers", "requests/s", "high")
    with hello_instance() as instance:
        wrk(port_of(instance), HELLO, CONNECTIONS, effort.warmup_s, scratch)
        for count in there_and_back(effort.headers, effort.repeats):
            budget.check()
            load = wrk(port_of(instance), with_headers(HELLO, count), CONNECTIONS, effort.seconds, scratch)
            curves.add(rate, count, load.rate)


def with_headers(call: Call, count: int) -> Call:
    """``call`` with ``count`` headers in all: wrk sends a Host of its own."""
    return Call(call.method, call.path, call.body, {f"X-Header-{n}": f"value {n}" for n in range(1, count)})


def ingress(curves: Curves, effort: Effort, budget: Budget, scratch: Path) -> None:
    rate = Curve(f"hello by ingress workers, {CONNECTIONS} connections", "ingress workers", "requests/s", "high")
    for count in there_and_back(effort.ingress_workers, effort.repeats):
        budget.check()
        with hello_instance(ingress_workers=count) as instance:
            wrk(port_of(instance), HELLO, CONNECTIONS, effort.warmup_s, scratch)
            curves.add(rate, count, wrk(port_of(instance), HELLO, CONNECTIONS, effort.seconds, scratch).rate)

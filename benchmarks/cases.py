"""What is measured: each case is a function from a running server to figures, and says which server it needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import answer_to, transfer_ms, wrk
from benchmarks.processes import Server
from benchmarks.servers import BATCH_SIZE, STREAMS
from benchmarks.streams import streams

SLEEP_REPLICAS = 4
SLEEP_BOUND = SLEEP_REPLICAS / 0.010
"""Requests a second that 4 replicas can answer at most, with 10 ms of sleep in each."""
BATCH_BOUND = BATCH_SIZE / 0.010
"""Requests a second that batches of 16 can answer at most, with 10 ms of sleep in each."""
CHUNKS = 1000
"""In each stream, where as many chunks are made as there can be."""
REST_S = 0.005
"""After each look at their connections: 64 of them then hold 500 chunks at a rate of 100,000 a second."""
PACED_CHUNKS, PACE_MS = 10, 20.0
"""In each stream, where the time to the first is measured; and the pause before the next."""
QUIET_S = 1.0
"""Between load and a look at the idle server."""


@dataclass(frozen=True)
class Figure:
    """One number that is measured; ``better`` is ``high`` or ``low``."""

    name: str
    unit: str
    better: str = "low"


@dataclass(frozen=True)
class Effort:
    """How much is measured. One of these is what ``--quick`` changes."""

    repeats: int = 5
    connections: tuple[int, ...] = (1, 16, 64, 256)
    seconds: float = 5.0
    warmup_s: float = 2.0
    idle_s: float = 5.0
    transfers: int = 20
    budget_s: float = 7200.0
    """No server is started after this time: what is left then is reported as not measured."""


FULL = Effort()
QUICK = Effort(repeats=1, connections=(1, 64), seconds=2.0, warmup_s=1.0, idle_s=2.0, transfers=5, budget_s=160.0)

Found = Iterator[tuple[Figure, float]]


@dataclass(frozen=True)
class Case:
    """``setups`` are the servers that ``measure`` wants to see: a handler, and a number of replicas."""

    setups: tuple[tuple[str, int], ...]
    measure: Callable[[Server, Effort, Path], Found]


def start(server: Server, effort: Effort, scratch: Path) -> Found:
    yield Figure("start: time to first answer", "s"), server.start_s


def memory(server: Server, effort: Effort, scratch: Path) -> Found:
    yield Figure(f"memory, replicas: {server.replicas}", "MB"), server.memory_mb()


def idle(server: Server, effort: Effort, scratch: Path) -> Found:
    time.sleep(QUIET_S)
    before, began = server.cpu_s(), time.monotonic()
    time.sleep(effort.idle_s)
    yield Figure("idle CPU", "% of a core"), 100 * (server.cpu_s() - before) / (time.monotonic() - began)


def hello(server: Server, effort: Effort, scratch: Path) -> Found:
    for connections in effort.connections:
        load = wrk(server.port, server.peer.call("hello"), connections, effort.seconds, scratch)
        yield Figure(f"hello, connections: {connections}", "requests/s", "high"), load.rate
        yield Figure(f"hello, connections: {connections}, median", "ms"), load.p50_ms
        yield Figure(f"hello, connections: {connections}, p99", "ms"), load.p99_ms


def sleep(server: Server, effort: Effort, scratch: Path) -> Found:
    load = wrk(server.port, server.peer.call("sleep"), 64, effort.seconds, scratch)
    name = f"sleep of 10 ms, replicas: {SLEEP_REPLICAS}"
    yield Figure(name, f"% of {SLEEP_BOUND:.0f}/s", "high"), 100 * load.rate / SLEEP_BOUND


def json(server: Server, effort: Effort, scratch: Path) -> Found:
    load = wrk(server.port, server.peer.call("json"), 16, effort.seconds, scratch)
    yield Figure("JSON of 10 KB, connections: 16", "requests/s", "high"), load.rate


def body(server: Server, effort: Effort, scratch: Path) -> Found:
    before = server.memory_mb()
    for size in (1, 10):
        call = server.peer.call(server.handler, size * 10**6)
        milliseconds = transfer_ms(server.port, call, size * 10**6, effort.transfers)
        yield Figure(f"{server.handler} of {size} MB", "ms"), milliseconds
    yield Figure(f"memory grown by {2 * effort.transfers} {server.handler}s", "MB"), server.memory_mb() - before


def batch(server: Server, effort: Effort, scratch: Path) -> Found:
    load = wrk(server.port, server.peer.call("batch"), 64, effort.seconds, scratch)
    name = f"10 ms for each batch of up to {BATCH_SIZE}, connections: 64"
    yield Figure(name, f"% of {BATCH_BOUND:,.0f}/s", "high"), 100 * load.rate / BATCH_BOUND


def handle(server: Server, effort: Effort, scratch: Path) -> Found:
    for at_once in (1, 64):
        calls, took_s = 100, 0.0
        while took_s < effort.seconds / 2:  # As many as take about so long: the next look is worth twice this one.
            calls *= 2
            took_s = float(answer_to(server.port, server.peer.call("compose", calls, at_once=at_once)))
        yield Figure(f"a handle's calls in a handler, at once: {at_once}", "calls/s", "high"), calls / took_s


def stream(server: Server, effort: Effort, scratch: Path) -> Found:
    made_by = {"stream": "generator", "astream": "async generator"}[server.handler]
    call = server.peer.call(server.handler, PACED_CHUNKS, PACE_MS)
    for connections in (1, 64):
        spread_s = PACED_CHUNKS * PACE_MS / 1000
        found = streams(server.port, call, PACED_CHUNKS, connections, effort.seconds, spread_s=spread_s)
        yield Figure(f"{made_by}, paced streams: {connections}, to the first chunk", "ms"), found.first_ms
    call = server.peer.call(server.handler, CHUNKS)
    found = streams(server.port, call, CHUNKS, 64, effort.seconds, rest_s=REST_S)
    yield Figure(f"{made_by}, streams: 64", "chunks/s", "high"), found.rate


CASES = {
    "start": Case((("hello", 1),), start),
    "memory": Case((("hello", 1), ("sleep", SLEEP_REPLICAS)), memory),
    "idle": Case((("hello", 1),), idle),
    "hello": Case((("hello", 1),), hello),
    "sleep": Case((("sleep", SLEEP_REPLICAS),), sleep),
    "json": Case((("json", 1),), json),
    "body": Case((("upload", 1), ("download", 1)), body),
    "batch": Case((("batch", 1),), batch),
    "handle": Case((("compose", 1),), handle),
    "stream": Case((("stream", 1), ("astream", 1)), stream),
}


def warm_up(server: Server, effort: Effort, scratch: Path) -> None:
    """Load before anything is measured: caches, lazy imports, and the first requests that nobody counts."""
    if server.handler in ("upload", "download"):
        transfer_ms(server.port, server.peer.call(server.handler, 10**6), 10**6, 3)
    elif server.handler in STREAMS:
        streams(server.port, server.peer.call(server.handler, 100), 100, 16, effort.warmup_s)
    elif server.handler == "compose":
        answer_to(server.port, server.peer.call("compose", 500, at_once=16))
    else:
        wrk(server.port, server.peer.call(server.handler), 16, effort.warmup_s, scratch)

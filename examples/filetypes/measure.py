"""Measure what batches give: throughput with many clients and latency with one, for each ``max_batch_size``."""

from __future__ import annotations

import argparse
import http.client
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import servekit
from file_types import FileTypes
from samples import found

SIZES = (1, 2, 4, 8, 16, 32, 64)
CLIENTS = 64
WAIT_S = 0.005
LONGEST_BYTES = 64 * 1024
FIRST, LAST = "<!-- batches: begin -->", "<!-- batches: end -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="values of max_batch_size")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="the median of so many is told")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of load for each figure")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="onnxruntime's, in the one replica")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the table between the marks of a Markdown page")
    options = parser.parse_args()
    bodies = [body for body in found(200).values() if 0 < len(body) <= LONGEST_BYTES]
    figures: dict[int, list[tuple[float, float, float, float]]] = {size: [] for size in options.sizes}
    with servekit.init(runtime="process", http_port=0) as instance:
        port = int(instance.url.rpartition(":")[2])
        for repeat in range(options.repeats):
            for size in options.sizes if repeat % 2 == 0 else reversed(options.sizes):
                print(f"{repeat + 1}/{options.repeats}  max_batch_size {size}", file=sys.stderr, flush=True)
                figures[size].append(measure(size, options.threads, port, bodies, options.seconds))
    lines = table(figures)
    print(lines)
    if options.page:
        options.page.write_text(filled(options.page.read_text(), lines))
    return 0


def measure(
    size: int, threads: int, port: int, bodies: list[bytes], load_s: float
) -> tuple[float, float, float, float]:
    """With a backend of its own: files a second, median and 99th percentile [ms] of many clients, median of one."""
    config = {"max_batch_size": size, "batch_wait_timeout": WAIT_S}
    servekit.create_backend("file_types", FileTypes, threads, config=config)
    servekit.create_endpoint("file_types", "/file_types", methods=["POST"], backend="file_types")
    try:
        alone, _ = load(port, bodies, 1, load_s / 5)
        times, rate = load(port, bodies, CLIENTS, load_s)
    finally:
        servekit.delete_endpoint("file_types")
        servekit.delete_backend("file_types")
    p99 = statistics.quantiles(times, n=100)[98]
    return rate, statistics.median(times) * 1000, p99 * 1000, statistics.median(alone) * 1000


def load(port: int, bodies: list[bytes], clients: int, load_s: float) -> tuple[list[float], float]:
    """Clients that ask, each one file after another, for so long: how long each answer took, and answers a second."""
    began = time.perf_counter()

    def ask(first: int) -> list[tuple[float, float]]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        done = []
        for body in cycle(bodies[first % len(bodies) :] + bodies[: first % len(bodies)]):
            sent = time.perf_counter()
            if sent - began > load_s:
                break
            connection.request("POST", "/file_types", body)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"status {answer.status}: the figures are void")
            done.append((time.perf_counter() - sent, time.perf_counter()))
        connection.close()
        return done

    with ThreadPoolExecutor(clients) as pool:
        done = [one for found in pool.map(ask, range(clients)) for one in found]
    return [took for took, _ in done], len(done) / (max(at for _, at in done) - began)


def table(figures: dict[int, list[tuple[float, float, float, float]]]) -> str:
    lines = [
        f"| max_batch_size | files/s, {CLIENTS} clients | median [ms] | p99 [ms] | median of one client alone [ms] |",
        "|---:|---:|---:|---:|---:|",
    ]
    for size, runs in figures.items():
        rate, median, p99, alone = (statistics.median(values) for values in zip(*runs, strict=True))
        lines.append(f"| {size} | {rate:.1f} | {median:.0f} | {p99:.0f} | {alone:.1f} |")
    return "\n".join(lines)


def filled(page: str, lines: str) -> str:
    head, begin, rest = page.partition(FIRST)
    _, end, tail = rest.partition(LAST)
    if not begin or not end:
        raise ValueError(f"the page has no place for figures: it needs the lines {FIRST!r} and {LAST!r}")
    return f"{head}{FIRST}\n{lines}\n{LAST}{tail}"


if __name__ == "__main__":
    sys.exit(main())

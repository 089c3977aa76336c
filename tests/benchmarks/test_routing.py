from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from benchmarks.load import LoadError
from benchmarks.routing.__main__ import figures, named, schedule
from benchmarks.routing.contenders import CONTENDERS
from benchmarks.routing.openloop import Observed, open_loop, parse_head
from benchmarks.servers.uneven import Uneven

Answerer = Callable[[int], bytes]


@asynccontextmanager
async def server(answer: Answerer) -> AsyncIterator[int]:
    """Answers the n-th connection's requests with ``answer(n)``."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        number = len(writers)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer(number))
        except (EOFError, ConnectionError):
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


A, B = "aaaaaaaaaaaa", "bbbbbbbbbbbb"


def an_answer(worker: str = A, status: int = 200) -> bytes:
    return f"HTTP/1.1 {status} X\r\nX-Request-ID: {worker}-1\r\ncontent-length: 4\r\n\r\nfast".encode()


def load(answer: Answerer, arrivals: list[float], *, workers: int = 1, warmup_s: float = 0.0) -> Observed:
    async def run() -> Observed:
        async with server(answer) as port:
            return await open_loop(port, "/", workers, arrivals, warmup_s)

    return asyncio.run(run())


def test_every_arrival_is_sent_and_those_of_the_warm_up_are_not_counted() -> None:
    observed = load(lambda _: an_answer(), [0.0, 0.01, 0.02, 0.03], warmup_s=0.015)

    assert len(observed.latencies_ms) == 2
    assert observed.bodies == Counter(fast=2)
    assert observed.workers == Counter({A: 2})


def test_connections_to_each_ingress_worker_are_used_in_turns() -> None:
    # Three of four connections are the first worker's; half of the requests are.
    observed = load(lambda n: an_answer(B if n % 4 == 0 else A), [0.01 * n for n in range(20)], workers=2)

    assert observed.workers == Counter({A: 10, B: 10})


def test_request_ids_that_are_not_of_servekit_tell_nothing_of_workers() -> None:
    observed = load(lambda n: an_answer(f"{n:08x}-0000-0000-0000"), [0.0, 0.01])

    assert observed.workers == Counter({"": 2})


def test_a_worker_that_takes_no_connection_makes_the_load_void() -> None:
    with pytest.raises(LoadError, match="2 ingress workers are to have"):
        load(lambda _: an_answer(A), [0.0], workers=2)


def test_one_failed_request_voids_the_figure() -> None:
    with pytest.raises(LoadError, match="status 503"):
        load(lambda _: an_answer(status=503), [0.0])


def test_an_answer_that_cannot_be_read_voids_the_figure() -> None:
    with pytest.raises(LoadError, match="a request failed"):
        load(lambda _: b"nonsense\r\n\r\n", [0.0])


def test_a_body_in_chunks_is_put_together() -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    observed = load(lambda _: head + b"2\r\nfa\r\n2\r\nst\r\n0\r\n\r\n", [0.0, 0.01])

    assert observed.bodies == Counter(fast=2)


def test_a_head_is_status_and_headers_by_lower_case_name() -> None:
    assert parse_head(b"HTTP/1.1 200 OK\r\nA-B: c: d\r\nX:y\r\n\r\n") == (200, {"a-b": "c: d", "x": "y"})


def test_figures_are_percentiles_and_shares() -> None:
    observed = Observed([float(n) for n in range(1, 101)], Counter(slow=5, fast=95), Counter(a=30, b=70))
    found = {figure.name.partition(" at ")[0]: value for figure, value in figures(observed, 50)}

    assert found == {
        "p50 of latency": 50.0,
        "p95 of latency": 95.0,
        "p99 of latency": 99.0,
        "answers by the slow replica": 5.0,
        "answers by the busiest ingress worker": 70.0,
    }


def test_the_replica_that_is_built_first_is_the_slow_one(tmp_path: Path) -> None:
    assert [Uneven(str(tmp_path)).name for _ in range(3)] == ["slow", "fast", "fast"]


def test_a_name_stands_for_all_contenders_that_begin_with_it() -> None:
    assert [contender.name for contender in named("default,ray")] == ["default x1", "default x2", "rayserve"]
    with pytest.raises(argparse.ArgumentTypeError, match="no contender 'nonesuch'; there are default x1"):
        named("nonesuch")


def test_every_other_repeat_has_the_contenders_the_other_way_round() -> None:
    first, last = CONTENDERS[0], CONTENDERS[-1]

    assert [*schedule([first, last], 2)] == [(1, first), (1, last), (2, last), (2, first)]

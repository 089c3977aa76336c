"""Handlers that take batches: which calls share one, and what becomes of each."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from servekit import accept_batch
from servekit.context import current_call
from servekit.handles.payload import pack
from servekit.interfaces import Request, RequestAdapter, Response
from servekit.wire.data_frames import Answer, Chunk, End, Refusal

DEADLINE_S = 10.0


class Recorder:
    """Handlers that answer with their requests' paths, and remember the batches; held up while ``gate`` is shut."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.contexts: list[Any] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.inside = self.most = 0
        self._lock = threading.Lock()

    def _began(self, requests: list[Request]) -> list[bytes]:
        self.batches.append([request.path for request in requests])
        self.contexts.append(current_call.get())
        return [request.path.encode() for request in requests]

    @accept_batch
    def __call__(self, requests: list[Request]) -> list[bytes]:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.threads.add(threading.get_ident())
        answers = self._began(requests)
        assert self.gate.wait(DEADLINE_S)
        with self._lock:
            self.inside -= 1
        return answers

    @accept_batch
    async def later(self, requests: list[Request]) -> list[bytes]:
        answers = self._began(requests)
        while not self.gate.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return answers

    def single(self, request: Request) -> bytes:
        return b"single"


def target(recorder: Recorder) -> Any:
    """As a class, so that methods can be called by name."""

    class Recording(Recorder):
        def __init__(self) -> None:
            self.__dict__ = recorder.__dict__

    return Recording


def submit(bench: Any, executor: Any, link: Any, *numbers: int, **call: Any) -> None:
    for number in numbers:
        executor.submit(link, bench.call(number, **call))
    executor.run()


def sizes(recorder: Recorder) -> list[int]:
    return [len(batch) for batch in recorder.batches]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.mark.parametrize("method", [None, "later"])
@pytest.mark.parametrize("slots", [1, 2])
def test_what_waits_is_answered_together(bench: Any, recorder: Recorder, method: str | None, slots: int) -> None:
    async def test() -> None:
        executor, link = bench.executor(target(recorder), slots=slots, max_batch_size=4), bench.link()
        submit(bench, executor, link, *range(10), method=method)
        await bench.until(lambda: executor.is_idle)
        assert [path for batch in recorder.batches for path in batch] == [f"/{number}" for number in range(10)]
        assert sorted(sizes(recorder)) == [2, 4, 4]
        assert sorted(link.answers) == [b"/%d" % number for number in range(10)]
        assert {answer.id: answer.body for answer in link.frames} == {number: b"/%d" % number for number in range(10)}
        assert [context.batch_size for context in recorder.contexts] == sizes(recorder)
        told = {path: len(batch) for batch in recorder.batches for path in batch}
        assert {f"/{answer.id}": answer.batch_size for answer in link.frames} == told
        assert [f"/{context.request_id[2:]}" for context in recorder.contexts] == [
            batch[0] for batch in recorder.batches
        ]
        assert executor.outstanding == 0
        await bench.until(lambda: bench.idle)

    bench.run(test)


def test_without_a_size_batches_are_of_one(bench: Any, recorder: Recorder) -> None:
    async def test() -> None:
        executor, link = bench.executor(target(recorder)), bench.link()
        submit(bench, executor, link, *range(5))
        await bench.until(lambda: executor.is_idle)
        assert sizes(recorder) == [1] * 5

    bench.run(test)


@pytest.mark.parametrize("slots", [1, 3])
def test_a_batch_takes_one_slot(bench: Any, recorder: Recorder, slots: int) -> None:
    """And the next that is full is ready when its turn comes, but does not begin before."""

    async def test() -> None:
        recorder.gate.clear()
        executor, link = bench.executor(target(recorder), slots=slots, max_batch_size=4), bench.link()
        submit(bench, executor, link, *range(40))
        await bench.until(lambda: recorder.inside == slots)
        assert executor.busy_since
        await asyncio.sleep(0)
        assert (len(recorder.batches), len(link.answers)) == (slots, 0)
        recorder.gate.set()
        await bench.until(lambda: executor.is_idle)
        assert sizes(recorder) == [4] * 10
        assert (recorder.most, len(recorder.threads)) == (slots, slots)
        assert not executor.busy_since

    bench.run(test)


def test_it_waits_for_as_many_as_there_were_lately(bench: Any, recorder: Recorder) -> None:
    async def test() -> None:
        executor, link = bench.executor(target(recorder), max_batch_size=16, batch_wait_s=60.0), bench.link()
        submit(bench, executor, link, 1)
        await bench.until(lambda: executor.is_idle)  # alone: at once
        for number in range(2, 7):
            executor.submit(link, bench.call(number))
        executor.run()
        await bench.until(lambda: executor.is_idle)
        for number in range(7, 11):
            submit(bench, executor, link, number)
            await asyncio.sleep(0)
            assert sizes(recorder) == [1, 5]
        submit(bench, executor, link, 11)
        await bench.until(lambda: executor.is_idle)
        assert sizes(recorder) == [1, 5, 5]

    bench.run(test)


def test_the_wait_ends(bench: Any, recorder: Recorder) -> None:
    async def test() -> None:
        executor, link = bench.executor(target(recorder), max_batch_size=16, batch_wait_s=0.01), bench.link()
        submit(bench, executor, link, *range(5))
        await bench.until(lambda: executor.is_idle)
        submit(bench, executor, link, 6)
        submit(bench, executor, link, 7)
        bench.clock.now += 0.02
        await bench.until(lambda: executor.is_idle)
        assert sizes(recorder) == [5, 2]

    bench.run(test)


def test_who_waits_may_leave(bench: Any, recorder: Recorder) -> None:
    async def test() -> None:
        executor, link, other = bench.executor(target(recorder), max_batch_size=8), bench.link(), bench.link()
        recorder.gate.clear()
        submit(bench, executor, link, 1)
        submit(bench, executor, link, 2, 3)
        submit(bench, executor, link, 4, timeout_ms=100)
        submit(bench, executor, other, 5)
        executor.cancel(link, 2)
        executor.forget(other)
        bench.clock.now += 1
        recorder.gate.set()
        await bench.until(lambda: executor.is_idle)
        assert recorder.batches == [["/1"], ["/3"]]
        assert [frame for frame in link.frames if type(frame) is Refusal] == [
            Refusal(2, "cancelled"),
            Refusal(4, "expired"),
        ]

    bench.run(test)


def test_what_is_ready_leaves_out_those_for_whom_nobody_waits_any_more(bench: Any, recorder: Recorder) -> None:
    async def test() -> None:
        executor, link, other = bench.executor(target(recorder), max_batch_size=4), bench.link(), bench.link()
        recorder.gate.clear()
        submit(bench, executor, link, 1)
        for number in (2, 3):
            executor.submit(link, bench.call(number))
        executor.submit(link, bench.call(4, timeout_ms=100))
        submit(bench, executor, other, 5)  # a full batch
        executor.cancel(link, 2)
        executor.forget(other)
        bench.clock.now += 1
        recorder.gate.set()
        await bench.until(lambda: executor.is_idle)
        assert recorder.batches == [["/1"], ["/3"]]
        assert recorder.contexts[1].batch_size == 1
        assert {frame.id: frame.status for frame in link.frames} == {1: 200, 2: 500, 3: 200, 4: 500}

    bench.run(test)


def test_a_replica_that_leaves_gives_back_what_waits(bench: Any, recorder: Recorder) -> None:
    async def test() -> None:
        executor, link = bench.executor(target(recorder), max_batch_size=4), bench.link()
        recorder.gate.clear()
        submit(bench, executor, link, 1)
        submit(bench, executor, link, 2, 3)
        executor.refuse_waiting()
        assert link.frames == [Refusal(2, "draining"), Refusal(3, "draining")]
        recorder.gate.set()
        await bench.until(lambda: executor.is_idle)
        assert link.answers == [b"/1"]

    bench.run(test)


def test_only_what_asks_for_the_same_shares_a_batch(bench: Any, recorder: Recorder) -> None:
    async def test() -> None:
        executor, link = bench.executor(target(recorder), max_batch_size=8), bench.link()
        for number, method in enumerate([None, "later", None, "later", "single", None]):
            executor.submit(link, bench.call(number, method=method))
        executor.run()
        await bench.until(lambda: executor.is_idle)
        assert sorted(map(tuple, recorder.batches)) == [("/0", "/2", "/5"), ("/1", "/3")]
        assert b"single" in link.answers

    bench.run(test)


def test_a_batch_with_a_body_that_arrives_has_it_whole(bench: Any) -> None:
    found: list[int] = []

    @accept_batch
    def handler(requests: list[Request]) -> list[bytes]:
        found.extend(len(request.stream.read()) for request in requests)
        return [b"ok" for _ in requests]

    async def test() -> None:
        executor, link = bench.executor(handler, streams=True, max_batch_size=4), bench.link()
        executor.submit(link, bench.call(1, body=bytes(65_537), more=True))
        for _ in range(20):
            executor.receive(link, Chunk(1, bytes(100_000)))
        executor.run()
        executor.received(link, End(1))
        executor.run()
        await bench.until(lambda: executor.is_idle)
        assert (found, link.answers) == ([2_065_537], [b"ok"])

    bench.run(test)


# -- what handlers return ---------------------------------------------------------------------------------------------


def both(answer: Any) -> list[Any]:
    """The same handler as a ``def`` and as an ``async def``."""

    @accept_batch
    def handler(requests: list[Request]) -> Any:
        return answer(requests)

    @accept_batch
    async def later(requests: list[Request]) -> Any:
        await asyncio.sleep(0)
        return answer(requests)

    return [handler, later]


@pytest.mark.parametrize("async_", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        tuple,
        lambda requests: [request.path.encode() for request in requests],
        lambda requests: np.array([request.path.encode() for request in requests]),
    ],
    ids=["tuple", "list", "array"],
)
def test_sequences_of_items(bench: Any, answer: Any, async_: bool) -> None:
    class Any_(RequestAdapter):
        def decode(self, request: Request) -> Any:
            return request

        def encode(self, result: Any) -> Response:
            return Response(200, [], result.path.encode() if isinstance(result, Request) else bytes(result))

    async def test() -> None:
        executor, link = bench.executor(both(answer)[async_], adapter=Any_(), max_batch_size=4), bench.link()
        submit(bench, executor, link, 1, 2)
        await bench.until(lambda: executor.is_idle)
        assert link.answers == [b"/1", b"/2"]

    bench.run(test)


class Table:
    """Its length is that of its rows, as a data frame's is, and it iterates over something else."""

    def __init__(self, rows: int, columns: Any) -> None:
        self._rows = rows
        self._columns = columns

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, name: str) -> Any: ...

    def __iter__(self) -> Iterator[Any]:
        return iter(self._columns)


@pytest.mark.parametrize("async_", [False, True])
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda requests: [b"x"] * 2, "asked for 3 and returned 2"),
        (lambda requests: [b"x"] * 4, "asked for 3 and returned 4"),
        (lambda requests: None, "3 requests; that of backend 'b' returned NoneType"),
        (lambda requests: b"abc", "returned bytes"),
        (lambda requests: dict.fromkeys(range(3)), "returned dict"),
        (lambda requests: (b"x" for _ in requests), "returned generator"),
        (lambda requests: 1 / 0, "division by zero"),
        (lambda requests: Table(3, ["column"]), "asked for 3 and returned 1"),
        (lambda requests: Table(3, map(int, ["no number"])), "invalid literal"),
    ],
)
def test_a_batch_that_fails(bench: Any, answer: Any, says: str, async_: bool, caplog: Any) -> None:
    async def test() -> None:
        bench.debug = True
        executor, link = bench.executor(both(answer)[async_], max_batch_size=3), bench.link()
        submit(bench, executor, link, 1, 2, 3)
        await bench.until(lambda: executor.is_idle)
        assert [(frame.status, frame.failed) for frame in link.frames] == [(500, True)] * 3
        for frame in link.frames:
            assert says.encode() in frame.body
            assert b"id%d" % frame.id in frame.body
        assert says in caplog.text
        assert caplog.text.count("a batch failed") == 1
        assert "id1, id2, id3" in caplog.text

    bench.run(test)


@pytest.mark.parametrize("async_", [False, True])
def test_items_of_their_own(bench: Any, async_: bool, caplog: Any) -> None:
    items = [b"fine", LookupError("only mine"), Response(418, [], b"teapot"), object()]

    async def test() -> None:
        executor, link = bench.executor(both(lambda requests: items)[async_], max_batch_size=4), bench.link()
        submit(bench, executor, link, 1, 2, 3, 4)
        await bench.until(lambda: executor.is_idle)
        assert [frame.status for frame in link.frames] == [200, 500, 418, 500]
        assert "only mine" in caplog.text
        assert [record.request_id for record in caplog.records] == ["id2", "id4"]

    bench.run(test)


@pytest.mark.parametrize("async_", [False, True])
def test_items_that_are_made_piece_by_piece(bench: Any, async_: bool) -> None:
    """They hold the slot of their batch until the last is over."""
    gate = threading.Event()

    def pieces(name: str) -> Iterator[bytes]:
        yield name.encode()
        gate.wait(DEADLINE_S)
        yield b"%d" % current_call.get().batch_size

    async def async_pieces(name: str) -> AsyncIterator[bytes]:
        yield name.encode()
        while not gate.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        yield b"%d" % current_call.get().batch_size

    def answer(requests: list[Request]) -> list[Any]:
        kinds = (pieces, async_pieces, bytes)
        return [
            bytes(3) if kind is bytes else Response(200, [], kind(request.path))
            for kind, request in zip(kinds, requests, strict=False)
        ]

    async def test() -> None:
        executor, link = bench.executor(both(answer)[async_], max_batch_size=3), bench.link()
        submit(bench, executor, link, 1, 2, 3)
        submit(bench, executor, link, 4, 5, 6)
        await bench.until(lambda: len(link.answers) == 3)
        assert sorted(link.answers) == [bytes(3), b"/1", b"/2"]
        await asyncio.sleep(0.01)
        assert len(link.answers) == 3
        gate.set()
        await bench.until(lambda: executor.is_idle)
        for number in (1, 2, 4, 5):
            assert [
                frame.data if type(frame) is Chunk else frame.body
                for frame in link.frames
                if type(frame) in (Answer, Chunk) and frame.id == number
            ] == [b"/%d" % number, b"3"]

    bench.run(test)


class Picky(RequestAdapter):
    """Cannot decode one of them, and says where its context is."""

    inside = False

    def decode(self, request: Request) -> Any:
        if request.path == "/2":
            raise ValueError("not to be decoded")
        return request.path

    def encode(self, result: Any) -> Response:
        return Response(200, [], result)

    @contextlib.contextmanager
    def batch_context(self) -> Iterator[None]:
        self.inside = True
        try:
            yield
        finally:
            self.inside = False


@pytest.mark.parametrize("async_", [False, True])
def test_the_adapter_is_around_it(bench: Any, async_: bool, caplog: Any) -> None:
    adapter = Picky()
    found: list[Any] = []

    def answer(paths: list[str]) -> list[bytes]:
        found.append((paths, adapter.inside))
        return [path.encode() for path in paths]

    async def test() -> None:
        executor = bench.executor(both(answer)[async_], adapter=adapter, max_batch_size=3)
        link = bench.link()
        submit(bench, executor, link, 1, 2, 3)
        await bench.until(lambda: executor.is_idle)
        assert found == [(["/1", "/3"], True)]
        assert not adapter.inside
        assert {frame.id: frame.status for frame in link.frames} == {1: 200, 2: 500, 3: 200}
        assert "not to be decoded" in caplog.text
        submit(bench, executor, link, 2)
        await bench.until(lambda: executor.is_idle)
        assert len(found) == 1

    bench.run(test)


# -- cancelled --------------------------------------------------------------------------------------------------------


def test_an_async_batch_is_cancelled_once_nobody_waits_for_any_of_it(bench: Any) -> None:
    cancelled: list[int] = []

    @accept_batch
    async def handler(requests: list[Request]) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(len(requests))
            raise

    async def test() -> None:
        executor, link = bench.executor(handler, max_batch_size=2), bench.link()
        submit(bench, executor, link, 1, 2)
        await asyncio.sleep(0)
        executor.cancel(link, 1)
        await asyncio.sleep(0.01)
        assert not cancelled
        executor.cancel(link, 2)
        await bench.until(lambda: executor.is_idle)
        assert cancelled == [2]
        submit(bench, executor, link, 3, 4)
        executor.forget(link)  # before its first step
        await bench.until(lambda: executor.is_idle)
        assert cancelled == [2]

    bench.run(test)


# -- handles ----------------------------------------------------------------------------------------------------------


def arguments(*args: Any, **kwargs: Any) -> bytes:
    payload: bytes = pack((args, kwargs))
    return payload


def test_handles_have_batches_of_their_own(bench: Any) -> None:
    calls: list[Any] = []

    @accept_batch
    def handler(requests: list[Request], *args: Any, **kwargs: Any) -> list[Any]:
        calls.append((len(requests), args, kwargs))
        return [b"ok"] * len(requests)

    async def test() -> None:
        executor, link = bench.executor(handler, max_batch_size=8), bench.link()
        kinds = [arguments(1, x=2), arguments(3, x=4), arguments(5), arguments(6, y=7), b"no pickle", None]
        for number, body in enumerate(kinds):
            http = body is None
            executor.submit(link, bench.call(number, body=body or b"", chain=None if http else ("r0",)))
        executor.run()
        await bench.until(lambda: executor.is_idle)
        assert sorted(calls, key=repr) == sorted(
            [(2, ([1, 3],), {"x": [2, 4]}), (1, ([5],), {}), (1, ([6],), {"y": [7]}), (1, (), {})], key=repr
        )
        statuses = {frame.id: (frame.status, frame.failed) for frame in link.frames}
        assert statuses == {number: (500, True) if number == 4 else (200, False) for number in range(6)}

    bench.run(test)


def test_sizes_and_waits_are_observed(bench: Any, recorder: Recorder) -> None:
    """A batch waits from when its first call came until the handler is called, for a slot too."""

    async def test() -> None:
        executor, link = bench.executor(target(recorder), max_batch_size=4), bench.link()
        recorder.gate.clear()
        submit(bench, executor, link, 0)
        await bench.until(lambda: recorder.batches)
        assert executor.executor.running == 1
        for number in (1, 2, 3):
            bench.clock.now += 1.0
            submit(bench, executor, link, number)
        bench.clock.now += 1.0
        assert (executor.executor.running, executor.outstanding) == (1, 4)
        recorder.gate.set()
        await bench.until(lambda: executor.is_idle)
        sizes, waits = (each.family() for each in executor.executor.batch_histograms)
        assert sizes.series[()][:3] == [1, 1, 2]
        assert sizes.series[()][-2:] == [2, 4]
        assert waits.series[()][-2:] == [2, 3.0]

    bench.run(test)

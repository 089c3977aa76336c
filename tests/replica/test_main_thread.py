"""A ``def`` where there is one slot: on the main thread, from its call to the last piece of its answer."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import flask
import pytest

from servekit.context import current_call
from servekit.interfaces import Response
from servekit.replica import arriving_body
from servekit.wire.data_frames import BODY_WINDOW_BYTES, PIECE_BYTES, Answer, Chunk, Credit, End, Refusal
from servekit_flask.adapter import FlaskAdapter
from servekit_flask.wsgi import WsgiAdapter

FIRST = bytes(65_537)
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


def submit(bench: Any, handler: Any, **more: Any) -> tuple[Any, Any]:
    executor, link = bench.executor(handler, **more), bench.link()
    executor.submit(link, bench.call(1))
    executor.run()
    return executor, link


# -- generators ------------------------------------------------------------------------------------------------------


def by_token() -> Iterator[str]:
    token = variable.set("set")
    for _ in range(3):
        yield variable.get()
    variable.reset(token)


def by_lock() -> Iterator[str]:
    lock = threading.RLock()
    with lock:
        yield "locked"
        assert lock.acquire(blocking=False)
        lock.release()
    yield "released"


def by_sqlite() -> Iterator[str]:
    connection = sqlite3.connect(":memory:")
    for (number,) in connection.execute("values (1), (2), (3)"):
        yield str(number)
    connection.close()


def by_context() -> Iterator[str]:
    for _ in range(2):
        yield current_call.get().request_id


def by_own_loop() -> Iterator[str]:
    for _ in range(2):
        yield asyncio.run(asyncio.sleep(0, "ran"))


def by_flask() -> Iterator[str]:
    def pieces() -> Iterator[str]:
        for _ in range(2):
            yield flask.request.path

    return iter(flask.stream_with_context(pieces()))


def by_flask_decorator() -> Iterator[str]:
    @flask.stream_with_context
    def pieces() -> Iterator[str]:
        yield flask.request.path
        flask.g.seen = "kept"
        yield flask.g.seen

    return iter(pieces())


STREAMS: dict[Callable[[], Iterator[str]], str] = {
    by_token: "setsetset",
    by_lock: "lockedreleased",
    by_sqlite: "123",
    by_context: "id1id1",
    by_own_loop: "ranran",
    by_flask: "/1/1",
    by_flask_decorator: "/1kept",
}


@pytest.mark.parametrize("made", STREAMS)
@pytest.mark.parametrize("way", ["flask", "wsgi"])
def test_what_belongs_to_a_thread_or_a_context_lasts_to_the_last_piece(bench: Any, made: Any, way: str) -> None:
    application = flask.Flask("tested")

    @application.route("/1")
    def view() -> flask.Response:
        return flask.Response(made())

    handler: Any = application if way == "wsgi" else lambda request: flask.Response(made())
    adapter = WsgiAdapter() if way == "wsgi" else FlaskAdapter()

    async def test() -> None:
        executor, link = submit(bench, handler, adapter=adapter)
        # Callbacks of the loop, and no step of a task: in that a loop could not run.
        await bench.until(lambda: executor.is_idle)
        assert link.sent() == STREAMS[made].encode()
        assert [end.complete for end in link.ends] == [True]

    bench.run(test)


def test_it_is_closed_in_its_thread_and_its_context_when_nobody_reads(bench: Any) -> None:
    found: list[Any] = []

    def pieces() -> Iterator[bytes]:
        token = variable.set("set")
        try:
            while True:
                yield bytes(PIECE_BYTES)
        finally:
            found.append((threading.get_ident(), variable.get(), asyncio._get_running_loop()))
            variable.reset(token)

    async def test() -> None:
        executor, link = submit(bench, lambda request: Response(200, [], pieces()))
        await bench.until(lambda: len(link.sent()) == BODY_WINDOW_BYTES)
        assert not found
        executor.cancel(link, 1)
        await bench.until(lambda: executor.is_idle)
        assert found == [(threading.get_ident(), "set", None)]
        assert [end.complete for end in link.ends] == [False]

    bench.run(test)


def test_each_piece_has_left_before_the_next_is_made_and_the_loop_has_turns(bench: Any) -> None:
    link: Any = None
    seen: list[int] = []

    def pieces() -> Iterator[bytes]:
        for _ in range(5):
            flushed = link.log[: len(link.log) - link.log[::-1].index("flush")] if "flush" in link.log else []
            seen.append(sum(type(entry) in (Answer, Chunk) for entry in flushed))
            yield b"piece"

    async def test() -> None:
        nonlocal link
        turns = 0
        link = bench.link()
        executor = bench.executor(lambda request: Response(200, [], pieces()))
        executor.submit(link, bench.call(1))
        executor.run()
        while not executor.is_idle:
            turns += 1
            await asyncio.sleep(0)
        assert seen == [0, 1, 2, 3, 4]
        assert turns > 5

    bench.run(test)


def test_calls_wait_until_a_generator_is_over_and_its_body_may_be_long(bench: Any) -> None:
    def handler(request: Any) -> Any:
        return b"other" if request.path == "/2" else Response(200, [], iter([bytes(300_000), b"last"]))

    async def test() -> None:
        executor, link = submit(bench, handler)
        executor.submit(link, bench.call(2))
        executor.run()
        await bench.until(lambda: len(link.sent()) >= BODY_WINDOW_BYTES)
        assert (executor.outstanding, link.sent(2)) == (2, b"")
        executor.granted(link, Credit(1, BODY_WINDOW_BYTES))
        await bench.until(lambda: executor.is_idle)
        assert link.sent() == bytes(300_000) + b"last"
        assert link.sent(2) == b"other"
        assert all(len(frame.data) <= PIECE_BYTES for frame in link.frames if type(frame) is Chunk)

    bench.run(test)


@pytest.mark.parametrize("how", ["all", "cancelled", "fails"])
def test_nothing_of_a_generator_is_left_to_the_garbage_collector(bench: Any, how: str) -> None:
    class Held:
        pass

    left: list[weakref.ref[Any]] = []

    def handler(request: Any) -> Any:
        held = Held()
        left.append(weakref.ref(held))

        def pieces() -> Iterator[bytes]:
            yield b"%d" % bool(held)
            if how == "fails":
                raise LookupError
            yield bytes(2 * BODY_WINDOW_BYTES if how == "cancelled" else 1)

        return Response(200, [], pieces())

    async def test() -> None:
        executor, link = submit(bench, handler)
        if how == "cancelled":
            await bench.until(lambda: len(link.sent()) > BODY_WINDOW_BYTES)
            executor.cancel(link, 1)
        await bench.until(lambda: executor.is_idle)
        await bench.until(lambda: left[0]() is None)

    bench.run_uncollected(test)


# -- bodies ----------------------------------------------------------------------------------------------------------


class Connected:
    """Has what belongs to the thread in which it was made."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:")

    def __call__(self, request: Any) -> bytes:
        previous = signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, previous)
        (one,) = self._connection.execute("values (1)").fetchone()
        return b"%d %d" % (one, len(request.stream.read()))


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("more", [0, 100, 300_000, 3_000_000])
def test_a_call_runs_there_whatever_the_size_of_its_body(bench: Any, streams: bool, more: int) -> None:
    async def test() -> None:
        executor, link = bench.executor(Connected, streams=streams), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True))
        for _ in range(more // 100):
            executor.receive(link, Chunk(1, bytes(100)))
        executor.run()
        assert (link.answers, executor.busy_since) == ([], 0.0)
        executor.received(link, End(1))
        executor.run()
        assert link.answers == [b"1 %d" % (len(FIRST) + more)]
        granted = sum(frame.size_bytes for frame in link.frames if type(frame) is Credit)
        assert more - PIECE_BYTES < granted <= more
        assert executor.is_idle

    bench.run(test)


@pytest.mark.parametrize("size", [arriving_body.MEMORY_BYTES, arriving_body.MEMORY_BYTES + 1])
@pytest.mark.parametrize("streams", [False, True])
def test_a_long_body_is_in_a_file_that_is_closed_in_the_end(bench: Any, streams: bool, size: int) -> None:
    files: list[Any] = []

    def handler(request: Any) -> bytes:
        files.append(request.incoming)
        return bytes(request.stream.read()) if streams else request.body

    async def test() -> None:
        executor, link = bench.executor(handler, streams=streams), bench.link()
        body = (b"%07d," * (size // 8 + 1)) % tuple(range(size // 8 + 1))
        body = body[:size]
        executor.submit(link, bench.call(1, body=body[:1000], more=True))
        for at in range(1000, size, PIECE_BYTES):
            executor.receive(link, Chunk(1, body[at : at + PIECE_BYTES]))
        executor.received(link, End(1))
        executor.run()
        executor.granted(link, Credit(1, size))
        await bench.until(lambda: executor.is_idle)
        assert link.sent() == body
        in_file = streams and size > arriving_body.MEMORY_BYTES
        assert [file is not None and file.closed for file in files] == [in_file]

    bench.run(test)


@pytest.mark.parametrize("how", ["cancel", "forget", "broken"])
def test_a_client_that_goes_before_all_is_here(bench: Any, how: str) -> None:
    """No handler sees such a request; and the file with what came of it is closed, as a warning would tell."""

    async def test() -> None:
        executor, link = bench.executor(lambda request: b"ok", streams=True), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True))
        for _ in range(20):
            executor.receive(link, Chunk(1, bytes(PIECE_BYTES)))
        if how == "cancel":
            executor.cancel(link, 1)
        elif how == "forget":
            executor.forget(link)
        else:
            executor.received(link, End(1, False))
        executor.run()
        assert [frame for frame in link.frames if type(frame) is not Credit] == [Refusal(1, "cancelled")]
        assert executor.is_idle

    bench.run(test)


def test_a_disk_that_is_full_fails_the_call(
    bench: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    async def test() -> None:
        executor, link = bench.executor(lambda request: b"ok", streams=True), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True))
        executor.submit(link, bench.call(2))
        monkeypatch.setattr(arriving_body.tempfile, "TemporaryFile", full)
        for _ in range(20):
            executor.receive(link, Chunk(1, bytes(PIECE_BYTES)))
        executor.received(link, End(1))
        executor.run()
        assert {frame.id: frame.status for frame in link.frames if type(frame) is Answer} == {1: 500, 2: 200}
        assert executor.is_idle

    bench.run(test)
    assert "No space left" in caplog.text

"""Handlers that are an ``async def``, and bodies that are async iterables: on the data loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from servekit.context import current_call
from servekit.interfaces import Request, RequestAdapter, Response
from servekit.wire.data_frames import BODY_WINDOW_BYTES, PIECE_BYTES, Chunk, Credit, End, Refusal

DEADLINE_S = 10.0
FIRST = bytes(65_537)


async def path(request: Request) -> bytes:
    await asyncio.sleep(0)
    return request.path.encode()


class Plain(RequestAdapter):
    def decode(self, request: Request) -> Any:
        return request

    def encode(self, result: Any) -> Response:
        return result if isinstance(result, Response) else Response(200, [], result)


class Gate:
    """A handler that waits until it is let go on; it counts how many are in it, and what ended them."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.inside = self.most = 0
        self.cancelled: list[str] = []

    async def __call__(self, request: Request) -> bytes:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(request.path)
            raise
        finally:
            self.inside -= 1
        return request.path.encode()


def test_it_runs_on_the_loop_and_others_run_meanwhile(bench: Any) -> None:
    async def test() -> None:
        gate = Gate()
        executor, link = bench.executor(gate, slots=100), bench.link()
        for number in range(150):
            executor.submit(link, bench.call(number))
        executor.run()
        await bench.until(lambda: gate.inside == 100)
        assert executor.busy_since
        gate.open.set()
        await bench.until(lambda: executor.is_idle)
        assert sorted(link.answers) == sorted(b"/%d" % number for number in range(150))
        assert gate.most == 100
        await bench.until(lambda: bench.idle)

    bench.run(test)


@pytest.mark.parametrize("how", ["cancel", "forget"])
@pytest.mark.parametrize("begun", [True, False])
def test_nobody_waits_and_so_it_is_cancelled(bench: Any, how: str, begun: bool) -> None:
    """Also where its task has had no step yet."""

    async def test() -> None:
        gate = Gate()
        executor, link = bench.executor(gate, slots=1), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        if begun:
            await bench.until(lambda: gate.inside)
        if how == "cancel":
            executor.cancel(link, 1)
            executor.cancel(link, 1)
        else:
            executor.forget(link)
        await bench.until(lambda: executor.is_idle)
        assert gate.cancelled == (["/1"] if begun else [])
        (answer,) = link.frames
        assert answer.status == 500
        executor.submit(link, bench.call(2))
        gate.open.set()
        executor.run()
        await bench.until(lambda: b"/2" in link.answers)

    bench.run(test)


def test_a_replica_that_ends_cancels_what_runs(bench: Any) -> None:
    async def test() -> None:
        gate = Gate()
        executor, link = bench.executor(gate, slots=2), bench.link()
        for number in (1, 2):
            executor.submit(link, bench.call(number))
        executor.run()
        await bench.until(lambda: gate.inside == 2)
        executor.close()
        await bench.until(lambda: not gate.inside)
        assert sorted(gate.cancelled) == ["/1", "/2"]

    bench.run(test)


def test_what_swallows_the_cancellation_holds_its_slot_until_it_ends(bench: Any) -> None:
    async def test() -> None:
        gate, stubborn = asyncio.Event(), asyncio.Event()

        async def handler(request: Request) -> bytes:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                stubborn.set()
                await gate.wait()
            return b"after all"

        executor, link = bench.executor(handler), bench.link()
        executor.submit(link, bench.call(1))
        executor.submit(link, bench.call(2))
        executor.run()
        await asyncio.sleep(0)
        executor.cancel(link, 1)
        await stubborn.wait()
        executor.cancel(link, 1)  # It is not disturbed in what it does now.
        executor.forget(bench.link())
        await asyncio.sleep(0)
        assert (executor.outstanding, link.frames) == (2, [])
        gate.set()
        await bench.until(lambda: link.answers == [b"after all"])
        executor.cancel(link, 2)
        await bench.until(lambda: executor.is_idle)

    bench.run(test)


def test_a_call_that_waits_is_refused_as_ever(bench: Any) -> None:
    async def test() -> None:
        gate = Gate()
        executor, link = bench.executor(gate, slots=1), bench.link()
        executor.submit(link, bench.call(1))
        executor.submit(link, bench.call(2))
        executor.submit(link, bench.call(3, timeout_ms=100))
        executor.run()
        executor.cancel(link, 2)
        bench.clock.now += 1
        gate.open.set()
        await bench.until(lambda: executor.is_idle)
        assert link.frames[0] == Refusal(2, "cancelled")
        assert link.frames[-1] == Refusal(3, "expired")

    bench.run(test)


@pytest.mark.parametrize("fault", [ValueError("mine"), SystemExit(3), asyncio.CancelledError()])
def test_whatever_it_raises_is_an_answer(bench: Any, fault: BaseException, caplog: Any) -> None:
    async def handler(request: Request) -> bytes:
        raise fault

    async def test() -> None:
        executor, link = bench.executor(handler), bench.link()
        for number in (1, 2):
            executor.submit(link, bench.call(number))
        executor.run()
        await bench.until(lambda: executor.is_idle)
        assert [(answer.status, answer.failed) for answer in link.frames] == [(500, True)] * 2
        assert type(fault).__name__ in caplog.text

    bench.run(test)


class Mixed:
    def __call__(self, request: Request) -> bytes:
        return b"%d" % (threading.current_thread() is threading.main_thread())

    async def later(self, request: Request) -> bytes:
        await asyncio.sleep(0)
        return b"later"


@pytest.mark.parametrize("slots", [1, 2])
def test_each_call_runs_as_its_handler_is(bench: Any, slots: int) -> None:
    async def test() -> None:
        executor, link = bench.executor(Mixed, slots=slots), bench.link()
        for number, method in enumerate([None, "later", None, "later", "nothing"]):
            executor.submit(link, bench.call(number, method=method))
        executor.run()
        await bench.until(lambda: executor.is_idle)
        inline = b"1" if slots == 1 else b"0"
        answers = {answer.id: answer for answer in link.frames}
        assert [answers[number].body for number in range(4)] == [inline, b"later", inline, b"later"]
        assert answers[4].status == 400

    bench.run(test)


# -- context variables ------------------------------------------------------------------------------------------------


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


class Contexts:
    def __call__(self, request: Request) -> bytes:
        found = variable.get()
        variable.set(request.path)
        return f"{found} {current_call.get().request_id}".encode()

    async def later(self, request: Request) -> bytes:
        found = variable.get()
        variable.set(request.path)
        await asyncio.sleep(0)
        assert variable.get() == request.path
        return f"{found} {current_call.get().request_id}".encode()

    def pieces(self, request: Request) -> Response:
        variable.set(request.path)
        return Response(200, [], (f"{variable.get()} {current_call.get().request_id}".encode() for _ in range(1)))

    async def async_pieces(self, request: Request) -> Response:
        variable.set(request.path)

        async def made() -> AsyncIterator[bytes]:
            yield f"{variable.get()} {current_call.get().request_id}".encode()

        return Response(200, [], made())


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("method", [None, "later", "pieces", "async_pieces"])
def test_each_call_has_a_context_of_its_own(bench: Any, slots: int, method: str | None) -> None:
    async def test() -> None:
        executor, link = bench.executor(Contexts, slots=slots), bench.link()
        for number in range(6):
            executor.submit(link, bench.call(number, method=method))
        executor.run()
        await bench.until(lambda: executor.is_idle)
        for number in range(6):
            before = f"/{number}" if method and "pieces" in method else "none"
            assert link.sent(number) == f"{before} id{number}".encode()
        assert current_call.get(None) is None

    bench.run(test)


def test_what_is_known_of_a_call(bench: Any) -> None:
    found: list[Any] = []

    async def test() -> None:
        executor = bench.executor(lambda request: found.append(current_call.get()) or b"", replica="r7")
        executor.submit(bench.link(), bench.call(1, timeout_ms=2000))
        executor.run()
        (context,) = found
        assert (context.backend, context.replica, context.endpoint, context.request_id) == ("b", "r7", "e", "id1")
        assert (context.batch_size, context.chain) == (1, ("r7",))
        assert context.expires == bench.clock.now + 2

    bench.run(test)


# -- answers that are made piece by piece -----------------------------------------------------------------------------


class Made:
    """An async iterable that says how far it came, and when it was closed."""

    def __init__(self, pieces: Any, fails: BaseException | None = None, waits: bool = False) -> None:
        self._pieces = pieces
        self._fails = fails
        self._waits = waits
        self.made = 0
        self.closed = 0
        self.threads: set[int] = set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            self.threads.add(threading.get_ident())
            self.made += 1
            yield piece
            if self._waits:
                await asyncio.sleep(0)
        if self._fails is not None:
            raise self._fails

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed += 1


def responder(kind: str, body: Any, *more: Any) -> Any:
    async def later(request: Request) -> Response:
        await asyncio.sleep(0)
        return Response(200, list(more), body)

    return later if kind == "async" else lambda request: Response(200, list(more), body)


KINDS = [("sync", 1), ("sync", 2), ("async", 1), ("async", 100)]


@pytest.mark.parametrize(("kind", "slots"), KINDS)
@pytest.mark.parametrize("waits", [True, False])
def test_an_async_iterable_goes_out_as_it_is_made(bench: Any, kind: str, slots: int, waits: bool) -> None:
    async def test() -> None:
        body = Made([b"one", b"", b"two", bytes(PIECE_BYTES + 1)], waits=waits)
        executor, link = bench.executor(responder(kind, body), slots=slots), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        await bench.until(lambda: link.ends)
        assert (link.frames[0].body, link.frames[0].running) == (b"one", True)
        assert link.sent() == b"onetwo" + bytes(PIECE_BYTES + 1)
        assert all(0 < len(frame.data) <= PIECE_BYTES for frame in link.frames if type(frame) is Chunk)
        assert link.ends[0].complete
        assert (body.closed, executor.outstanding, executor.is_idle) == (1, 0, True)
        assert body.threads == {threading.get_ident()}

    bench.run(test)


async def yields(request: Request) -> AsyncIterator[bytes]:
    for number in range(3):
        yield b"%d" % number
        await asyncio.sleep(0)


class Encodes(Plain):
    def encode(self, result: Any) -> Response:
        return Response(200, [], result) if hasattr(result, "__anext__") else super().encode(result)


def test_an_async_def_that_yields(bench: Any) -> None:
    async def test() -> None:
        executor, link = bench.executor(yields, adapter=Encodes(), slots=100), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        await bench.until(lambda: executor.is_idle)
        assert link.sent() == b"012"

    bench.run(test)


def test_an_async_def_may_answer_with_a_generator(bench: Any) -> None:
    threads = set()

    def pieces() -> Any:
        for number in range(3):
            threads.add(threading.get_ident())
            yield b"%d" % number

    async def test() -> None:
        executor, link = bench.executor(responder("async", pieces()), slots=100), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        await bench.until(lambda: executor.is_idle)
        assert link.sent() == b"012"
        assert threads.isdisjoint({threading.get_ident()})

    bench.run(test)


@pytest.mark.parametrize(("kind", "slots"), KINDS)
def test_a_slow_reader_stops_it(bench: Any, kind: str, slots: int) -> None:
    async def test() -> None:
        body = Made([bytes(PIECE_BYTES)] * 100)
        executor, link = bench.executor(responder(kind, body), slots=slots), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        window = BODY_WINDOW_BYTES // PIECE_BYTES
        for more in range(3):
            await bench.until(lambda more=more: len(link.sent()) == (window + more) * PIECE_BYTES)
            assert body.made <= window + more + 1
            executor.granted(link, Credit(1, PIECE_BYTES))
        executor.granted(link, Credit(1, 1000 * PIECE_BYTES))
        await bench.until(lambda: link.ends)
        assert len(link.sent()) == 100 * PIECE_BYTES

    bench.run(test)


@pytest.mark.parametrize(("kind", "slots"), KINDS)
@pytest.mark.parametrize("where", ["it waits for credit", "it waits for itself"])
def test_its_finally_runs_when_nobody_reads(bench: Any, kind: str, slots: int, where: str) -> None:
    async def test() -> None:
        ended: list[str] = []

        async def pieces() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                if where == "it waits for itself":
                    await asyncio.Event().wait()
                while True:
                    yield bytes(PIECE_BYTES)
            finally:
                await asyncio.sleep(0)
                ended.append("yes")

        executor, link = bench.executor(responder(kind, pieces()), slots=slots), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        size = 5 if where == "it waits for itself" else BODY_WINDOW_BYTES
        await bench.until(lambda: len(link.sent()) >= size)
        assert not ended
        executor.cancel(link, 1)
        await bench.until(lambda: link.ends)
        assert ended == ["yes"]
        assert not link.ends[0].complete
        assert executor.is_idle

    bench.run(test)


@pytest.mark.parametrize(("kind", "slots"), KINDS)
@pytest.mark.parametrize("pieces", [[], [b"one"]])
def test_it_fails(bench: Any, kind: str, slots: int, pieces: list[bytes], caplog: Any) -> None:
    """Before its first piece: a 500. Later: cut off."""

    async def test() -> None:
        body = Made(pieces, LookupError("what it raised"))
        executor, link = bench.executor(responder(kind, body), slots=slots), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        await bench.until(lambda: executor.is_idle)
        assert link.frames[0].status == (200 if pieces else 500)
        assert [end.complete for end in link.ends] == ([False] if pieces else [])
        assert body.closed == 1

    bench.run(test)
    assert "what it raised" in caplog.text


def test_pieces_that_never_wait_leave_the_loop_its_turns(bench: Any) -> None:
    async def test() -> None:
        turns = 0
        body = Made([b"", *[b"x"] * 1000, *[b""] * 200_000])
        executor, link = bench.executor(responder("async", body), slots=100), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        while not executor.is_idle:
            turns += 1
            await asyncio.sleep(0)
        assert turns > 20
        assert link.sent() == b"x" * 1000

    bench.run(test)


def test_what_has_no_body_is_not_made(bench: Any) -> None:
    async def test() -> None:
        body = Made([b"one"])
        executor, link = bench.executor(responder("async", body)), bench.link()
        executor.submit(link, bench.call(1, http_method="HEAD"))
        executor.run()
        await bench.until(lambda: executor.is_idle)
        assert (body.made, body.closed, link.sent()) == (0, 1, b"")

    bench.run(test)


# -- bodies that are still arriving -----------------------------------------------------------------------------------


class Whole(Plain):
    streams_body = True


def test_an_async_def_gets_its_body_whole(bench: Any) -> None:
    """A read of what has not come would hold the loop; so all of it is awaited, with credit."""

    async def handler(request: Request) -> bytes:
        return b"%d" % len(request.stream.read())

    async def test() -> None:
        executor, link = bench.executor(handler, adapter=Whole()), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True))
        for _ in range(20):
            executor.receive(link, Chunk(1, bytes(100_000)))
        executor.run()
        assert sum(frame.size_bytes for frame in link.frames if type(frame) is Credit) == 2_000_000
        assert not executor.busy_since
        executor.received(link, End(1))
        executor.run()
        await bench.until(lambda: link.answers == [b"%d" % (2_000_000 + len(FIRST))])

    bench.run(test)


class Asynchronous(Plain):
    """Every call is by `call_async`; the handler reads the request's pieces."""

    is_async = True

    async def call_async(self, handler: Any, request: Request) -> Response:
        result = handler(request)
        return self.encode(await result if asyncio.iscoroutine(result) else result)


async def reads(request: Request) -> bytes:
    found = [piece async for piece in request.pieces()]
    return b"%d %d" % (len(found) > 1, len(b"".join(found)))


def test_an_async_adapter_reads_as_it_comes(bench: Any) -> None:
    async def test() -> None:
        executor, link = bench.executor(reads, adapter=Asynchronous(), slots=100), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True))
        executor.receive(link, Chunk(1, bytes(BODY_WINDOW_BYTES)))
        executor.run()
        await bench.until(lambda: any(type(frame) is Credit for frame in link.frames))
        for number in range(10):
            executor.receive(link, Chunk(1, bytes(100_000)))
            await bench.until(
                lambda number=number: (
                    sum(frame.size_bytes for frame in link.frames if type(frame) is Credit) >= number * 100_000
                )
            )
        executor.received(link, End(1))
        await bench.until(lambda: executor.is_idle)
        assert link.answers == [b"1 %d" % (len(FIRST) + BODY_WINDOW_BYTES + 1_000_000)]
        executor.submit(link, bench.call(2, body=b"short"))
        executor.run()
        await bench.until(lambda: link.answers[1:] == [b"0 5"])

    bench.run(test)


@pytest.mark.parametrize("how", ["broken", "over"])
def test_an_async_reader_learns_of_the_end(bench: Any, how: str) -> None:
    errors: list[BaseException] = []

    async def handler(request: Request) -> bytes:
        try:
            async for _ in request.pieces():
                pass
        except (ConnectionError, asyncio.CancelledError) as error:
            errors.append(error)
            raise
        return b"ok"

    async def test() -> None:
        executor, link = bench.executor(handler, adapter=Asynchronous()), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True, upgrade=True))
        executor.run()
        await asyncio.sleep(0)
        executor.received(link, End(1, how == "over"))
        await bench.until(lambda: executor.is_idle)
        assert len(errors) == (0 if how == "over" else 1)

    bench.run(test)


def test_an_upgrade_is_a_stream_in_both_directions_at_once(bench: Any) -> None:
    async def echo(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b""
            async for piece in request.pieces():
                yield piece.upper()

        return Response(101, [("upgrade", "websocket")], pieces())

    async def test() -> None:
        executor, link = bench.executor(echo, adapter=Asynchronous(), slots=100), bench.link()
        executor.submit(link, bench.call(1, more=True, upgrade=True))
        executor.run()
        await bench.until(lambda: link.frames)
        assert (link.frames[0].status, link.frames[0].body) == (101, b"")
        for piece in (b"one", b"two"):
            executor.receive(link, Chunk(1, piece))
            await bench.until(lambda piece=piece: link.sent().endswith(piece.upper()))
        executor.received(link, End(1))
        await bench.until(lambda: link.ends)
        assert (link.sent(), executor.is_idle) == (b"ONETWO", True)

    bench.run(test)


def test_a_101_that_nobody_asked_for(bench: Any, caplog: Any) -> None:
    async def test() -> None:
        executor, link = bench.executor(lambda request: Response(101, [], b"")), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        assert link.frames[0].status == 500

    bench.run(test)


def test_an_upgrade_for_a_handler_that_speaks_http_alone(bench: Any) -> None:
    async def test() -> None:
        executor, link = bench.executor(lambda request: b"declined", streams=True), bench.link()
        executor.submit(link, bench.call(1, more=True, upgrade=True))
        executor.run()
        assert link.answers == [b"declined"]
        executor.receive(link, Chunk(1, b"more"))
        executor.received(link, End(1))
        executor.run()
        assert executor.is_idle

    bench.run(test)


@pytest.mark.parametrize("how", ["answers", "fails", "streams", "cancelled"])
def test_nothing_of_a_call_is_left_to_the_garbage_collector(bench: Any, how: str) -> None:
    left: list[weakref.ref[Any]] = []

    class Held:
        pass

    async def handler(request: Request) -> Any:
        held = Held()
        left.append(weakref.ref(held))
        if how == "cancelled":
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        if how == "fails":
            raise LookupError

        async def pieces() -> AsyncIterator[bytes]:
            yield b"%d" % bool(held)

        return Response(200, [], pieces()) if how == "streams" else b"ok"

    async def test() -> None:
        executor, link = bench.executor(handler), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        await bench.until(lambda: left)
        if how == "cancelled":
            executor.cancel(link, 1)
        await bench.until(lambda: executor.is_idle)
        await bench.until(lambda: left[0]() is None)

    bench.run_uncollected(test)


def test_a_task_that_a_handler_leaves_behind_learns_that_no_more_of_the_body_comes(bench: Any) -> None:
    left: list[asyncio.Task[None]] = []

    async def read(request: Request) -> None:
        async for _ in request.pieces():
            pass

    async def handler(request: Request) -> bytes:
        left.append(asyncio.ensure_future(read(request)))
        await asyncio.sleep(0.01)
        return b"early"

    async def test() -> None:
        executor, link = bench.executor(handler, adapter=Asynchronous(), slots=2), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True))
        for _ in range(4):
            executor.receive(link, Chunk(1, bytes(PIECE_BYTES)))
        executor.run()
        await bench.until(lambda: link.answers)
        with pytest.raises(ConnectionError, match="its call is over"):
            await asyncio.wait_for(left[0], DEADLINE_S)

    bench.run(test)


def test_nothing_begins_once_the_replica_ends(bench: Any) -> None:
    begun = []

    async def handler(request: Request) -> bytes:
        begun.append(request.path)
        await asyncio.sleep(DEADLINE_S)
        return b""

    async def test() -> None:
        executor, link = bench.executor(handler), bench.link()
        executor.submit(link, bench.call(1))
        executor.submit(link, bench.call(2))
        executor.run()
        await asyncio.sleep(0)
        executor.close()
        await bench.until(lambda: link.answers)
        await asyncio.sleep(0.01)
        assert begun == ["/1"]

    bench.run(test)

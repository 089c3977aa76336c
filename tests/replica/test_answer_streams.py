"""Long bodies in a replica: calls that begin before theirs has come, and answers that go out in pieces."""

from __future__ import annotations

import contextvars
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servekit.interfaces import Response
from servekit.replica import executor as executor_module
from servekit.wire.data_frames import BODY_WINDOW_BYTES, PIECE_BYTES, UNKNOWN, Answer, Chunk, Credit, End, Refusal

DEADLINE_S = 10.0
FIRST = bytes(65_537)


class Pieces:
    """An iterable body that says how far it came, and when it was closed."""

    def __init__(self, pieces: Any, fails: BaseException | None = None) -> None:
        self.made = 0
        self.closed = 0
        self.threads: set[int] = set()
        self._pieces = pieces
        self._fails = fails

    def __iter__(self) -> Iterator[bytes]:
        self.threads.add(threading.get_ident())
        for piece in self._pieces:
            self.made += 1
            yield piece
        if self._fails is not None:
            raise self._fails

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed += 1


def responds(body: Any, headers: Any = (), status: int = 200) -> Callable[[Any], Response]:
    return lambda request: Response(status, list(headers), body)


def last(link: Any, kind: type = End) -> Any:
    found = [frame for frame in link.frames if type(frame) is kind]
    return found[-1] if found else None


def granted(link: Any) -> int:
    """How much more of the request's body may be sent than a window."""
    return sum(frame.size_bytes for frame in link.frames if type(frame) is Credit)


def grant(executor: Any, link: Any, size: int, number: int = 1) -> None:
    executor.granted(link, Credit(number, size))
    executor.run()


# -- answers that are made piece by piece -----------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 2])
def test_an_iterable_body_goes_out_as_it_is_made(bench: Any, slots: int) -> None:
    async def test() -> None:
        body = Pieces([b"one", b"", b"two", bytes(PIECE_BYTES + 1)])
        executor, link = bench.executor(responds(body), slots=slots), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        await bench.until(lambda: last(link))
        answer = link.frames[0]
        assert (answer.body, answer.rest, answer.running) == (b"one", UNKNOWN, True)
        assert link.sent() == b"onetwo" + bytes(PIECE_BYTES + 1)
        assert all(0 < len(frame.data) <= PIECE_BYTES for frame in link.frames if type(frame) is Chunk)
        assert last(link).complete
        assert (body.closed, executor.outstanding, executor.is_idle, bench.idle) == (1, 0, True, 1)
        assert (body.threads == {threading.get_ident()}) is (slots == 1)
        assert len(body.threads) == 1

    bench.run(test)


@pytest.mark.parametrize("pieces", [[], [b""]])
def test_an_empty_body(bench: Any, pieces: Any) -> None:
    async def test() -> None:
        body = Pieces(pieces)
        executor, link = bench.executor(responds(body)), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        await bench.until(lambda: last(link))
        assert [type(frame) for frame in link.frames] == [Answer, End]
        assert link.frames[0].body == b""
        assert body.closed == 1

    bench.run(test)


@pytest.mark.parametrize(("length", "whole"), [("6", b"onetwo"), ("2", b"on"), ("0", b""), ("10", b"onetwo")])
def test_a_length_is_passed_on(bench: Any, length: str, whole: bytes) -> None:
    async def test() -> None:
        headers = [("Content-Length", length)]
        executor, link = bench.executor(responds(Pieces([b"one", b"two"]), headers)), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        await bench.until(lambda: last(link))
        answer = link.frames[0]
        assert len(answer.body) + answer.rest == int(length)
        assert link.sent()[: int(length)] == whole
        assert b"ength" not in answer.head

    bench.run(test)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_what_has_no_body_is_not_made(bench: Any, method: str, status: int) -> None:
    async def test() -> None:
        body = Pieces(b"forever" for _ in iter(int, 1))
        executor, link = bench.executor(responds(body, [("Content-Length", "9")], status)), bench.link()
        executor.submit(link, bench.call(1, http_method=method))
        executor.run()
        await bench.until(lambda: last(link))
        assert (body.made, body.closed) == (0, 1)
        assert (link.frames[0].body, link.frames[0].rest) == (b"", 9)

    bench.run(test)


def test_a_generator_is_closed_early_when_nobody_waits(bench: Any) -> None:
    ended = threading.Event()

    def handler(request: Any) -> Any:
        def pieces() -> Iterator[bytes]:
            try:
                while True:
                    yield bytes(1000)
            finally:
                ended.set()

        return Response(200, [], pieces())

    async def test() -> None:
        executor, link = bench.executor(handler), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        await bench.until(lambda: len(link.sent()) >= BODY_WINDOW_BYTES)
        assert not ended.is_set()
        executor.cancel(link, 1)
        await bench.until(lambda: last(link))
        assert ended.is_set()
        assert not last(link).complete
        assert executor.is_idle

    bench.run(test)


@pytest.mark.parametrize("how", ["cancel", "forget"])
def test_a_cancel_that_comes_before_the_first_piece(bench: Any, how: str) -> None:
    gate = threading.Event()
    body = Pieces([b"one", *[bytes(PIECE_BYTES)] * 100])

    def handler(request: Any) -> Response:
        gate.wait(DEADLINE_S)
        return Response(200, [], body)

    async def test() -> None:
        executor, link = bench.executor(handler, slots=2), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        if how == "cancel":
            executor.cancel(link, 1)
        else:
            executor.forget(link)
        gate.set()
        await bench.until(lambda: executor.is_idle)
        assert body.closed == 1
        assert body.made <= 3
        assert not last(link).complete

    bench.run(test)


def test_failing_before_the_first_piece_is_a_500(bench: Any, caplog: Any) -> None:
    async def test() -> None:
        body = Pieces([], LookupError("at once"))
        executor, link = bench.executor(responds(body)), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        await bench.until(lambda: executor.is_idle)
        (answer,) = link.frames
        assert (answer.status, answer.failed, answer.rest, answer.running) == (500, True, 0, False)
        assert body.closed == 1

    bench.run(test)
    assert "at once" in caplog.text


def test_failing_later_breaks_it_off(bench: Any, caplog: Any) -> None:
    async def test() -> None:
        body = Pieces([b"one", b"two"], LookupError("later"))
        executor, link = bench.executor(responds(body)), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        await bench.until(lambda: last(link))
        assert link.sent() == b"onetwo"
        assert not last(link).complete
        assert body.closed == 1

    bench.run(test)
    assert "later" in caplog.text
    assert [record.request_id for record in caplog.records] == ["id1"]


@pytest.mark.parametrize("piece", ["text", 7, None])
def test_pieces_that_are_no_bytes(bench: Any, piece: Any, caplog: Any) -> None:
    async def test() -> None:
        executor, link = bench.executor(responds(Pieces([piece]))), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        await bench.until(lambda: executor.is_idle)
        assert link.frames[0].status == 500

    bench.run(test)
    assert type(piece).__name__ in caplog.text


@pytest.mark.parametrize("fails", [None, LookupError("made")])
def test_a_close_that_fails_is_told_and_called_once(bench: Any, caplog: Any, fails: Any) -> None:
    class Unclosable(Pieces):
        def close(self) -> None:
            super().close()
            raise OSError("not to be closed")

    async def test() -> None:
        body = Unclosable([b"one"], fails)
        executor, link = bench.executor(responds(body)), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        await bench.until(lambda: last(link))
        assert body.closed == 1
        # All that there was has gone out, if nothing else failed.
        assert last(link).complete is (fails is None)
        assert executor.is_idle

    bench.run(test)
    assert "not to be closed" in caplog.text


def test_a_result_that_cannot_go_out_is_closed(bench: Any, caplog: Any) -> None:
    async def test() -> None:
        body = Pieces([b"one"])
        executor, link = bench.executor(responds(body, [("bad\nname", "x")])), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        assert link.frames[0].status == 500
        assert (body.made, body.closed) == (0, 1)

    bench.run(test)


def test_a_slow_reader_stops_the_iterable(bench: Any) -> None:
    async def test() -> None:
        body = Pieces([bytes(PIECE_BYTES)] * 100)
        executor, link = bench.executor(responds(body)), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        window = BODY_WINDOW_BYTES // PIECE_BYTES
        for more in range(3):
            await bench.until(lambda more=more: len(link.sent()) == (window + more) * PIECE_BYTES)
            assert body.made <= window + more + 1
            grant(executor, link, PIECE_BYTES)
        grant(executor, link, 1000 * PIECE_BYTES)
        await bench.until(lambda: last(link))
        assert len(link.sent()) == 100 * PIECE_BYTES

    bench.run(test)


def test_empty_pieces_take_no_place_in_the_link(bench: Any) -> None:
    async def test() -> None:
        body = Pieces([b"one", *[b""] * 1000, b"two"])
        executor, link = bench.executor(responds(body)), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        await bench.until(lambda: last(link))
        assert [type(frame) for frame in link.frames] == [Answer, Chunk, End]

    bench.run(test)


def test_a_stream_holds_its_slot(bench: Any) -> None:
    async def test() -> None:
        executor = bench.executor(lambda request: made if request.path == "/1" else b"other")
        link = bench.link()
        made = Response(200, [], Pieces([bytes(PIECE_BYTES)] * 10))
        executor.submit(link, bench.call(1))
        executor.submit(link, bench.call(2))
        executor.run()
        await bench.until(lambda: len(link.sent()) == BODY_WINDOW_BYTES)
        executor.run()
        assert executor.outstanding == 2
        assert b"other" not in link.answers
        assert executor.busy_since
        grant(executor, link, 10 * PIECE_BYTES)
        await bench.until(lambda: b"other" in link.answers)
        assert not executor.busy_since

    bench.run(test)


def test_a_generator_sees_the_context_of_its_handler(bench: Any) -> None:
    """Wherever it runs: in a thread of its own, or in that of its handler."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    def handler(request: Any) -> Response:
        variable.set(request.path)
        return Response(200, [], (variable.get().encode() for _ in range(2)))

    async def test() -> None:
        for slots in (1, 2):
            executor, link = bench.executor(handler, slots=slots), bench.link()
            executor.submit(link, bench.call(1))
            executor.run()
            await bench.until(lambda link=link: last(link))
            assert link.sent() == b"/1/1"

    bench.run(test)


# -- long answers that are there --------------------------------------------------------------------------------------


def test_a_long_body_goes_out_within_its_credit_and_its_slot_is_free(bench: Any) -> None:
    async def test() -> None:
        body = bytes(range(256)) * 2048
        executor = bench.executor(lambda request: body if request.path == "/1" else b"other")
        link = bench.link()
        executor.submit(link, bench.call(1))
        executor.submit(link, bench.call(2))
        executor.run()
        answer = link.frames[0]
        assert (len(answer.body), answer.rest, answer.running) == (PIECE_BYTES, len(body) - PIECE_BYTES, False)
        assert link.sent() == body[:BODY_WINDOW_BYTES]
        assert link.sent(2) == b"other"
        assert (executor.outstanding, executor.is_idle) == (0, False)
        assert last(link) is None
        grant(executor, link, PIECE_BYTES)
        assert link.sent() == body[: BODY_WINDOW_BYTES + PIECE_BYTES]
        idle = bench.idle
        grant(executor, link, 10 * PIECE_BYTES)
        assert link.sent() == body
        assert last(link) == End(1)
        assert executor.is_idle
        assert bench.idle == idle + 1

    bench.run(test)


@pytest.mark.parametrize("how", ["cancel", "forget"])
def test_the_rest_of_a_long_body_is_let_go_of(bench: Any, how: str) -> None:
    async def test() -> None:
        executor, link = bench.executor(lambda request: bytes(1_000_000)), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        if how == "cancel":
            executor.cancel(link, 1)
        else:
            executor.forget(link)
        assert last(link) == End(1, False)
        assert executor.is_idle
        assert executor.executor._unsent_bytes == 0
        grant(executor, link, 1_000_000)
        assert len(link.sent()) == BODY_WINDOW_BYTES

    bench.run(test)


def test_a_long_body_to_head(bench: Any) -> None:
    async def test() -> None:
        executor, link = bench.executor(lambda request: bytes(1_000_000)), bench.link()
        executor.submit(link, bench.call(1, http_method="HEAD"))
        executor.run()
        assert link.sent() == b""
        assert link.frames[0].rest == 1_000_000
        assert last(link) == End(1)
        assert executor.is_idle

    bench.run(test)


def test_no_call_begins_while_too_much_is_unsent(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(executor_module, "UNSENT_BYTES", 1_000_000)

    async def test() -> None:
        executor, link = bench.executor(lambda request: bytes(1_000_000)), bench.link()
        for number in range(1, 6):
            executor.submit(link, bench.call(number))
        executor.run()
        assert len(link.answers) == 2
        assert executor.outstanding == 3
        for number in (1, 2):  # Most of each: all of each is in memory as before.
            grant(executor, link, 600_000, number)
        assert len(link.answers) == 2
        grant(executor, link, 400_000, 2)
        assert len(link.answers) == 3
        executor.cancel(link, 1)
        executor.cancel(link, 3)
        await bench.until(lambda: len(link.answers) == 5)

    bench.run(test)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 600_000), st.lists(st.integers(1, 200_000), max_size=20))
def test_a_whole_body_arrives_however_it_is_granted(bench: Any, size: int, grants: list[int]) -> None:
    async def test() -> None:
        body = (b"%07d," % 7) * (size // 8) + b"x" * (size % 8)
        executor, link = bench.executor(lambda request: body), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        credit = BODY_WINDOW_BYTES
        for granted in grants:
            assert len(link.sent()) < credit + PIECE_BYTES
            grant(executor, link, granted)
            credit += granted
        grant(executor, link, size)
        assert link.sent() == body
        assert executor.is_idle
        assert (last(link) is not None) is (size > PIECE_BYTES)

    bench.run(test)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.integers(0, 300), st.integers(60_000, 200_000)), max_size=12))
def test_pieces_arrive_however_they_are_cut(bench: Any, sizes: list[int]) -> None:
    """The reader grants what it has read, when that is a piece or more: as an ingress does."""

    async def test() -> None:
        pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
        executor, link = bench.executor(responds(Pieces(pieces))), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        granted = 0

        def over() -> bool:
            nonlocal granted
            read = len(link.sent())
            assert read - granted < BODY_WINDOW_BYTES + PIECE_BYTES
            if read - granted >= PIECE_BYTES:
                grant(executor, link, read - granted)
                granted = read
            return executor.is_idle

        await bench.until(over)
        assert link.sent() == b"".join(pieces)
        assert last(link).complete

    bench.run(test)


# -- bodies that are still arriving -----------------------------------------------------------------------------------


def feed(executor: Any, link: Any, *pieces: bytes, end: bool = False, number: int = 1) -> None:
    for piece in pieces:
        executor.receive(link, Chunk(number, piece))
    if end:
        executor.received(link, End(number))
    executor.run()


@pytest.mark.parametrize("streams", [False, True])
def test_a_body_that_fits_into_the_window_is_awaited(bench: Any, streams: bool) -> None:
    """Its call is like any other, then: inline, with all of it."""
    found: list[Any] = []

    def handler(request: Any) -> bytes:
        found.append((request.body, request.stream.read(), threading.get_ident()))
        return b"ok"

    async def test() -> None:
        executor, link = bench.executor(handler, streams=streams), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True))
        feed(executor, link, b"one", b"two")
        assert (executor.outstanding, executor.is_idle, link.answers) == (1, False, [])
        feed(executor, link, end=True)
        assert found == [(FIRST + b"onetwo", FIRST + b"onetwo", threading.get_ident())]
        assert link.answers == [b"ok"]
        assert executor.is_idle

    bench.run(test)


def test_an_adapter_that_takes_whole_bodies_gets_one(bench: Any) -> None:
    async def test() -> None:
        executor, link = bench.executor(lambda request: b"%d" % len(request.body)), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True))
        feed(executor, link, *[bytes(100_000)] * 20)
        assert sum(frame.size_bytes for frame in link.frames if type(frame) is Credit) == 2_000_000
        assert link.answers == []
        feed(executor, link, end=True)
        assert link.answers == [b"%d" % (2_000_000 + len(FIRST))]

    bench.run(test)


def test_a_handler_reads_while_the_body_arrives(bench: Any) -> None:
    async def test() -> None:
        executor = bench.executor(lambda request: b"%d" % len(request.stream.read()), streams=True, slots=3)
        link = bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True))
        feed(executor, link, bytes(BODY_WINDOW_BYTES - 1))
        assert not executor.busy_since
        feed(executor, link, b"x")
        await bench.until(lambda: last(link, Credit))
        for number in range(10):
            feed(executor, link, bytes(100_000))
            await bench.until(lambda number=number: granted(link) >= number * 100_000)
        feed(executor, link, end=True)
        await bench.until(lambda: executor.is_idle)
        assert link.answers == [b"%d" % (BODY_WINDOW_BYTES + 1_000_000 + len(FIRST))]

    bench.run(test)


def test_an_unread_body_grants_nothing_and_what_still_comes_is_dropped(bench: Any) -> None:
    async def test() -> None:
        executor, link = bench.executor(lambda request: b"unread", streams=True, slots=2), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True))
        feed(executor, link, bytes(BODY_WINDOW_BYTES))
        await bench.until(lambda: executor.is_idle)
        feed(executor, link, b"more", end=True)
        assert link.answers == [b"unread"]
        assert last(link, Credit) is None
        assert executor.outstanding == 0

    bench.run(test)


@pytest.mark.parametrize("how", ["cancel", "forget", "broken"])
def test_a_handler_that_reads_learns_that_the_client_is_gone(bench: Any, how: str) -> None:
    errors: list[BaseException] = []

    def handler(request: Any) -> bytes:
        try:
            return bytes(request.stream.read())
        except ConnectionError as error:
            errors.append(error)
            raise

    async def test() -> None:
        executor, link = bench.executor(handler, streams=True, slots=2), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True))
        feed(executor, link, bytes(BODY_WINDOW_BYTES))
        await bench.until(lambda: last(link, Credit))
        if how == "cancel":
            executor.cancel(link, 1)
        elif how == "forget":
            executor.forget(link)
        else:
            executor.received(link, End(1, False))
        await bench.until(lambda: executor.is_idle)
        assert len(errors) == 1
        assert link.frames[-1].status == 500
        assert executor.outstanding == 0

    bench.run(test)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("how", ["cancel", "forget"])
def test_a_call_whose_body_is_arriving_is_cancelled(bench: Any, how: str, full: bool) -> None:
    """``full``: it waits for a slot already."""

    async def test() -> None:
        executor, link = bench.executor(lambda request: b"ok", streams=True, slots=2), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True))
        executor.receive(link, Chunk(1, bytes(BODY_WINDOW_BYTES if full else 10)))
        if how == "cancel":
            executor.cancel(link, 1)
        else:
            executor.forget(link)
        executor.run()
        assert [frame for frame in link.frames if type(frame) is Refusal] == [Refusal(1, "cancelled")]
        assert (executor.outstanding, executor.is_idle) == (0, True)
        feed(executor, link, b"more", end=True)
        assert (executor.outstanding, executor.is_idle, link.answers) == (0, True, [])

    bench.run(test)


@pytest.mark.parametrize("streams", [False, True])
def test_a_replica_that_leaves_gives_back_what_it_granted_nothing_for(bench: Any, streams: bool) -> None:
    async def test() -> None:
        executor, link = bench.executor(lambda request: b"ok", streams=streams, slots=1 + streams), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True))  # nothing of its rest has come
        executor.submit(link, bench.call(2, body=FIRST, more=True))
        executor.receive(link, Chunk(2, bytes(PIECE_BYTES)))
        executor.submit(link, bench.call(3, body=FIRST, more=True))
        executor.receive(link, Chunk(3, bytes(BODY_WINDOW_BYTES)))
        executor.submit(link, bench.call(4))
        executor.refuse_waiting()
        refused = {frame.id for frame in link.frames if type(frame) is Refusal}
        granted = {frame.id for frame in link.frames if type(frame) is Credit}
        assert refused == ({1, 2, 3, 4} if streams else {1, 4})
        assert refused.isdisjoint(granted)
        assert len([frame for frame in link.frames if type(frame) is Refusal]) == len(refused)
        assert executor.outstanding == 4 - len(refused)
        for number in (2, 3):
            feed(executor, link, end=True, number=number)
        assert len(link.answers) == 4 - len(refused)
        assert executor.is_idle

    bench.run(test)


def test_a_call_that_has_begun_is_not_given_back(bench: Any) -> None:
    gate = threading.Event()

    def handler(request: Any) -> bytes:
        gate.wait(DEADLINE_S)
        return b"%d" % len(request.stream.read())

    async def test() -> None:
        executor, link = bench.executor(handler, streams=True, slots=2), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True))
        feed(executor, link, bytes(BODY_WINDOW_BYTES))
        executor.refuse_waiting()
        gate.set()
        feed(executor, link, b"more", end=True)
        await bench.until(lambda: executor.is_idle)
        assert last(link, Refusal) is None
        assert link.answers == [b"%d" % (len(FIRST) + BODY_WINDOW_BYTES + 4)]

    bench.run(test)


def test_an_expired_call_is_not_begun_in_a_thread(bench: Any) -> None:
    async def test() -> None:
        executor, link = bench.executor(lambda request: b"ok", streams=True, slots=2), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True, timeout_ms=100))
        bench.clock.now += 1
        feed(executor, link, bytes(BODY_WINDOW_BYTES))
        assert link.frames == [Refusal(1, "expired")]
        assert executor.is_idle

    bench.run(test)


def test_an_echo_goes_on_in_both_directions_at_once(bench: Any) -> None:
    """Neither side waits for the other, and neither goes beyond its credit."""

    def handler(request: Any) -> Response:
        return Response(200, [], iter(lambda: request.stream.read(10_000), b""))

    async def test() -> None:
        executor, link = bench.executor(handler, streams=True, slots=2), bench.link()
        body = b"".join(b"%07d," % number for number in range(300_000))
        executor.submit(link, bench.call(1, body=body[:70_000], more=True))
        at, credited, seen, ended = 70_000, 0, 0, False

        def over() -> bool:
            nonlocal at, credited, seen, ended
            credited = sum(frame.size_bytes for frame in link.frames if type(frame) is Credit)
            while at < len(body) and at - 70_000 < BODY_WINDOW_BYTES + credited:
                executor.receive(link, Chunk(1, body[at : at + 50_000]))
                at += 50_000
            if at >= len(body) and not ended:
                ended = True
                executor.received(link, End(1))
            executor.run()
            if (read := len(link.sent())) - seen >= PIECE_BYTES:
                grant(executor, link, read - seen)
                seen = read
            return executor.is_idle

        await bench.until(over)
        assert link.sent() == body

    bench.run(test)


def test_a_stream_that_is_read_after_the_call_ends(bench: Any) -> None:
    """In a thread that the handler left behind: it must not wait for ever."""
    result: list[Any] = []

    def read(stream: Any) -> None:
        try:
            while stream.read(1000):
                pass
        except ConnectionError as error:
            result.append(error)

    def handler(request: Any) -> bytes:
        threading.Thread(target=read, args=(request.stream,), daemon=True).start()
        return b"ok"

    async def test() -> None:
        executor, link = bench.executor(handler, streams=True, slots=2), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True))
        feed(executor, link, bytes(BODY_WINDOW_BYTES))
        await bench.until(lambda: executor.is_idle)
        await bench.until(lambda: result)

    bench.run(test)


def _fails(request: Any) -> Any:
    request.stream.read()
    raise LookupError("after all of it")


READERS: dict[str, Callable[[Any], Any]] = {
    "all": lambda request: request.stream.read(),
    "some": lambda request: request.stream.read(10),
    "none": lambda request: b"ok",
    "pieces": lambda request: Response(200, [], iter(lambda: request.stream.read(50_000), b"")),
    "fails": _fails,
}


@pytest.mark.parametrize("how", READERS)
def test_nothing_of_a_call_is_left_to_the_garbage_collector(bench: Any, how: str) -> None:
    """It would find it late: there are few objects, and each may hold megabytes."""
    left: list[weakref.ref[Any]] = []

    def handler(request: Any) -> Any:
        left.append(weakref.ref(request.stream.raw))
        return READERS[how](request)

    async def test() -> None:
        executor, link = bench.executor(handler, streams=True, slots=2), bench.link()
        executor.submit(link, bench.call(1, body=FIRST, more=True))
        feed(executor, link, bytes(BODY_WINDOW_BYTES))
        await bench.until(lambda: left)
        feed(executor, link, bytes(100_000), end=True)

        def over() -> bool:
            grant(executor, link, PIECE_BYTES)
            return executor.is_idle

        await bench.until(over)
        await bench.until(lambda: left[0]() is None)

    bench.run_uncollected(test)


# -- several at once --------------------------------------------------------------------------------------------------


def test_as_many_run_at_once_as_there_are_slots(bench: Any) -> None:
    running, most, lock, together = 0, 0, threading.Lock(), threading.Barrier(4)

    def handler(request: Any) -> bytes:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(DEADLINE_S)
        with lock:
            running -= 1
        return bytes(request.path.encode())

    async def test() -> None:
        executor, link = bench.executor(handler, slots=4), bench.link()
        for number in range(40):
            executor.submit(link, bench.call(number))
        executor.run()
        await bench.until(lambda: executor.is_idle)
        assert sorted(link.answers) == sorted(b"/%d" % number for number in range(40))
        assert most == 4

    bench.run(test)

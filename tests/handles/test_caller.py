"""The caller's end of a handle's calls: links, credit, redials, and what becomes of calls when any of that fails."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import multiprocessing
import threading
from typing import Any

import pytest

from servekit import errors
from servekit.handles import answers, caller, failures, payload
from servekit.handles import call as call_module
from servekit.handles.answers import RecordKind, record
from servekit.wire.data_frames import (
    BODY_WINDOW_BYTES,
    PIECE_BYTES,
    UNKNOWN,
    Answer,
    Bye,
    Cancel,
    Chunk,
    Credit,
    End,
    Invoke,
    Refusal,
)

LIMIT_S = 10.0


def head(content_type: str) -> bytes:
    return f"x-request-id: 1\r\ncontent-type: {content_type}\r\n".encode()


STREAM = head(answers.STREAM)
VALUE = head(answers.VALUE)
TEXT = head("text/plain; charset=utf-8")


# -- answers -----------------------------------------------------------------------------------------------------------


def test_a_call_goes_out_as_one_frame_and_its_answer_comes_back(rig: Any) -> None:
    future = rig.call(1, "two", method="m", timeout_ms=500_000, request_id="id", chain=("r1",))
    invoke = rig.ingress.wait_invoked()
    assert (invoke.endpoint, invoke.method, invoke.request_id, invoke.limit_ms) == ("e", "m", "id", None)
    assert 400_000 < invoke.timeout_ms <= 500_000
    assert invoke.chain == ("r1",)
    assert not invoke.more
    assert payload.unpack(invoke.body) == ((1, "two"), {})
    assert not future.done()
    rig.ingress.answer(invoke, {"a": 1})
    assert future.result(LIMIT_S) == {"a": 1}
    assert future.result() is future.result(), "opened once"
    assert future.exception() is None


def test_answers_come_in_any_order(rig: Any) -> None:
    futures = [rig.call(n) for n in range(50)]
    rig.ingress.wait_invoked(50)
    for invoke in reversed(rig.ingress.of(Invoke)):
        rig.ingress.answer(invoke, payload.unpack(invoke.body)[0][0])
    assert [future.result(LIMIT_S) for future in futures] == list(range(50))


def test_a_failure_is_raised_every_time_it_is_asked_for(rig: Any) -> None:
    future = rig.call()
    invoke = rig.ingress.wait_invoked()
    rig.ingress.send(
        Answer(invoke.id, 500, head(answers.FAILURE), failures.pack_failure(KeyError("k")), 0, 0, failed=True)
    )
    for _ in range(2):
        with pytest.raises(KeyError):
            future.result(LIMIT_S)
    assert isinstance(future.exception(), KeyError)


def test_plain_text_is_a_refusal(rig: Any) -> None:
    future = rig.call()
    invoke = rig.ingress.wait_invoked()
    rig.ingress.send(Answer(invoke.id, 503, TEXT, b"Service Unavailable: no.\n", 0, 0))
    with pytest.raises(errors.UnavailableError, match="^no.$"):
        future.result(LIMIT_S)


def test_a_result_that_cannot_be_unpickled_here_is_said_so(rig: Any) -> None:
    future = rig.call()
    invoke = rig.ingress.wait_invoked()
    spoiled = payload.pack([1]).replace(b"\x80\x05", b"\x80\x7f")
    rig.ingress.send(Answer(invoke.id, 200, VALUE, spoiled, 0, 0))
    with pytest.raises(errors.HandlerError, match="cannot be unpickled here"):
        future.result(LIMIT_S)


def test_a_future_is_one_of_concurrent_futures_and_can_be_awaited(rig: Any) -> None:
    first, second = rig.call(1), rig.call(2)
    told = threading.Event()
    first.add_done_callback(lambda _: told.set())
    rig.ingress.wait_invoked(2)
    for invoke in rig.ingress.of(Invoke):
        rig.ingress.answer(invoke, payload.unpack(invoke.body)[0][0])
    done, late = concurrent.futures.wait([first, second], LIMIT_S)
    assert not late
    assert told.wait(LIMIT_S)
    assert {future.result() for future in done} == {1, 2}

    async def wait() -> list[Any]:
        return [await first, await second, await asyncio.wrap_future(first)]

    assert asyncio.run(wait()) == [1, 2, 1]


def test_a_timeout_of_the_one_who_waits_ends_nothing(rig: Any) -> None:
    future = rig.call()
    with pytest.raises(TimeoutError):
        future.result(0.01)
    rig.ingress.answer(rig.ingress.wait_invoked(), 1)
    assert future.result(LIMIT_S) == 1


# -- long bodies -------------------------------------------------------------------------------------------------------


def test_long_arguments_go_out_as_there_is_credit(rig: Any) -> None:
    long = bytes(PIECE_BYTES) * 20
    future = rig.call(long)
    invoke = rig.ingress.wait_invoked()
    rig.until(lambda: len(rig.ingress.body(invoke)) == PIECE_BYTES + BODY_WINDOW_BYTES)
    assert invoke.more
    rig.ingress.send(Credit(invoke.id, 3))
    rig.until(lambda: len(rig.ingress.body(invoke)) == 2 * PIECE_BYTES + BODY_WINDOW_BYTES)
    rig.ingress.send(Credit(invoke.id, 2**40))
    rig.until(lambda: rig.ingress.of(End))
    assert payload.unpack(rig.ingress.body(invoke)) == ((long,), {})
    rig.ingress.answer(invoke, "done")
    assert future.result(LIMIT_S) == "done"


def test_an_answer_ends_the_arguments(rig: Any) -> None:
    future = rig.call(bytes(PIECE_BYTES) * 20)
    invoke = rig.ingress.wait_invoked()
    rig.ingress.answer(invoke, "enough")
    assert future.result(LIMIT_S) == "enough"
    seen = len(rig.ingress.frames)
    rig.ingress.send(Credit(invoke.id, 2**40))
    rig.ingress.answer(rig.ingress.wait_invoked(2) if rig.call(1) else invoke, 1)
    assert [type(frame) for frame in rig.ingress.frames[seen:]] == [Invoke]


def test_a_long_result_is_gathered_and_granted(rig: Any) -> None:
    future = rig.call()
    invoke = rig.ingress.wait_invoked()
    body = payload.pack(bytes(10 * PIECE_BYTES))
    rig.ingress.send(Answer(invoke.id, 200, VALUE, b"", 0, 0, False, len(body)))
    for at in range(0, len(body), PIECE_BYTES):
        rig.ingress.send(Chunk(invoke.id, body[at : at + PIECE_BYTES]))
    rig.until(lambda: sum(frame.size_bytes for frame in rig.ingress.of(Credit)) >= 10 * PIECE_BYTES)
    assert not future.done()
    rig.ingress.send(End(invoke.id))
    assert future.result(LIMIT_S) == bytes(10 * PIECE_BYTES)


def test_a_long_result_that_is_broken_off(rig: Any) -> None:
    future = rig.call()
    invoke = rig.ingress.wait_invoked()
    rig.ingress.send(Answer(invoke.id, 200, VALUE, b"", 0, 0, False, 100), End(invoke.id, complete=False))
    with pytest.raises(errors.ReplicaDiedError, match="broken off"):
        future.result(LIMIT_S)


# -- streams -----------------------------------------------------------------------------------------------------------


def begin_stream(rig: Any, count: int = 1) -> tuple[Any, Invoke]:
    future = rig.call()
    invoke = rig.ingress.wait_invoked(count)
    rig.ingress.send(Answer(invoke.id, 200, STREAM, b"", 0, 0, False, UNKNOWN, True))
    return future.result(LIMIT_S), invoke


def item(value: Any) -> bytes:
    return record(RecordKind.ITEM, payload.pack(value))


def test_items_are_read_as_they_come(rig: Any) -> None:
    stream, invoke = begin_stream(rig)
    rig.ingress.send(Chunk(invoke.id, item(1) + item(2)[:5]))
    assert next(stream) == 1
    rig.ingress.send(Chunk(invoke.id, item(2)[5:] + record(RecordKind.DONE)), End(invoke.id))
    assert list(stream) == [2]
    assert list(stream) == []
    stream.close()
    assert not rig.ingress.of(Cancel)


def test_credit_is_granted_for_what_was_read(rig: Any) -> None:
    stream, invoke = begin_stream(rig)
    for n in range(4):
        rig.ingress.send(Chunk(invoke.id, item(bytes([n]) * (PIECE_BYTES - 100))))
    assert len(next(stream)) == PIECE_BYTES - 100
    assert not rig.ingress.of(Credit), "nothing is granted before a piece's length was read"
    assert len([next(stream) for _ in range(3)]) == 3
    rig.until(lambda: sum(frame.size_bytes for frame in rig.ingress.of(Credit)) >= 2 * (PIECE_BYTES - 100))


def test_a_stream_without_its_last_record_was_broken_off(rig: Any) -> None:
    stream, invoke = begin_stream(rig)
    rig.ingress.send(Chunk(invoke.id, item(1)), End(invoke.id, complete=False))
    assert next(stream) == 1
    with pytest.raises(errors.ReplicaDiedError):
        next(stream)
    assert list(stream) == []


@pytest.mark.parametrize("way", ["close", "drop"])
def test_leaving_a_stream_tells_the_ingress(rig: Any, way: str) -> None:
    stream, invoke = begin_stream(rig)
    rig.ingress.send(Chunk(invoke.id, item(1)))
    assert next(stream) == 1
    if way == "close":
        stream.close()
        stream.close()
    else:
        del stream
        gc.collect()
    rig.until(lambda: [frame.id for frame in rig.ingress.of(Cancel)] == [invoke.id])


def test_a_stream_that_is_read_when_its_link_is_lost(rig: Any) -> None:
    stream, _ = begin_stream(rig)
    threading.Timer(0.05, rig.ingress.cut).start()
    with pytest.raises(ConnectionError):
        next(stream)


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_cancelling_tells_the_ingress(rig: Any) -> None:
    future = rig.call()
    invoke = rig.ingress.wait_invoked()
    assert future.cancel()
    assert future.cancel()
    rig.until(lambda: [frame.id for frame in rig.ingress.of(Cancel)] == [invoke.id])
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(LIMIT_S)
    assert not concurrent.futures.wait([future], LIMIT_S).not_done
    rig.ingress.answer(invoke, "too late")
    again = rig.call()
    rig.ingress.answer(rig.ingress.wait_invoked(2), 2)
    assert again.result(LIMIT_S) == 2
    assert not again.cancel()


def test_a_cancelled_await_cancels_the_call(rig: Any) -> None:
    async def give_up() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(rig.call(), 0.05)

    asyncio.run(give_up())
    rig.until(lambda: rig.ingress.of(Cancel))


def test_cancelled_while_it_is_waited_for(rig: Any) -> None:
    future = rig.call()
    threading.Timer(0.05, future.cancel).start()
    assert concurrent.futures.wait([future], LIMIT_S).done == {future}


# -- links that come and go --------------------------------------------------------------------------------------------


def test_calls_wait_for_an_ingress_worker_that_is_not_there_yet(rig: Any) -> None:
    rig.ingress.stop_listening()
    future = rig.call(1)
    rig.ingress.listen()
    rig.ingress.answer(rig.ingress.wait_invoked(), 1)
    assert future.result(LIMIT_S) == 1


def test_the_time_that_a_call_waits_is_taken_from_its_own(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(call_module, "monotonic", lambda: now)
    rig.ingress.stop_listening()
    rig.call(timeout_ms=5000, limit_ms=2500)
    now += 2.0
    rig.ingress.listen()
    invoke = rig.ingress.wait_invoked()
    assert (invoke.timeout_ms, invoke.limit_ms) == (3000, 500)


def test_calls_that_wait_have_a_deadline_and_can_be_cancelled(rig: Any) -> None:
    rig.ingress.stop_listening()
    other = rig.call()
    with pytest.raises(errors.DeadlineError, match="could be reached in time"):
        rig.call(timeout_s=0.05).result(LIMIT_S)
    assert other.cancel()
    rig.ingress.listen()
    future = rig.call("only one")
    rig.ingress.answer(rig.ingress.wait_invoked(), 1)
    assert future.result(LIMIT_S) == 1
    assert len(rig.ingress.of(Invoke)) == 1


def test_calls_that_wait_are_bounded(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "MOST_WAITING", 2)
    rig.ingress.stop_listening()
    futures = [rig.call() for _ in range(3)]
    with pytest.raises(errors.UnavailableError):
        futures[2].result(LIMIT_S)
    assert not futures[0].done()


def test_what_was_sent_fails_with_its_link_and_the_next_call_goes_by_a_new_one(rig: Any) -> None:
    future = rig.call()
    rig.ingress.wait_invoked()
    rig.ingress.cut()
    with pytest.raises(ConnectionError, match="not known"):
        future.result(LIMIT_S)
    again = rig.call()
    rig.ingress.answer(rig.ingress.wait_invoked(2), 2)
    assert again.result(LIMIT_S) == 2


def test_a_call_that_was_not_begun_goes_elsewhere(rig: Any) -> None:
    other = rig.new_ingress("other")
    future = rig.call()
    invoke = rig.ingress.wait_invoked()
    rig.caller.set_ingresses([[rig.ingress.address], [other.address]])
    rig.until(lambda: other.links)
    rig.ingress.send(Refusal(invoke.id, "draining"))
    other.answer(other.wait_invoked(), "from there")
    assert future.result(LIMIT_S) == "from there"


def test_calls_are_spread_and_avoid_one_that_leaves(rig: Any) -> None:
    other = rig.new_ingress("other")
    rig.caller.set_ingresses([[rig.ingress.address], [other.address]])
    rig.call()
    rig.until(lambda: rig.ingress.links and other.links)
    for _ in range(9):
        rig.call()
    rig.until(lambda: len(rig.ingress.of(Invoke)) + len(other.of(Invoke)) == 10)
    assert abs(len(rig.ingress.of(Invoke)) - len(other.of(Invoke))) <= 1
    rig.ingress.send(Bye())
    seen, before = len(rig.ingress.of(Invoke)), len(other.of(Invoke))

    def only_there() -> bool:
        rig.call()
        return len(other.of(Invoke)) > before + 20

    rig.until(only_there)
    assert len(rig.ingress.of(Invoke)) <= seen + 5


def test_one_that_leaves_still_takes_what_a_handler_calls(rig: Any) -> None:
    first = rig.call()
    invoke = rig.ingress.wait_invoked()
    rig.ingress.send(Bye())
    rig.ingress.answer(invoke, 1)
    assert first.result(LIMIT_S) == 1  # Behind the Bye, on the same link.
    by_script, by_handler = rig.call("script"), rig.call("handler", chain=("r1",))
    second = rig.ingress.wait_invoked(2)
    assert payload.unpack(second.body)[0] == ("handler",)
    rig.ingress.answer(second, 2)
    assert by_handler.result(LIMIT_S) == 2
    assert not by_script.done()
    assert by_script.cancel()


def test_what_one_that_ends_has_not_begun_is_sent_elsewhere(rig: Any) -> None:
    future = rig.call("handler", chain=("r1",))
    rig.ingress.wait_invoked()
    other = rig.new_ingress("other")
    rig.caller.set_ingresses([[rig.ingress.address], [other.address]])
    rig.until(lambda: other.links)
    rig.ingress.stop_listening()
    rig.ingress.send(Bye(last=True))
    again = other.wait_invoked()
    assert payload.unpack(again.body)[0] == ("handler",)
    other.answer(again, 1)
    assert future.result(LIMIT_S) == 1
    rig.until(lambda: not rig.ingress.links)


def test_an_ingress_worker_that_is_no_more_is_let_go_after_its_answers(rig: Any) -> None:
    future = rig.call()
    invoke = rig.ingress.wait_invoked()
    other = rig.new_ingress("other")
    rig.caller.set_ingresses([[other.address]])
    rig.until(lambda: other.links)
    rig.ingress.answer(invoke, 1)
    assert future.result(LIMIT_S) == 1
    rig.until(lambda: not rig.ingress.links)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_nothing_hangs_at_the_end(rig: Any) -> None:
    sent = rig.call()
    rig.ingress.wait_invoked()
    stream, _ = begin_stream(rig, 2)
    rig.ingress.stop_listening()
    rig.ingress.send(Bye())
    rig.caller.close("it was closed")
    later = rig.call()
    for future in (sent, later):
        with pytest.raises(errors.NotRunningError, match="it was closed"):
            future.result(LIMIT_S)
    with pytest.raises(errors.NotRunningError):
        next(stream)
    rig.caller.close()


def test_a_forked_child_has_no_links(rig: Any) -> None:
    def child(connection: Any) -> None:
        try:
            rig.call()
        except errors.NotRunningError as error:
            connection.send(str(error))

    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(there,))
    process.start()
    assert here.poll(LIMIT_S)
    assert "forked" in here.recv()
    process.join(LIMIT_S)


@pytest.mark.parametrize("how", ["lost", "closed"])
def test_nothing_hangs_within_a_long_result(rig: Any, how: str) -> None:
    future, other = rig.call(1), rig.call(2)
    invoke = rig.ingress.wait_invoked(2)
    for call in rig.ingress.of(Invoke):
        rig.ingress.send(Answer(call.id, 200, VALUE, b"", 0, 0, False, 500_000, True))
    rig.ingress.send(*[Chunk(call.id, bytes(PIECE_BYTES)) for call in rig.ingress.of(Invoke) for _ in range(2)])
    rig.until(lambda: {credit.id for credit in rig.ingress.of(Credit)} == {1, invoke.id})
    if how == "lost":
        rig.ingress.cut()
    else:
        rig.caller.close()
    for each in (future, other):
        with pytest.raises(errors.LinkError if how == "lost" else errors.NotRunningError):
            each.result(LIMIT_S)

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from servekit.replica.executor import TURN_S
from servekit.wire.data_frames import Answer, Refusal


def path(request: Any) -> bytes:
    return bytes(request.path.encode())


def test_calls_are_answered_in_the_order_in_which_they_came(bench: Any) -> None:
    async def test() -> None:
        executor, one, other = bench.executor(path), bench.link(), bench.link()
        for number, link in enumerate([one, other, one, one]):
            executor.submit(link, bench.call(number))
        assert executor.outstanding == 4
        assert one.log == other.log == []
        executor.run()
        assert one.answers == [b"/0", b"/2", b"/3"]
        assert other.answers == [b"/1"]
        assert executor.outstanding == 0
        assert bench.idle == 1

    bench.run(test)


def test_fast_answers_leave_by_one_write_and_slow_ones_do_not_wait(bench: Any) -> None:
    took_s = {"/0": TURN_S / 10, "/1": TURN_S / 10, "/2": 2 * TURN_S, "/3": 1.0, "/4": 0.0}

    def handler(request: Any) -> bytes:
        bench.clock.now += took_s[request.path]
        return path(request)

    async def test() -> None:
        executor, link = bench.executor(handler), bench.link()
        for number in range(5):
            executor.submit(link, bench.call(number))
        executor.run()
        # The third ended the turn: what there is has left before the next one begins.
        assert [getattr(entry, "id", entry) for entry in link.log] == [0, 1, 2, "flush"]
        assert executor.outstanding == 2
        executor.run()  # Frames that arrive meanwhile begin nothing.
        assert executor.outstanding == 2
        await asyncio.sleep(0)
        assert [getattr(entry, "id", entry) for entry in link.log][4:] == [3, "flush"]
        await asyncio.sleep(0)
        assert link.answers == [b"/0", b"/1", b"/2", b"/3", b"/4"]
        assert bench.idle == 1

    bench.run(test)


def test_a_link_is_flushed_before_the_next_is_served(bench: Any) -> None:
    async def test() -> None:
        executor, one, other = bench.executor(path), bench.link(), bench.link()
        executor.submit(one, bench.call(1))
        executor.submit(other, bench.call(2))
        executor.run()
        assert one.log[-1] == other.log[-1] == "flush"

    bench.run(test)


def test_answers_report_the_queue_and_the_time_in_the_handler(bench: Any) -> None:
    def handler(request: Any) -> bytes:
        bench.clock.now += 10e-6
        return b""

    async def test() -> None:
        executor, link = bench.executor(handler), bench.link()
        for number in range(3):
            executor.submit(link, bench.call(number))
        executor.run()
        assert [answer.queue_length for answer in link.frames] == [2, 1, 0]
        assert all(9 <= answer.service_us <= 10 for answer in link.frames)

    bench.run(test)


def test_a_cancelled_call_is_not_begun(bench: Any) -> None:
    async def test() -> None:
        executor, link, other = bench.executor(path), bench.link(), bench.link()
        executor.submit(link, bench.call(1))
        executor.submit(link, bench.call(2))
        executor.cancel(other, 1)
        executor.cancel(link, 1)
        executor.cancel(link, 99)
        assert link.frames == [Refusal(1, "cancelled")]
        executor.run()
        assert link.answers == [b"/2"]

    bench.run(test)


def test_a_call_whose_deadline_has_passed_is_not_begun(bench: Any) -> None:
    async def test() -> None:
        executor, link = bench.executor(path), bench.link()
        executor.submit(link, bench.call(1, timeout_ms=100))
        executor.submit(link, bench.call(2, timeout_ms=200))
        bench.clock.now += 0.15
        executor.run()
        await asyncio.sleep(0)
        assert link.frames[0] == Refusal(1, "expired")
        assert link.answers == [b"/2"]

    bench.run(test)


def test_the_calls_of_a_link_that_is_lost_are_not_begun(bench: Any) -> None:
    async def test() -> None:
        executor, lost, other = bench.executor(path), bench.link(), bench.link()
        executor.submit(lost, bench.call(1))
        executor.submit(other, bench.call(2))
        executor.forget(lost)
        executor.run()
        assert (lost.answers, other.answers) == ([], [b"/2"])

    bench.run(test)


def test_a_replica_that_leaves_gives_back_what_has_not_begun(bench: Any) -> None:
    async def test() -> None:
        executor, link = bench.executor(path), bench.link()
        executor.submit(link, bench.call(1))
        executor.submit(link, bench.call(2))
        executor.refuse_waiting()
        assert link.frames == [Refusal(1, "draining"), Refusal(2, "draining")]
        executor.run()
        assert link.answers == []
        assert bench.idle == 1

    bench.run(test)


def test_the_running_call_is_seen(bench: Any) -> None:
    seen: list[tuple[float, int]] = []

    async def test() -> None:
        executor = bench.executor(lambda request: seen.append((executor.busy_since, executor.outstanding)) or b"")
        executor.submit(bench.link(), bench.call(1))
        executor.run()
        assert seen == [(bench.clock.now, 1)]
        assert executor.busy_since == 0

    bench.run(test)


@pytest.mark.parametrize(
    "fault",
    [ValueError("mine"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()],
    ids=lambda fault: type(fault).__name__,
)
def test_whatever_a_handler_raises_is_an_answer_and_the_next_call_is_served(
    bench: Any, fault: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(request: Any) -> bytes:
        if request.path == "/1":
            raise fault
        return b"fine"

    async def test() -> None:
        executor, link = bench.executor(handler), bench.link()
        executor.submit(link, bench.call(1))
        executor.submit(link, bench.call(2))
        executor.run()
        failed, fine = link.frames
        assert (failed.status, failed.failed) == (500, True)
        assert b"id1" in failed.body
        assert b"Traceback" not in failed.body
        assert (fine.status, fine.body, fine.failed) == (200, b"fine", False)
        assert "GET /1 failed" in caplog.text
        assert [(record.request_id, record.endpoint) for record in caplog.records] == [("id1", "e")]
        assert type(fault).__name__ in caplog.text

    bench.run(test)


def test_sys_exit_in_a_handler(bench: Any) -> None:
    async def test() -> None:
        executor, link = bench.executor(lambda request: sys.exit()), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        assert link.frames[0].status == 500

    bench.run(test)


def test_the_traceback_is_in_the_answer_only_for_debugging(bench: Any) -> None:
    def handler(request: Any) -> bytes:
        raise ValueError("\ud800 is no character")

    async def test() -> None:
        bench.debug = True
        executor, link = bench.executor(handler), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        assert rb"ValueError: \ud800 is no character" in link.frames[0].body

    bench.run(test)


def test_a_result_that_cannot_be_encoded(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        executor, link = bench.executor(lambda request: object()), bench.link()
        executor.submit(link, bench.call(1))
        executor.run()
        assert (link.frames[0].status, link.frames[0].failed) == (500, True)
        assert "no answer for <object" in caplog.text

    bench.run(test)


class Model:
    def __call__(self, request: Any) -> bytes:
        return b"call"

    def train(self, request: Any) -> bytes:
        return b"train"

    version = "1"


@pytest.mark.parametrize(
    ("method", "status", "body"),
    [(None, 200, b"call"), ("train", 200, b"train"), ("version", 400, b""), ("x", 400, b"")],
)
def test_methods_of_a_class(bench: Any, method: str | None, status: int, body: bytes) -> None:
    async def test() -> None:
        executor, link = bench.executor(Model), bench.link()
        executor.submit(link, bench.call(1, method=method))
        executor.run()
        (answer,) = link.frames
        assert type(answer) is Answer
        assert answer.status == status
        assert answer.body.startswith(body)

    bench.run(test)


def test_a_function_has_no_methods(bench: Any) -> None:
    async def test() -> None:
        executor, link = bench.executor(path), bench.link()
        executor.submit(link, bench.call(1, method="__class__"))
        executor.run()
        assert link.frames[0].status == 400

    bench.run(test)


def test_the_calls_that_hold_a_slot_are_known(bench: Any) -> None:
    async def test() -> None:
        seen: list[tuple[int, int]] = []
        executor = bench.executor(lambda request: seen.append((executor.executor.running, executor.outstanding)) or b"")
        link = bench.link()
        for number in (1, 2):
            executor.submit(link, bench.call(number))
        executor.run()
        await bench.until(lambda: executor.is_idle)
        assert seen == [(1, 2), (1, 1)]
        assert executor.executor.running == 0

    bench.run(test)

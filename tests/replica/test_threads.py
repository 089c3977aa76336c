"""The threads of handlers, and their way back to the loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.waiting import until

from servekit.replica.threads import Threads
from servekit.wire.mailbox import Mailbox

DEADLINE_S = 10.0


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads(4)
    yield threads
    threads.close()


def alive() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("servekit-handler-")}


def test_as_much_is_done_at_once_as_there_may_be_threads(threads: Threads) -> None:
    before = alive()
    for _ in range(20):  # whatever was done before
        together = threading.Barrier(5)
        for _ in range(4):
            threads.submit(lambda barrier=together: barrier.wait(DEADLINE_S))  # type: ignore[misc]
        together.wait(DEADLINE_S)
    assert len(alive() - before) == 4


def test_threads_are_started_when_they_are_needed(threads: Threads) -> None:
    before = alive()
    for _ in range(30):
        done = threading.Event()
        threads.submit(done.set)
        assert done.wait(DEADLINE_S)
        until(lambda: threads._idle == 1)
    assert len(alive() - before) == 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), max_size=40))
def test_no_work_waits_while_there_may_be_another_thread(steps: list[bool]) -> None:
    """True: submit, where there is room; False: let the oldest end."""
    threads = Threads(3)
    held: list[threading.Event] = []
    try:
        for submit in steps:
            if submit and len(held) < 3:
                began, ends = threading.Event(), threading.Event()
                threads.submit(lambda began=began, ends=ends: (began.set(), ends.wait(DEADLINE_S)))  # type: ignore
                held.append(ends)
                assert began.wait(DEADLINE_S), "it was not begun"
            elif not submit and held:
                held.pop(0).set()
    finally:
        for ends in held:
            ends.set()
        threads.close()


def test_closed_threads_end_after_what_they_do(threads: Threads) -> None:
    before = alive()
    began, gate, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        gate.wait(DEADLINE_S)
        ended.set()

    closed = Threads(4)
    closed.submit(work)
    assert began.wait(DEADLINE_S)
    closed.close()
    assert alive() - before
    gate.set()
    until(lambda: not alive() - before)
    assert ended.is_set()


def test_handlers_do_not_keep_the_process(threads: Threads) -> None:
    began = threading.Event()
    gate = threading.Event()
    threads.submit(lambda: (began.set(), gate.wait(DEADLINE_S))[0])  # type: ignore[func-returns-value]
    assert began.wait(DEADLINE_S)
    assert all(thread.daemon for thread in alive())
    gate.set()


# -- mailbox --------------------------------------------------------------------------------------------------------


def test_calls_are_made_on_the_loop_in_order_and_none_is_lost() -> None:
    async def test() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        made: list[tuple[int, int]] = []
        on: set[int] = set()

        def call(sender: int, number: int) -> None:
            on.add(threading.get_ident())
            made.append((sender, number))

        def send(sender: int) -> None:
            for number in range(2000):
                mailbox.post(lambda number=number: call(sender, number))  # type: ignore[misc]

        senders = [threading.Thread(target=send, args=(sender,)) for sender in range(3)]
        for sender in senders:
            sender.start()
        ends = time.monotonic() + DEADLINE_S
        while len(made) < 6000:
            assert time.monotonic() < ends, "some were lost"
            await asyncio.sleep(0)
        for number in range(3):
            senders[number].join()
            assert [count for sender, count in made if sender == number] == list(range(2000))
        assert on == {threading.get_ident()}

    asyncio.run(test())


def test_a_loop_that_has_ended_takes_nothing() -> None:
    loop = asyncio.new_event_loop()
    mailbox = Mailbox(loop)
    loop.close()
    mailbox.post(lambda: None)
    mailbox.post(lambda: None)


def test_a_call_that_fails_does_not_keep_the_others() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        failures: list[object] = []
        loop.set_exception_handler(lambda loop, context: failures.append(context["exception"]))
        mailbox = Mailbox(loop)
        made: list[int] = []
        mailbox.post(lambda: made.append(1 // 0))
        mailbox.post(lambda: made.append(1))
        for _ in range(5):
            await asyncio.sleep(0)
        assert made == [1]
        assert [type(failure) for failure in failures] == [ZeroDivisionError]

    asyncio.run(test())

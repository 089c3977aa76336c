from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.waiting import until

from servekit.control import ingresses as ingresses_module
from servekit.control import links as links_module
from servekit.control.ingresses import IngressFleet
from servekit.control.links import ControlServer, LinkedWorker
from servekit.control.silence import AVOIDED_S, QUIET_LOOKS, STILL_LOOKS, LostNodes, Silence
from servekit.control.snapshot import content_of
from servekit.errors import DeadlineError
from servekit.processes import Activity, activity
from servekit.wire.control_frames import Report, WorkerHello

STOPPED = Activity("T", 5)
RESTS = Activity("S", 5)


def quiet(looks: int = QUIET_LOOKS) -> Silence:
    """That of a worker of which nothing was heard at so many looks."""
    silence = Silence()
    for _ in range(looks):
        silence.looked()
    return silence


def meanings(silence: Silence, *processes: Activity | None, serves: bool = True) -> list[bool]:
    """At one look after another, whether the worker is given up."""
    return [silence.looked() and bool(silence.meaning(process, serves=serves)) for process in processes]


def test_it_takes_several_looks_and_a_word_ends_it() -> None:
    silence = Silence()
    for _ in range(2):
        assert [silence.looked() for _ in range(QUIET_LOOKS)] == [False] * (QUIET_LOOKS - 1) + [True]
        silence.heard()


@pytest.mark.parametrize("serves", [True, False])
def test_a_process_that_is_stopped_is_given_up_at_once(serves: bool) -> None:
    assert "is stopped" in quiet().meaning(STOPPED, serves=serves)


@pytest.mark.parametrize("serves", [True, False])
def test_a_process_that_rests_is_given_up_once_it_has_rested_over_further_looks(serves: bool) -> None:
    found = meanings(quiet(), *[RESTS] * (STILL_LOOKS + 1), serves=serves)
    assert found == [False] * STILL_LOOKS + [serves], "one that starts may wait for a file system in C code"


@given(st.lists(st.tuples(st.sampled_from("RDtZ"), st.integers(0, 3)) | st.tuples(st.just("S"), st.integers(1, 3))))
def test_a_process_that_is_slow_is_never_given_up(seen: list[tuple[str, int]]) -> None:
    """It waits for a CPU, a disk or a debugger, whether it gets on or not; or it computes between any two looks."""
    silence, ticks = quiet(), 0
    for state, more in seen:
        ticks += more
        silence.looked()
        assert not silence.meaning(Activity(state, ticks), serves=True)


def test_a_word_in_between_begins_it_anew() -> None:
    silence = quiet()
    assert not any(meanings(silence, *[RESTS] * STILL_LOOKS))
    silence.heard()
    assert meanings(silence, *[RESTS] * (QUIET_LOOKS + STILL_LOOKS)) == [False] * (QUIET_LOOKS + STILL_LOOKS - 1) + [
        True
    ]


def test_nothing_is_said_of_a_process_that_cannot_be_seen() -> None:
    assert not any(meanings(quiet(), *[None] * 100))


def test_lost_machines_are_avoided_for_a_while_or_until_they_answer() -> None:
    lost = LostNodes()
    lost.add("", 0.0)
    lost.add("a", 0.0)
    lost.add("b", 1.0)
    assert lost.names(2.0) == ("a", "b")
    assert lost.names(AVOIDED_S) == ("b",)
    lost.back("b")
    lost.back("c")
    assert lost.names(AVOIDED_S) == ()


# -- real processes, and links that only remember ----------------------------------------------------------------------


@pytest.fixture
def stopped_process() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: (found := activity(process.pid)) is not None and found.state == "T")
        yield process.pid
        process.kill()


class Worker(LinkedWorker):
    def __init__(self, worker_id: str, link: Any, pid: int) -> None:
        super().__init__(worker_id)
        link.peer_pid = pid
        self.dialled(link, WorkerHello(worker_id, pid, "node"))
        self.silent = asyncio.Event()

    def found_silent(self, why: str) -> None:
        self.silent.set()


def test_the_server_finds_the_workers_that_are_stopped(
    new_link: Any, monkeypatch: pytest.MonkeyPatch, stopped_process: int
) -> None:
    monkeypatch.setattr(links_module, "LOOK_EVERY_S", 0.001)

    async def test() -> None:
        server = ControlServer(b"")
        there, elsewhere = new_link(), new_link()
        workers = [
            Worker("w1", there, stopped_process),
            Worker("w2", elsewhere, 0),
            Worker("w3", new_link(), os.getpid()),
        ]
        server.workers.update((worker.id, worker) for worker in workers)
        server.watch()
        await asyncio.wait_for(workers[0].silent.wait(), 60)
        assert [worker.silent.is_set() for worker in workers] == [True, False, False]
        server.close()

    asyncio.run(test())


def test_a_worker_that_reports_is_not_looked_at(new_link: Any, stopped_process: int) -> None:
    async def test() -> None:
        link = new_link()
        worker = Worker("w1", link, stopped_process)
        link.owner = worker
        for _ in range(10 * QUIET_LOOKS):
            link.receive(Report())
            worker.look()
        assert not worker.silent.is_set()

    asyncio.run(test())


@pytest.mark.parametrize("is_stopped", [True, False])
def test_a_change_waits_for_those_alone_that_are_not_stopped(
    new_link: Any, make: Any, monkeypatch: pytest.MonkeyPatch, stopped_process: int, is_stopped: bool
) -> None:
    monkeypatch.setattr(ingresses_module, "STOPPED_AFTER_S", 0.001)

    async def test() -> None:
        events: Any = Events()
        fleet = IngressFleet(never, ControlServer(b""), events)
        link = new_link()
        link.peer_pid = stopped_process if is_stopped else 0
        worker = fleet.workers["i1"] = ingresses_module.ManagedIngress("i1", fleet)
        worker.dialled(link, WorkerHello("i1", 1, "node"))
        version = fleet.publish(content_of(make.desired(make.endpoint()), {}))
        if is_stopped:
            await fleet.wait_applied(version, 60.0)
        else:
            with pytest.raises(DeadlineError, match="i1"):
                await fleet.wait_applied(version, 0.01)

    asyncio.run(test())


class Events:
    def addresses_changed(self) -> None: ...


async def never(worker_id: str) -> Any:
    raise NotImplementedError

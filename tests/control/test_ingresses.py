from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
import pytest
from tests.support.waiting import until_async

from servekit.control import ingresses as module
from servekit.control.events import EventLog
from servekit.control.ingresses import IngressFleet
from servekit.control.links import ControlServer
from servekit.control.snapshot import Content, content_of
from servekit.errors import DeadlineError, InternalError
from servekit.wire.control_frames import (
    Applied,
    LinkAddresses,
    ListenOn,
    Report,
    Snapshot,
    Stop,
    Suspected,
    WorkerHello,
)


class Process:
    """A worker that lives until it is told to end."""

    pid = 7
    replaces = False

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.killed = 0

    async def wait(self) -> str:
        await self.ended.wait()
        return "exit code 1"

    def kill(self) -> None:
        self.killed += 1
        self.ended.set()


class Events:
    """In the place of the controller."""

    def __init__(self) -> None:
        self.event_log = EventLog()
        self.addresses_told = 0
        self.had_served: dict[str, str] = {}

    def replicas_had_served(self, replicas: dict[str, str]) -> None:
        self.had_served.update(replicas)

    def addresses_changed(self) -> None:
        self.addresses_told += 1


class Fleet:
    """A fleet with fake processes; ``link`` connects one."""

    def __init__(self, new_link: Any, workers: int) -> None:
        self.processes: list[Process] = []
        self.events: Any = Events()
        self.control = ControlServer(b"")
        self.fleet = IngressFleet(self._launch, self.control, self.events)
        self.fails = 0
        self.new_link = new_link
        self.links: dict[str, Any] = {}
        self.names = [f"i{n}" for n in range(1, workers + 1)]
        self.fleet.start(self.names)

    async def _launch(self, worker_id: str) -> Process:
        if self.fails:
            self.fails -= 1
            raise OSError("no more processes")
        self.processes.append(Process())
        return self.processes[-1]

    def link(self, name: str = "i1", addresses: Sequence[str] = (), pid: int = 7) -> Any:
        link = self.links[name] = self.new_link()
        link.peer_hello = msgspec.msgpack.encode(WorkerHello(name, pid, "node", addresses=list(addresses)))
        self.control.link_opened(link)
        return link

    def applied(self, version: int, name: str = "i1", error: str = "") -> None:
        self.links[name].receive(Applied(version, error))


@pytest.fixture
def run(new_link: Any) -> Callable[..., None]:
    """Runs a test on a fleet of some workers, and stops it."""

    def run(test: Callable[[Fleet], Coroutine[Any, Any, None]], workers: int = 1) -> None:
        async def whole() -> None:
            fleet = Fleet(new_link, workers)
            await settle()
            try:
                await test(fleet)
            finally:
                for process in fleet.processes:
                    process.ended.set()
                await fleet.fleet.stop(0.0)

        asyncio.run(whole())

    return run


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def contents(make: Any) -> list[Content]:
    """Each with one endpoint more than the one before."""
    records = [make.endpoint(name) for name in "abc"]
    return [content_of(make.desired(*records[:count]), {}) for count in range(4)]


def test_a_change_is_pushed_as_what_differs(run: Any, contents: list[Content]) -> None:
    async def test(fleet: Fleet) -> None:
        link = fleet.link()
        earlier, later = fleet.fleet.publish(contents[1]), fleet.fleet.publish(contents[2])
        assert earlier < later
        first, second = link.of(Snapshot)
        assert (first.version, first.base, list(first.endpoints)) == (earlier, None, ["a"])
        assert (second.version, second.base, list(second.endpoints)) == (later, earlier, ["b"])

    run(test)


def test_what_has_not_changed_is_not_pushed(run: Any, contents: list[Content]) -> None:
    async def test(fleet: Fleet) -> None:
        link = fleet.link()
        version = fleet.fleet.publish(contents[0])
        assert version  # Nothing to serve is something to know.
        assert fleet.fleet.publish(contents[0]) == version
        assert len(link.of(Snapshot)) == 1

    run(test)


def test_a_worker_that_comes_later_or_again_gets_all(run: Any, contents: list[Content]) -> None:
    async def test(fleet: Fleet) -> None:
        fleet.fleet.publish(contents[1])
        version = fleet.fleet.publish(contents[2])
        for _ in range(2):
            (snapshot,) = fleet.link().of(Snapshot)
            assert (snapshot.version, snapshot.base, list(snapshot.endpoints)) == (version, None, ["a", "b"])

    run(test)


def test_what_an_earlier_controller_was_told_does_not_count(run: Any, contents: list[Content]) -> None:
    async def test(fleet: Fleet) -> None:
        earlier = Fleet(fleet.new_link, 0).fleet.publish(contents[1])
        fleet.link()
        await asyncio.sleep(0.005)  # Versions go by the millisecond; a controller takes hundreds to start again.
        version = fleet.fleet.publish(contents[2])
        fleet.applied(earlier)
        with pytest.raises(DeadlineError):
            await fleet.fleet.wait_applied(version, 0.001)

    run(test)


def test_a_change_is_waited_for_until_every_worker_has_it(run: Any, contents: list[Content]) -> None:
    async def test(fleet: Fleet) -> None:
        fleet.link("i1")
        fleet.link("i2")
        version = fleet.fleet.publish(contents[1])
        waiting = asyncio.ensure_future(fleet.fleet.wait_applied(version))
        await settle()
        fleet.applied(version, "i1")
        await settle()
        assert not waiting.done()
        fleet.applied(version, "i2")
        await asyncio.wait_for(waiting, 10)

    run(test, workers=2)


def test_several_wait_at_once(run: Any, contents: list[Content]) -> None:
    async def test(fleet: Fleet) -> None:
        fleet.link()
        first, second = (fleet.fleet.publish(content) for content in contents[1:3])
        waiting = [asyncio.ensure_future(fleet.fleet.wait_applied(version)) for version in (second, first, second)]
        await settle()
        fleet.applied(first)
        await settle()
        assert [one.done() for one in waiting] == [False, True, False]
        fleet.applied(second)
        await asyncio.wait_for(asyncio.gather(*waiting), 10)

    run(test)


def test_the_wait_is_bounded_and_says_who_is_behind(run: Any, contents: list[Content]) -> None:
    async def test(fleet: Fleet) -> None:
        fleet.link()
        version = fleet.fleet.publish(contents[1])
        with pytest.raises(DeadlineError, match=r"i1 have not applied the change within 0\.001 s"):
            await fleet.fleet.wait_applied(version, 0.001)

    run(test)


def test_a_worker_that_is_lost_is_not_waited_for(run: Any, contents: list[Content]) -> None:
    async def test(fleet: Fleet) -> None:
        await fleet.fleet.wait_applied(fleet.fleet.publish(contents[1]))  # It was never there.
        fleet.link()
        waiting = asyncio.ensure_future(fleet.fleet.wait_applied(fleet.fleet.publish(contents[2])))
        await settle()
        fleet.links["i1"].lose()
        await asyncio.wait_for(waiting, 10)

    run(test)


def test_what_a_worker_could_not_apply_is_raised(run: Any, contents: list[Content]) -> None:
    async def test(fleet: Fleet) -> None:
        fleet.link()
        version = fleet.fleet.publish(contents[1])
        fleet.applied(version, error="endpoint 'a': oh")
        with pytest.raises(InternalError, match="endpoint 'a': oh"):
            await fleet.fleet.wait_applied(version)

    run(test)


def test_wait_linked(run: Any, contents: list[Content]) -> None:
    async def test(fleet: Fleet) -> None:
        fleet.fleet.publish(contents[1])
        fleet.link()
        with pytest.raises(DeadlineError, match="did not come up"):
            await fleet.fleet.wait_linked(0.001)
        fleet.applied(1)
        await fleet.fleet.wait_linked(10)

    run(test)


def test_a_worker_that_ends_is_started_again(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_RESTART_S", 0.001)

    async def test(fleet: Fleet) -> None:
        fleet.link()
        fleet.fails = 2  # And not being able to is no reason to give up.
        fleet.processes[0].ended.set()
        await until_async(lambda: len(fleet.processes) == 2)
        worker = fleet.fleet.workers["i1"]
        assert (worker.link, worker.pid) == (None, 7)

    run(test)


def test_why_a_worker_ended_is_told(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_RESTART_S", 0.001)

    def texts(fleet: Fleet) -> list[str]:
        return [event["text"].partition(";")[0] for event in fleet.events.event_log.told(kind="ingress_ended")]

    async def test(fleet: Fleet) -> None:
        fleet.fleet.workers["i1"].found_silent("its process is stopped")
        await until_async(lambda: len(fleet.processes) == 2)
        assert texts(fleet) == ["ingress i1 ended: killed, for its process is stopped"]
        fleet.processes[1].ended.set()
        await until_async(lambda: len(fleet.processes) == 3)
        assert texts(fleet)[1:] == ["ingress i1 ended: exit code 1"]

    run(test)


def test_one_that_ended_without_a_controller_is_told_once(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_RESTART_S", 0.001)
    monkeypatch.setattr(Process, "replaces", True)

    async def test(fleet: Fleet) -> None:
        fleet.processes[0].ended.set()
        await until_async(lambda: len(fleet.processes) == 2)
        await settle()
        assert [event["text"].partition(";")[0] for event in fleet.events.event_log.told()] == [
            "ingress i1 ended while no controller was there",
            "ingress i1 ended: exit code 1",
        ]

    run(test)


def test_a_worker_that_an_earlier_controller_did_not_record_is_told_to_end(run: Any) -> None:
    async def test(fleet: Fleet) -> None:
        stray = fleet.link(pid=8)
        assert len(stray.of(Stop)) == 1
        assert fleet.fleet.workers["i1"].link is None
        ours = fleet.link()
        assert fleet.fleet.workers["i1"].link is ours
        assert not ours.of(Stop)

    run(test)


def test_stop_asks_those_that_are_there_and_kills_the_others(run: Any) -> None:
    async def test(fleet: Fleet) -> None:
        link = fleet.link("i1")
        stopping = asyncio.ensure_future(fleet.fleet.stop(5.0))
        await settle()
        assert link.of(Stop) == [Stop(5.0, all_end=True)]
        assert [process.killed for process in fleet.processes] == [0, 1]
        fleet.processes[0].ended.set()
        await asyncio.wait_for(stopping, 10)
        assert len(fleet.processes) == 2

    run(test, workers=2)


# -- where handles dial ------------------------------------------------------------------------------------------------


def test_workers_say_where_handles_dial_them(run: Any) -> None:
    async def test(fleet: Fleet) -> None:
        for name in ("i1", "i2"):
            fleet.link(name, [f"unix:{name}"])
        assert fleet.fleet.link_addresses == [["unix:i1"], ["unix:i2"]]
        fleet.links["i2"].receive(LinkAddresses(["unix:i2", "tcp:h:1"]))
        assert fleet.fleet.link_addresses == [["unix:i1"], ["unix:i2", "tcp:h:1"]]
        assert fleet.events.addresses_told == 3
        fleet.link("i1", ["unix:i1"])
        assert fleet.events.addresses_told == 3, "what is known already is no change"

    run(test, workers=2)


def test_a_worker_that_is_away_is_still_where_it_was(run: Any) -> None:
    async def test(fleet: Fleet) -> None:
        fleet.link("i1", ["unix:i1"]).lose()
        assert fleet.fleet.link_addresses == [["unix:i1"]]

    run(test)


def test_every_worker_listens_for_other_machines_those_that_come_later_too(run: Any) -> None:
    async def test(fleet: Fleet) -> None:
        first = fleet.link("i1")
        fleet.fleet.listen_on("10.0.0.1")
        fleet.fleet.listen_on("10.0.0.1")
        assert [frame.host for frame in first.of(ListenOn)] == ["10.0.0.1"]
        assert [frame.host for frame in fleet.link("i2").of(ListenOn)] == ["10.0.0.1"]

    run(test, workers=2)


def test_what_an_earlier_controller_asked_for_is_asked_of_all(run: Any) -> None:
    async def test(fleet: Fleet) -> None:
        addresses = ["unix:i1", "tcp:10.0.0.1:4711", "tcp:[::1]:4712"]
        fleet.link("i1", addresses)
        assert {frame.host for frame in fleet.link("i2").of(ListenOn)} == {"10.0.0.1", "[::1]"}

    run(test, workers=2)


def test_the_suspects_of_one_worker_are_told_to_all_others(run: Any) -> None:
    async def test(fleet: Fleet) -> None:
        here, there = fleet.link("i1"), fleet.link("i2")
        here.receive(Report(suspects={b"digest": 2, b"cleared": 0}))
        here.receive(Report(served={"r1": "b"}))
        assert [frame.deaths for frame in there.of(Suspected)] == [{b"digest": 2, b"cleared": 0}]
        assert here.of(Suspected) == []
        assert fleet.events.had_served == {"r1": "b"}

    run(test, workers=3)

"""The life of a replica, on a runtime and links that do what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest
from tests.support.waiting import until_async

from servekit.config import config_digest
from servekit.control import replica as module
from servekit.control.events import EventLog
from servekit.control.links import ControlServer
from servekit.control.plan import WORN_REVISION, ReplicaState
from servekit.control.replica import ManagedReplica, ReplicaContext
from servekit.control.replicas import ReplicaFleet
from servekit.control.store import WorkerRecord
from servekit.errors import BackendStartError, DeadlineError, InternalError, ServekitError
from servekit.interfaces import Exit, ReplicaEvent, WorkerHandle, WorkerSpec
from servekit.wire.control_frames import (
    BLOB_PIECE_BYTES,
    Assign,
    Blob,
    Drain,
    Ingresses,
    Ready,
    Reconfigure,
    Reconfigured,
    Report,
    StartFailed,
    Unhealthy,
    WorkerHello,
)


class Runtime:
    """Starts what the test then ends."""

    def __init__(self) -> None:
        self.started: list[WorkerSpec] = []
        self.exits: dict[str, Exit] = {}
        self.doom = ""
        self.stopped: list[str] = []
        self.graces: list[float] = []
        self.may_stop = asyncio.Event()
        self.may_stop.set()
        self.node = ""
        self.fault: Exception | None = None

    def start(self, spec: WorkerSpec) -> WorkerHandle:
        if self.fault is not None:
            raise self.fault
        self.started.append(spec)
        return WorkerHandle(spec.worker_id, b"state", node=self.node)

    def poll(self, handle: WorkerHandle) -> Exit | None:
        return self.exits.get(handle.worker_id)

    def doomed(self, handle: WorkerHandle) -> str:
        return self.doom

    async def stop(self, handle: WorkerHandle, grace_s: float) -> None:
        self.stopped.append(handle.worker_id)
        self.graces.append(grace_s)
        await self.may_stop.wait()

    def attach(self, state: bytes) -> WorkerHandle:
        if self.fault is not None:
            raise self.fault
        return WorkerHandle("r9", state)


class Runtimes:
    """In the place of `servekit.control.runtimes.Runtimes`: no threads."""

    ends = None

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    async def get(self, name: str, options: Any) -> Runtime:
        return self.runtime

    async def advertise_host(self, runtime: Any) -> str | None:
        return None

    async def start(self, runtime: Any, spec: WorkerSpec) -> WorkerHandle:
        return self.runtime.start(spec)

    async def look(self, runtime: Any, handle: WorkerHandle) -> tuple[Exit | None, str]:
        return self.runtime.poll(handle), self.runtime.doomed(handle)

    async def call(self, function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        result = function(*arguments)
        return await result if asyncio.iscoroutine(result) else result


class FakeIngresses:
    """In the place of an `IngressFleet`."""

    def __init__(self) -> None:
        self.link_addresses: list[list[str]] = []


class Bench:
    """The fleet's surroundings: it is the `ReplicaEvents`, and the store."""

    def __init__(self, make: Any, new_link: Any, store_thread: Any) -> None:
        self.runtime = Runtime()
        self.ingresses = FakeIngresses()
        self.event_log = EventLog()
        self.events: list[tuple[str, str]] = []
        self.saved: list[WorkerRecord] = []
        self.forgotten: list[str] = []
        self.ended: list[ManagedReplica] = []
        self.unhealthy: list[str] = []
        self.changes = 0
        self.target: bytes | ServekitError = b"x" * (BLOB_PIECE_BYTES + 1)
        store_thread.store = self
        me: Any = self
        context = ReplicaContext(
            runtimes=Runtimes(self.runtime),  # type: ignore[arg-type]
            store=store_thread,
            ingresses=self.ingresses,  # type: ignore[arg-type]
            events=me,
            bootstrap=self._bootstrap,
            directory="/instance",
            debug=False,
        )
        self.control = ControlServer(b"")
        self.fleet = ReplicaFleet(context, self.control)
        self.make = make
        self.new_link = new_link

    async def _bootstrap(self, worker_id: str, backend: str, host: str | None, runtime: Any) -> bytes:
        return b"secret"

    # -- Store

    def get_target(self, record: Any, is_remote: bool) -> tuple[bytes, bytes]:
        if isinstance(self.target, ServekitError):
            raise self.target
        return self.target, b""

    def save_worker(self, record: WorkerRecord) -> None:
        self.saved.append(record)

    def forget_worker(self, worker_id: str) -> None:
        self.forgotten.append(worker_id)

    # -- ReplicaEvents

    def changed(self) -> None:
        self.changes += 1

    def replica_state_changed(self, event: ReplicaEvent) -> None:
        self.events.append((event.state, event.reason))

    def replica_ended(self, replica: ManagedReplica) -> None:
        self.ended.append(replica)

    def replica_unhealthy(self, replica: ManagedReplica, reason: str) -> None:
        self.unhealthy.append(reason)

    @property
    def states(self) -> list[str]:
        return [state for state, _ in self.events]

    async def start(self, **fields: Any) -> ManagedReplica:
        self.fleet.start(self.make.backend(**fields))
        (replica,) = self.fleet.replicas.values()
        await until_async(lambda: replica.handle is not None or bool(self.ended))
        return replica

    async def link(self, replica: ManagedReplica, *, ready: bool = False, addresses: tuple[str, ...] = ()) -> Any:
        link = self.new_link()
        self.dial(link, WorkerHello(replica.id, 42, "here", ready, list(addresses), user_config=config_digest(None)))
        if not ready and isinstance(self.target, bytes):
            await until_async(lambda: sum(len(blob.data) for blob in link.of(Blob)) == len(self.target))
        return link

    def dial(self, link: Any, hello: WorkerHello) -> None:
        link.peer_hello = msgspec.msgpack.encode(hello)
        self.control.link_opened(link)

    async def ready(self) -> tuple[ManagedReplica, Any]:
        replica = await self.start()
        link = await self.link(replica)
        link.receive(Ready(["unix:/r"]))
        await until_async(lambda: not replica.moved.is_set())
        return replica, link

    async def gone(self) -> None:
        await until_async(lambda: not self.fleet.replicas)


@pytest.fixture
def run(make: Any, new_link: Any, store_thread: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    for name in ("POLL_S", "WATCH_S"):
        monkeypatch.setattr(module, name, 0.002)

    def run(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            bench = Bench(make, new_link, store_thread)
            try:
                await test(bench)
            finally:
                await bench.fleet.stop(0.0)

        asyncio.run(whole())

    return run


def test_a_replica_is_started_told_what_to_serve_and_ready(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica = await bench.start(worker_options={"num_gpus": 1}, revision=3)
        (spec,) = bench.runtime.started
        assert (spec.backend, spec.bootstrap, spec.options) == ("b", b"secret", {"num_gpus": 1})
        assert (bench.saved[0].worker_id, bench.saved[0].handle, bench.saved[0].revision) == (replica.id, b"state", 3)
        link = await bench.link(replica)
        (assign,) = link.of(Assign)
        assert (assign.backend, assign.target_bytes) == ("b", BLOB_PIECE_BYTES + 1)
        assert [len(blob.data) for blob in link.of(Blob)] == [BLOB_PIECE_BYTES, 1]
        assert (replica.pid, replica.node, replica.state) == (42, "here", ReplicaState.STARTING)
        link.receive(Ready(["unix:/r"]))
        assert replica.state is ReplicaState.READY
        assert replica.entry.addresses == ("unix:/r",)
        assert bench.states == ["starting", "ready"]
        assert bench.changes == 1
        link.receive(Report(busy_s=5.0))
        assert replica.report.busy_s == 5.0

    run(test)


def test_one_that_serves_already_is_not_told_again(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica = await bench.start()
        link = await bench.link(replica, ready=True, addresses=("unix:/r",))
        assert link.of(Assign) == link.of(Blob) == link.of(Reconfigure) == []
        assert replica.state is ReplicaState.READY

    run(test)


def test_one_that_was_built_with_a_user_config_of_yesterday_takes_over_todays_first(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica = await bench.start(config={"user_config": 1})
        link = await bench.link(replica)
        replica.update(bench.make.backend(config={"user_config": 2}))
        assert link.of(Reconfigure) == []  # It is not built yet.
        link.receive(Ready(["unix:/r"]))
        await until_async(lambda: bool(link.of(Reconfigure)))
        assert [frame.user_config for frame in link.of(Reconfigure)] == [2]
        assert replica.state is ReplicaState.STARTING
        link.receive(Reconfigured())
        await until_async(lambda: replica.state is ReplicaState.READY)

    run(test)


def test_one_that_raises_on_todays_fails_its_start(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica = await bench.start(config={"user_config": 1})
        link = await bench.link(replica)
        replica.update(bench.make.backend(config={"user_config": 2}))
        link.receive(Ready(["unix:/r"]))
        await until_async(lambda: bool(link.of(Reconfigure)))
        link.receive(Reconfigured("Traceback: no"))
        await bench.gone()
        assert "did not take over user_config" in str(replica.failure)
        assert "Traceback: no" in str(replica.failure)

    run(test)


def test_one_that_dials_again_is_sent_only_what_it_has_not(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica = await bench.start(config={"user_config": 1})
        link = bench.new_link()
        hello = WorkerHello(replica.id, 42, "here", True, ["unix:/r"], user_config=config_digest(1))
        bench.dial(link, hello)
        assert link.of(Reconfigure) == []
        replica.update(bench.make.backend(config={"user_config": 2}))
        await until_async(lambda: len(link.of(Reconfigure)) == 1)
        link.lose()
        again = bench.new_link()
        bench.dial(again, hello)  # What was sent did not arrive.
        await until_async(lambda: bool(again.of(Reconfigure)))
        link.receive(Reconfigured())  # Late, and an answer to nothing that was asked on the new link.
        assert not replica.has_user_config
        assert [frame.user_config for frame in again.of(Reconfigure)] == [2]
        assert replica.state is ReplicaState.READY

    run(test)


def test_only_one_that_serves_is_unhealthy(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica, link = await bench.ready()
        link.receive(Unhealthy("it fell off the bus"))
        replica.mark_draining()
        link.receive(Unhealthy("it fell off the bus"))
        assert bench.unhealthy == ["it fell off the bus"]

    run(test)


def test_a_handler_that_cannot_be_built(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica = await bench.start()
        link = await bench.link(replica)
        link.receive(StartFailed("Traceback: ZeroDivisionError"))
        await bench.gone()
        assert bench.ended == [replica]
        assert isinstance(replica.failure, BackendStartError)
        assert "module:Model" in str(replica.failure)
        assert "ZeroDivisionError" in str(replica.failure)
        assert bench.runtime.stopped == bench.forgotten == [replica.id]
        assert bench.states == ["starting", "gone"]

    run(test)


@pytest.mark.parametrize("fault", [BackendStartError("no place for it"), RuntimeError("no place for it")])
def test_a_runtime_that_cannot_start_it(run: Any, fault: Exception) -> None:
    async def test(bench: Bench) -> None:
        bench.runtime.fault = fault
        replica = await bench.start()
        await bench.gone()
        assert bench.ended == [replica]
        assert "no place for it" in str(replica.failure)
        assert isinstance(replica.failure, BackendStartError)
        assert bench.runtime.stopped == []

    run(test)


def test_a_process_that_ends_before_it_is_ready(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica = await bench.start()
        bench.runtime.exits[replica.id] = Exit("killed by SIGKILL")
        await bench.gone()
        assert "ended before it was ready: killed by SIGKILL" in str(replica.failure)

    run(test)


def test_an_init_that_takes_too_long(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica = await bench.start(config={"startup_timeout_s": 0.01})
        await bench.gone()
        assert isinstance(replica.failure, DeadlineError)
        assert "startup_timeout_s of 0.01 s" in str(replica.failure)
        assert bench.runtime.stopped == [replica.id]

    run(test)


def test_a_target_that_is_lost_is_a_failure_and_not_a_silence(run: Any) -> None:
    async def test(bench: Bench) -> None:
        bench.target = InternalError("damaged")
        replica = await bench.start()
        await bench.link(replica)
        await bench.gone()
        assert str(replica.failure) == "damaged"

    run(test)


def test_a_ready_replica_whose_process_ends(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica, link = await bench.ready()
        bench.runtime.exits[replica.id] = Exit("exit code 1")
        link.lose()
        await bench.gone()
        assert bench.ended == [replica]
        assert "ended: exit code 1" in str(replica.failure)
        assert replica.ready_at

    run(test)


def test_a_process_that_ends_while_its_link_is_held_open(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a child that it has forked."""
    monkeypatch.setattr(module, "WATCH_S", 0.01)

    async def test(bench: Bench) -> None:
        replica, link = await bench.ready()
        bench.runtime.exits[replica.id] = Exit("killed by SIGKILL")
        await bench.gone()
        assert link.peer_has_ended

    run(test)


def test_one_that_its_runtime_knows_to_end_soon_is_of_a_revision_that_nobody_wants(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica, _ = await bench.ready()
        changes = bench.changes
        bench.runtime.doom = "its Ray was lost"
        await until_async(lambda: replica.facts.revision == WORN_REVISION)
        assert bench.changes == changes + 1
        replica.mark_draining()
        replica.let_go(0.0)
        await bench.gone()
        assert bench.events[-2:] == [(state, "replaced: its Ray was lost") for state in ("draining", "gone")]
        assert bench.ended == []

    run(test)


def test_one_gets_no_calls_before_a_later_controller_would_know_it(run: Any) -> None:
    async def test(bench: Bench) -> None:
        save, seen = bench.save_worker, []

        def save_worker(record: WorkerRecord) -> None:
            (replica,) = bench.fleet.replicas.values()
            link = bench.new_link()
            bench.dial(link, WorkerHello(replica.id, 42, "here", True, [], user_config=config_digest(None)))
            seen.append(replica.state)
            save(record)

        bench.save_worker = save_worker  # type: ignore[method-assign]
        replica = await bench.start()
        await until_async(lambda: replica.state is ReplicaState.READY)
        assert seen == [ReplicaState.STARTING]

    run(test)


def test_a_lost_link_alone_kills_nobody(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica, link = await bench.ready()
        link.lose()
        await asyncio.sleep(0.02)
        assert replica.state is ReplicaState.READY
        again = await bench.link(replica, ready=True, addresses=("unix:/r",))
        link.lose()  # The old one, late.
        assert replica.link is again

    run(test)


def test_one_that_is_let_go_is_drained_and_then_stopped(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica, link = await bench.ready()
        replica.mark_draining()
        assert replica.state is ReplicaState.DRAINING
        await asyncio.sleep(0.01)
        assert link.of(Drain) == []
        replica.let_go(30.0)
        await until_async(lambda: link.of(Drain) == [Drain(30.0)])
        assert bench.runtime.stopped == []
        bench.runtime.exits[replica.id] = Exit("exit code 0")
        await bench.gone()
        assert bench.ended == []
        assert bench.events[-1] == ("gone", "exit code 0")
        assert bench.states == ["starting", "ready", "draining", "gone"]

    run(test)


def test_one_that_is_let_go_while_it_starts_is_stopped(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica = await bench.start()
        link = await bench.link(replica)
        replica.mark_draining()
        replica.let_go(30.0)
        await bench.gone()
        assert link.of(Drain) == []
        assert bench.runtime.stopped == [replica.id]
        assert bench.ended == []

    run(test)


def test_ready_from_one_that_drains_does_not_bring_it_back(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica = await bench.start()
        link = await bench.link(replica)
        replica.mark_draining()
        link.receive(Ready(["unix:/r"]))
        assert replica.state is ReplicaState.DRAINING

    run(test)


def test_a_worker_that_nobody_knows_is_told_to_end(run: Any) -> None:
    async def test(bench: Bench) -> None:
        link = bench.new_link()
        bench.dial(link, WorkerHello("stranger", 1, "here"))
        assert link.frames == [Drain(0.0)]
        link.receive(Ready([]))
        link.lose()

    run(test)


def test_a_replica_has_the_lowest_rank_that_no_living_one_has(run: Any) -> None:
    async def test(bench: Bench) -> None:
        for _ in range(2):
            bench.fleet.start(bench.make.backend())
        bench.fleet.start(bench.make.backend("other"))
        assert [(r.record.name, r.rank) for r in bench.fleet.replicas.values()] == [("b", 0), ("b", 1), ("other", 0)]
        first = bench.fleet.of("b")[0]
        first.mark_draining()
        bench.fleet.start(bench.make.backend())
        assert [r.rank for r in bench.fleet.of("b")] == [0, 1, 2], "one that is on its way out has its rank yet"
        first.let_go(0.0)
        await until_async(lambda: first not in bench.fleet.of("b"))
        bench.fleet.start(bench.make.backend())
        assert sorted(r.rank for r in bench.fleet.of("b")) == [0, 1, 2]

    run(test)


WORKER = WorkerRecord("r9", "b", 2, b"found", 9, 1.5, 1)


def test_a_replica_of_an_earlier_controller_is_taken_over(run: Any) -> None:
    async def test(bench: Bench) -> None:
        bench.fleet.attach(bench.make.backend(), WORKER)
        bench.fleet.resume()
        (replica,) = bench.fleet.replicas.values()
        await until_async(lambda: replica.handle is not None)
        assert replica.handle == WorkerHandle("r9", b"found")
        await bench.link(replica, ready=True, addresses=("unix:/r",))
        assert replica.state is ReplicaState.READY
        bench.fleet.start(bench.make.backend())
        bench.fleet.start(bench.make.backend())
        assert [(each.number, each.rank) for each in bench.fleet.of("b")] == [(9, 1), (10, 0), (11, 2)]

    run(test)


def test_one_that_dials_before_it_is_taken_over_is_told_what_has_changed_since(run: Any) -> None:
    async def test(bench: Bench) -> None:
        bench.fleet.attach(bench.make.backend(), WORKER)
        link = bench.new_link()
        bench.dial(link, WorkerHello("r9", 42, "here", True, ["unix:/r"], user_config=config_digest(None)))
        assert link.of(Drain) == []
        bench.ingresses.link_addresses = TWO
        bench.fleet.resume()
        assert link.of(Ingresses)[-1].addresses == TWO
        assert [replica.state for replica in bench.fleet.of("b")] == [ReplicaState.READY]
        assert bench.states == ["starting", "ready"]

    run(test)


def test_one_that_is_not_taken_over_is_left_alone(run: Any) -> None:
    async def test(bench: Bench) -> None:
        bench.fleet.attach(bench.make.backend(), WORKER)
        await bench.fleet.stop(0.0)
        assert bench.runtime.stopped == []

    run(test)


def test_one_that_is_gone_is_not(run: Any) -> None:
    async def test(bench: Bench) -> None:
        bench.runtime.fault = LookupError("no such process")
        bench.fleet.attach(bench.make.backend(), WORKER)
        bench.fleet.resume()
        (replica,) = bench.fleet.replicas.values()
        await bench.gone()
        assert bench.ended == [], "it failed under no controller, or under one that counted it"
        assert bench.forgotten == [WORKER.worker_id]
        assert "no such process" in str(replica.failure)

    run(test)


def test_stop_ends_all(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica, _ = await bench.ready()
        await bench.fleet.stop(0.0)
        assert bench.fleet.replicas == {}
        assert bench.runtime.stopped == [replica.id]
        assert bench.ended == []

    run(test)


# -- where its handles dial --------------------------------------------------------------------------------------------

TWO = [["unix:i1", "tcp:h:1"], ["unix:i2"]]


@pytest.mark.parametrize(("local_address", "expected"), [("", TWO), (("10.0.0.1", 1), [["tcp:h:1"]])])
def test_a_replica_is_told_where_its_handles_dial(run: Any, local_address: Any, expected: list[list[str]]) -> None:
    async def test(bench: Bench) -> None:
        replica = await bench.start()
        replica.tell_ingresses()  # It has not dialled yet.
        bench.ingresses.link_addresses = TWO
        bench.new_link.local_address = local_address
        link = await bench.link(replica)
        assert [assign.ingresses for assign in link.of(Assign)] == [expected]
        replica.tell_ingresses()
        assert [frame.addresses for frame in link.of(Ingresses)] == [expected]

    run(test)


def test_one_that_serves_already_is_told_too(run: Any) -> None:
    async def test(bench: Bench) -> None:
        bench.ingresses.link_addresses = TWO
        replica = await bench.start()
        link = await bench.link(replica, ready=True, addresses=("unix:/r",))
        assert [frame.addresses for frame in link.of(Ingresses)] == [TWO]

    run(test)


# -- replicas that answer nothing any more -----------------------------------------------------------------------------


async def remote(bench: Bench) -> tuple[ManagedReplica, Any]:
    """One on another machine, of a runtime that does not notice when that is cut off."""
    bench.new_link.local_address = ("10.0.0.1", 1)
    bench.runtime.node = "n2"
    replica, link = await bench.ready()
    return replica, link


def test_one_that_is_silent_is_stopped_without_grace_and_not_drained(run: Any) -> None:
    async def test(bench: Bench) -> None:
        replica, link = await bench.ready()
        replica.found_silent("its process is stopped")
        replica.found_silent("it still is")
        assert (replica.state, bench.ended, bench.events[-1][0]) == (ReplicaState.DRAINING, [replica], "draining")
        await bench.gone()
        assert bench.runtime.graces == [0.0]
        assert link.of(Drain) == []
        assert bench.ended == [replica], "it is told of once"
        assert "was replaced: its process is stopped" in str(replica.failure)

    run(test)


def test_one_on_another_machine_that_does_not_dial_again_is_lost(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REDIAL_S", 0.002)

    async def test(bench: Bench) -> None:
        replica, link = await remote(bench)
        link.lose()
        await bench.gone()
        assert "not dialled again" in str(replica.failure)
        bench.fleet.start(bench.make.backend())
        await until_async(lambda: len(bench.runtime.started) == 2)
        assert [spec.avoid for spec in bench.runtime.started] == [(), ("n2",)]

    run(test)


def test_one_that_dials_again_in_time_is_not_lost(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REDIAL_S", 0.05)

    async def test(bench: Bench) -> None:
        replica, link = await remote(bench)
        link.lose()
        await bench.link(replica, ready=True, addresses=("tcp:r:1",))
        await asyncio.sleep(0.1)  # Twice as long as it had.
        assert (replica.state, bench.ended) == (ReplicaState.READY, [])

    run(test)


def test_one_of_this_machine_may_take_its_time_to_dial(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """C code may hold the GIL there; its runtime tells whether it is gone."""
    monkeypatch.setattr(module, "REDIAL_S", 0.001)

    async def test(bench: Bench) -> None:
        replica, link = await bench.ready()
        link.lose()
        await asyncio.sleep(0.01)
        assert (replica.state, bench.ended) == (ReplicaState.READY, [])

    run(test)


def test_a_lost_one_that_comes_back_is_told_to_end_and_serves_nothing(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REDIAL_S", 0.002)

    async def test(bench: Bench) -> None:
        replica, link = await remote(bench)
        bench.runtime.may_stop.clear()
        link.lose()
        await until_async(lambda: bool(bench.ended))
        again = await bench.link(replica, ready=True, addresses=("tcp:r:1",))
        assert again.of(Drain) == [Drain(0.0)]
        assert replica.state is ReplicaState.DRAINING
        bench.runtime.may_stop.set()

    run(test)


def test_what_comes_while_one_is_ended_anyway_makes_it_no_lost_one(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REDIAL_S", 0.001)

    async def test(bench: Bench) -> None:
        replica, link = await remote(bench)
        bench.runtime.may_stop.clear()
        bench.runtime.exits[replica.id] = Exit("exit code 1", 1)
        await until_async(lambda: bool(bench.runtime.stopped))
        link.lose()
        await asyncio.sleep(0.01)
        replica.found_silent("it says nothing")
        bench.runtime.may_stop.set()
        await bench.gone()
        assert (bench.ended, bench.states.count("draining")) == ([replica], 0)

    run(test)

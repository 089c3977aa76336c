"""A router with nothing real around it: fake connections, fake links, and a clock that the test moves."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence, Set
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from tests.support.links import FakeLink

from servekit.config import BackendConfig, EndpointOptions, HttpLimits
from servekit.http1.body import IncomingBody
from servekit.ingress.apply import Applier
from servekit.ingress.backend import Replica
from servekit.ingress.exchange import Exchange
from servekit.ingress.router import Router
from servekit.ingress.shared import Shared
from servekit.ingress.spool import SpoolSpace
from servekit.interfaces import BackendView, Outcome, ReplicaView, RequestInfo, RequestRecord, RoutingPolicy
from servekit.tallies import spread
from servekit.wire.control_frames import BackendEntry, Capabilities, EndpointRecord, PluginRef, ReplicaEntry, Snapshot
from servekit.wire.data_frames import Answer, Call, Cancel


class Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """`time` and `call_later`; `advance` moves the one and calls what is due by the other."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, int, Timer, Callable[[], object]]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[..., object], *arguments: Any) -> Timer:
        timer = Timer()
        self.timers.append((self.now + delay, next(self._order), timer, lambda: call(*arguments)))
        return timer

    def advance(self, seconds: float) -> None:
        ends = self.now + seconds
        while due := sorted(entry for entry in self.timers if entry[0] <= ends):
            self.timers.remove(due[0])
            self.now = max(self.now, due[0][0])
            if not due[0][2].cancelled:
                due[0][3]()
        self.now = ends


class FakeConnection:
    """Remembers what it was to write; ``reads``: whether the client keeps up."""

    client = "192.0.2.1"

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes, bytes]] = []
        self.begun: list[tuple[int, bytes, int | None]] = []
        self.pieces: list[bytes] = []
        self.ended: list[bool] = []
        """Of each answer in pieces that is over, whether it was complete."""
        self.reads = True
        self.taken = 0
        """How often it was told that something of the body was taken."""

    def answer(self, request: object, status: int, head: bytes, body: bytes) -> None:
        assert not self.begun
        self.answers.append((status, head, body))

    def begin_answer(self, request: object, status: int, head: bytes, length: int | None) -> None:
        assert not self.answers
        assert not self.begun
        self.begun.append((status, head, length))

    def write_answer(self, data: bytes) -> bool:
        assert self.begun
        assert not self.ended
        self.pieces.append(data)
        return self.reads

    def end_answer(self, request: object, complete: bool) -> None:
        assert self.begun
        assert not self.ended
        self.ended.append(complete)

    def body_taken(self) -> None:
        self.taken += 1


class FakeLinks:
    """In the place of `ReplicaLinks`: a new replica's link is open at once, unless its id is in ``down``."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.opened: list[str] = []
        self.there: dict[str, FakeLink] = {}

    def keep_only(self, replica_ids: Set[str]) -> Set[str]:
        ended = self.there.keys() - replica_ids
        for replica_id in ended:
            self.there.pop(replica_id).peer_ended()
        return ended

    async def open(self, replicas: list[Replica]) -> None:
        for replica in replicas:
            if replica.id not in self.down:
                self.opened.append(replica.id)
                link: Any = FakeLink()
                self.there[replica.id] = link
                replica.calls.link_opened(link)


class First(RoutingPolicy):
    """The first of what there is; remembers what it was told and given."""

    def __init__(self) -> None:
        self.weights: list[dict[str, float]] = []
        self.choices: list[list[str]] = []
        self.finished: list[tuple[str, str, Outcome]] = []
        self.closed = 0

    def traffic_changed(self, weights: Any) -> None:
        self.weights.append(dict(weights))

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        self.choices.append([backend.name for backend in backends])
        return backends[0]

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        return replicas[0]

    def request_finished(self, request: RequestInfo, replica: ReplicaView, outcome: Outcome) -> None:
        self.finished.append((request.id, replica.id, outcome))

    def close(self) -> None:
        self.closed += 1


class Asked:
    """A request that was given to the router, and what became of it."""

    def __init__(self, exchange: Exchange, connection: FakeConnection) -> None:
        self.exchange = exchange
        self.connection = self._connection = connection

    @property
    def answered(self) -> bool:
        assert len(self._connection.answers) <= 1
        return bool(self._connection.answers)

    @property
    def status(self) -> int:
        return self._connection.answers[0][0]

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self._connection.answers[0][1].decode("latin-1").split("\r\n")
        assert lines.pop() == ""
        return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)

    @property
    def text(self) -> str:
        return self._connection.answers[0][2].decode()


class World:
    def __init__(self, directory: str) -> None:
        """``directory``: where spools are."""
        self.loop = FakeLoop()
        self.records: list[RequestRecord] = []
        loop: Any = self.loop
        self.spools = SpoolSpace(HttpLimits(), directory, loop)
        self.wanted = 0
        """How often a request had to wait for a replica to start."""
        self.shared = Shared(loop, self.spools, self._replica_wanted, self.records.append)
        self.router = Router(self.shared)
        self.links = FakeLinks()
        self.asked: list[Asked] = []
        self.came: Counter[int] = Counter()
        """By call, bytes that a test had its replica send."""
        self.policies: dict[str, Callable[[], RoutingPolicy]] = {"first": First}
        self.built: list[RoutingPolicy] = []
        links: Any = self.links
        self.applier = Applier(self.router, links, self._build, lambda replica_ids: None)
        self._versions = itertools.count(1)

    def _replica_wanted(self) -> None:
        self.wanted += 1

    def _build(self, ref: PluginRef) -> RoutingPolicy:
        policy = self.policies[ref.path](**ref.options)
        self.built.append(policy)
        return policy

    # -- snapshots ---------------------------------------------------------------------------------------------

    def apply(
        self,
        *entries: EndpointRecord | BackendEntry,
        gone: Sequence[str] = (),
        whole: bool = False,
        leaving: tuple[str, ...] = (),
    ) -> str:
        """``gone``: names of endpoints and backends, as in ``endpoint:e`` and ``backend:b``."""
        endpoints: dict[str, Any] = {entry.name: entry for entry in entries if isinstance(entry, EndpointRecord)}
        backends: dict[str, Any] = {entry.name: entry for entry in entries if isinstance(entry, BackendEntry)}
        for name in gone:
            kind, _, bare = name.partition(":")
            {"endpoint": endpoints, "backend": backends}[kind][bare] = None
        version = next(self._versions)
        base = None if whole else version - 1
        return finish(self.applier.apply(Snapshot(version, base, endpoints, backends, leaving)))

    def policy(self, endpoint: str = "e") -> Any:
        return self.router.endpoints[endpoint].policy

    def replica(self, replica_id: str) -> Replica:
        found = [b.replicas[replica_id] for b in self.router.backends.values() if replica_id in b.replicas]
        return found[0]

    def link(self, replica_id: str) -> FakeLink:
        link: Any = self.replica(replica_id).calls.link
        return link

    def open(self, replica: Replica) -> FakeLink:
        """The ingress has dialled it, for the first time or again."""
        link: Any = FakeLink()
        replica.calls.link_opened(link)
        return link

    # -- requests ----------------------------------------------------------------------------------------------

    @property
    def counted(self) -> dict[tuple[str, str, str, int, str], list[int]]:
        """By endpoint, backend, method, status and error, the slots of requests that have ended so, a second later."""
        self.shared.settle_kinds()
        return {key[1:]: spread(slots.tolist()) for key, slots in self.shared.tallies.slots.items()}  # type: ignore[misc]

    def ask(
        self,
        path: str = "/x",
        method: str = "GET",
        headers: Sequence[tuple[str, str]] = (),
        query: bytes = b"",
        body: bytes = b"",
        incoming: IncomingBody | None = None,
        sent_target: bytes | None = None,
        upgrade: bool = False,
    ) -> Asked:
        exchange, connection = self.router.new_request(), FakeConnection()
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        exchange.connection = connection
        exchange.method, exchange.path, exchange.query, exchange.version = method, path, query, "1.1"
        exchange.sent_target = sent_target
        exchange.raw_headers, exchange.fields, exchange.body = raw, dict(raw), body
        exchange.keep_alive, exchange.done, exchange.received_at, exchange.incoming = True, False, monotonic(), incoming
        exchange.upgrade = upgrade
        self.asked.append(Asked(exchange, connection))
        self.router.handle(exchange)
        return self.asked[-1]

    def leave(self, asked: Asked) -> None:
        """The client goes away."""
        asked.exchange.done = True
        asked.exchange.abandoned()

    def calls(self, replica_id: str) -> list[Call]:
        """Sent to a replica, whether answered or not."""
        return self.link(replica_id).of(Call)

    def cancels(self, replica_id: str) -> list[int]:
        return [frame.id for frame in self.link(replica_id).of(Cancel)]

    def receive(self, replica_id: str, *frames: Any) -> None:
        calls = self.replica(replica_id).calls
        link = calls.link
        assert link is not None
        for frame in frames:
            calls.frame_received(link, frame)
        calls.frames_done(link)

    def answer(self, replica_id: str, call: Call, body: bytes = b"ok", *, status: int = 200, **more: Any) -> None:
        fields: dict[str, Any] = {"queue_length": 0, "service_us": 50_000, **more}
        self.receive(replica_id, Answer(call.id, status, b"content-type: text/plain\r\n", body, **fields))

    def lose(self, replica_id: str, *, unsent: Sequence[Call] = ()) -> None:
        calls = self.replica(replica_id).calls
        link: Any = calls.link
        link.not_written = list(unsent)
        calls.link_lost(link, ConnectionResetError())

    def endpoint(self, name: str = "e", **fields: Any) -> EndpointRecord:
        return endpoint(name, **fields)

    def backend(self, name: str = "b", replicas: Sequence[str] = ("r1",), **config: Any) -> BackendEntry:
        return backend(name, replicas, **config)


def finish(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for something")


def endpoint(
    name: str = "e", *, route: str | None = "/x", weights: dict[str, float] | None = None, **fields: Any
) -> Any:
    options = EndpointOptions(
        route, **{key: fields.pop(key) for key in EndpointOptions.__struct_fields__ if key in fields}
    )
    values: dict[str, Any] = {"methods": ("GET", "POST"), "policy": PluginRef("first"), **fields}
    ref = values.pop("policy")
    traffic = {"b": 1.0} if weights is None else weights
    return EndpointRecord(name, options, policy=ref.path, policy_ref=ref, traffic=traffic, **values)


def backend(name: str, replicas: Sequence[str], *, streams_bodies: bool = True, **config: Any) -> BackendEntry:
    capabilities = Capabilities(config.get("max_concurrent_queries", 1), streams_bodies)
    entries = tuple(ReplicaEntry(replica, "node", (f"memory:{replica}",), capabilities) for replica in replicas)
    return BackendEntry(name, BackendConfig(**{"num_replicas": len(replicas), **config}), entries)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """In the end every client leaves, and nothing is held for any."""
    world = World(str(tmp_path))
    yield world
    for asked in world.asked:
        if not asked.exchange.done:
            world.leave(asked)
    assert (world.spools.used_bytes, world.spools.memory_bytes) == (0, 0)
    assert not world.spools.readers


@pytest.fixture
def fake_loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture(scope="session")
def new_loop() -> type[FakeLoop]:
    """For tests that need one per example."""
    return FakeLoop

"""Decisions are recorded; under a seed they are the same in every run, with every policy; the clock stands still."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import httpx
import pytest
from tests.support.waiting import until

import servekit
from servekit.errors import DeadlineError, InvalidInputError, ServekitError
from servekit.interfaces import BackendView, DrawnUnit, Outcome, ReplicaView, RequestInfo, RoutingPolicy
from servekit.testing.decisions import MOST_DECISIONS, Decision, Decisions
from servekit.testing.instances import ServedInstance, open_host, serve
from servekit.wire.control_frames import PluginRef
from servekit_weighted import WeightedSplit


class Drawing(RoutingPolicy):
    """A policy of a user: the default choice among replicas, and what that makes of it."""

    def __init__(self) -> None:
        self.finished: list[tuple[str, Outcome]] = []
        self.seen: list[list[str]] = []

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        self.seen.append([replica.id for backend in backends for replica in backend.replicas])
        return max(backends, key=lambda backend: (len(backend.replicas), backend.weight, backend.name))

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        return super().choose_replica(request, [r for r in replicas if r.node is not None and r.queue_length < 99])

    def request_finished(self, request: RequestInfo, replica: ReplicaView, outcome: Outcome) -> None:
        self.finished.append((replica.id, outcome))


@pytest.fixture(scope="module")
def host() -> Iterator[object]:
    with open_host("inprocess") as host:
        yield host


def body(served: ServedInstance, policy: Any = "weighted", options: Any = None) -> list[Decision]:
    """What a test might do: two backends with several replicas, requests, changes between them."""
    servekit.create_backend("a", lambda request: "a", config={"num_replicas": 5})
    servekit.create_backend("b", lambda request: "b", config={"num_replicas": 3})
    servekit.create_endpoint("e", "/e", policy=policy, policy_options=options)
    servekit.set_traffic("e", {"a": 0.5, "b": 0.5})
    for turn in range(20):
        assert served.client.get("/e", headers={"x-user": f"user{turn}" if turn % 2 else ""}).status_code == 200
    servekit.update_backend_config("a", {"num_replicas": 7})
    servekit.set_traffic("e", {"a": 0.9, "b": 0.1})
    for _ in range(20):
        served.client.get("/e")
    return served.decisions


def decided(host: object, seed: int | None, *arguments: Any) -> list[Decision]:
    with serve(host, seed=seed) as served:
        return body(served, *arguments)


# -- recorded ------------------------------------------------------------------------------------------------


def test_each_request_that_is_sent_is_a_decision(serve_instance: ServedInstance) -> None:
    assert serve_instance.decisions == []
    servekit.create_backend("a", lambda request: "a")
    servekit.create_backend("b", lambda request: "b")
    servekit.create_endpoint("one", "/one", backend="a")
    servekit.create_endpoint("two", "/two", backend="b")
    for number, path in enumerate(["/one", "/two", "/none", "/one"]):
        serve_instance.client.get(path, headers={"x-request-id": f"mine-{number}"})
    assert serve_instance.decisions == [
        Decision("one", "a", "r1", "any"),
        Decision("two", "b", "r2", "any"),
        Decision("one", "a", "r1", "any"),
    ]
    assert [decision.request_id for decision in serve_instance.decisions] == ["mine-0", "mine-1", "mine-3"]
    (replica,) = servekit.status()["backends"]["b"]["replicas"]
    assert replica["id"].startswith("r2")
    made = serve_instance.client.get("/two").headers["x-request-id"]
    assert serve_instance.decisions[-1].request_id == made


def test_a_decision_that_the_router_refuses_is_none(serve_instance: ServedInstance) -> None:
    class Absent(RoutingPolicy):
        def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
            return backends[0]

        def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
            return "nothing"  # type: ignore[return-value]

    servekit.create_backend("a", lambda request: "a")
    servekit.create_endpoint("e", "/e", policy=Absent(), backend="a")
    assert serve_instance.client.get("/e").status_code == 500
    assert serve_instance.decisions == []


def test_the_list_is_bounded(serve_instance: ServedInstance) -> None:
    decisions = serve_instance._decisions
    assert decisions is not None
    decisions._made.extend([Decision("e", "a", "r1", "old")] * MOST_DECISIONS)
    servekit.create_backend("a", lambda request: "a")
    servekit.create_endpoint("e", "/e", backend="a")
    serve_instance.client.get("/e", headers={"x-request-id": "new"})
    assert len(serve_instance.decisions) == MOST_DECISIONS
    assert serve_instance.decisions[-1].request_id == "new"


# -- seeded --------------------------------------------------------------------------------------------------

POLICIES: list[tuple[Any, dict[str, Any]]] = [
    ("weighted", {}),
    ("round_robin", {}),
    ("least_loaded", {}),
    ("random", {}),
    ("fixed_packing", {"k": 2}),
    ("header", {"rules": [{"header": "x-user", "value": "user1", "backend": "b"}]}),
    ("sticky", {"header": "x-user"}),
]
WITHOUT_CHANCE = {"round_robin", "least_loaded"}


@pytest.mark.parametrize(("policy", "options"), POLICIES, ids=[name for name, _ in POLICIES])
def test_the_same_seed_gives_the_same_decisions_and_another_others(host: object, policy: str, options: Any) -> None:
    first = decided(host, 7, policy, options)
    assert len(first) == 40
    assert decided(host, 7, policy, options) == first
    assert (decided(host, 8, policy, options) == first) == (policy in WITHOUT_CHANCE)


def test_without_a_seed_they_differ(host: object) -> None:
    assert decided(host, None, "random") != decided(host, None, "random")


def test_a_policy_of_ones_own_is_seeded_and_sees_views_without_chance(host: object) -> None:
    one, other = Drawing(), Drawing()
    state = random.getstate()
    decisions = decided(host, 7, one)
    assert decided(host, 7, other) == decisions
    assert decided(host, 8, Drawing()) != decisions
    assert random.getstate() == state, "the random numbers of the test and of its handlers are left alone"
    assert one.seen == other.seen
    assert one.seen[0] == [f"r{n}" for n in range(1, 9)]
    assert one.finished == [(decision.replica, Outcome.ANSWERED) for decision in decisions]


def test_a_seed_of_the_policys_own_stands(host: object) -> None:
    assert decided(host, 7, "random", {"seed": 3}) == decided(host, 8, "random", {"seed": 3})


def test_two_endpoints_draw_for_themselves(host: object) -> None:
    def two(asked: str) -> list[str]:
        with serve(host, seed=7) as served:
            servekit.create_backend("a", lambda request: "a", config={"num_replicas": 5})
            for name in "xy":
                servekit.create_endpoint(name, f"/{name}", backend="a")
            for name in asked:
                served.client.get(f"/{name}")
            return [decision.replica for decision in served.decisions if decision.endpoint == "x"]

    assert two("x" * 20) == two("xy" * 20) != two("y" * 20)


def test_a_seeded_policy_that_returns_what_it_was_not_given_is_refused(host: object) -> None:
    class Stubborn(RoutingPolicy):
        first: Any = None

        def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
            self.first = self.first or backends[0]
            chosen: BackendView = self.first
            return chosen

    with serve(host, seed=7) as served:
        for name in "ab":
            servekit.create_backend(name, lambda request: "")
        servekit.create_endpoint("e", "/e", policy=Stubborn(), backend="a")
        assert served.client.get("/e").status_code == 200
        servekit.set_traffic("e", {"b": 1.0})
        assert served.client.get("/e").status_code == 500


@pytest.mark.parametrize("seed", ["7", 7.0, True])
def test_a_seed_is_a_whole_number(host: object, seed: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"seed is {seed!r}"), serve(host, seed=seed):
        pass


@pytest.mark.servekit(seed=7)
class TestMarked:
    made: ClassVar[list[list[Decision]]] = []

    @pytest.mark.parametrize("turn", [0, 1])
    def test_the_marker_seeds(self, serve_instance: ServedInstance, turn: int) -> None:
        self.made.append(body(serve_instance))
        assert self.made[turn] == self.made[0]

    @pytest.mark.servekit(seed=8)
    def test_the_nearest_marker_has_the_last_word(self, serve_instance: ServedInstance) -> None:
        assert body(serve_instance) != self.made[0]


# -- the clock -----------------------------------------------------------------------------------------------


class Held:
    """Holds every call until ``opened`` has something in it."""

    def __init__(self, started: list[str], opened: list[str]) -> None:
        self.started = started
        self.opened = opened

    def __call__(self, request: Any) -> str:
        self.started.append(request.args["n"])
        until(lambda: bool(self.opened))
        return "answered"


class HeldCall:
    """Holds every call of a handle likewise."""

    def __init__(self, opened: list[str]) -> None:
        self.opened = opened

    def __call__(self, *_: Any) -> None:
        until(lambda: bool(self.opened))


@pytest.mark.servekit(virtual_clock=True)
def test_deadlines_pass_when_the_clock_is_advanced(serve_instance: ServedInstance) -> None:
    started: list[str] = []
    opened: list[str] = []
    servekit.create_backend("b", Held, started, opened)
    servekit.create_endpoint("e", "/e", backend="b", timeout_s=3600)
    servekit.create_endpoint("quick", "/quick", backend="b", timeout_s=30)
    clock = serve_instance.clock
    assert clock.time_s == 0.0

    def ask(path: str) -> httpx.Response:
        return serve_instance.client.get(path)

    with ThreadPoolExecutor() as pool:
        running = pool.submit(ask, "/e?n=1")
        until(lambda: started == ["1"])
        quick = pool.submit(ask, "/quick?n=2")
        until(lambda: len(serve_instance.decisions) == 2)
        clock.advance(29)
        assert not quick.done()
        clock.advance(2)
        late = quick.result(10)
        assert (late.status_code, "30 s" in late.text) == (504, True)
        assert (clock.time_s, running.done()) == (31.0, False)
        opened.append("now")
        assert running.result(10).text == "answered"
        clock.advance(3600)
        assert ask("/e?n=3").text == "answered", "the deadline of a new request is counted from now"
    assert started == ["1", "3"]


@pytest.mark.servekit(virtual_clock=True)
@pytest.mark.parametrize("connections", [1, 50])
def test_what_was_sent_before_the_clock_is_advanced_is_counted_from_before(
    serve_instance: ServedInstance, connections: int
) -> None:
    """However it was sent: by connections that the ingress has yet to accept, or with much to be read."""
    opened: list[str] = []
    config = {"max_queued_requests": 1000}
    servekit.create_backend("b", Held, [], opened, config=config)
    servekit.create_endpoint("e", "/e", ["GET", "POST"], backend="b", timeout_s=30)
    sent = [
        b"GET /e?n=0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /e?n=1 HTTP/1.1\r\nContent-Length: 150000\r\nHost: a\r\n\r\n",
    ]
    with contextlib.ExitStack() as clients:
        clients.callback(opened.append, "now")
        found = [clients.enter_context(serve_instance.connect()) for _ in range(connections)]
        for number, client in enumerate(found):
            client.settimeout(10)
            client.sendall(sent[0] if number % 2 == 0 else sent[1] + bytes(150_000))
        serve_instance.clock.advance(31)
        assert [client.recv(1000)[:12] for client in found] == [b"HTTP/1.1 504"] * connections


@pytest.mark.servekit(virtual_clock=True)
def test_what_a_handle_sent_before_the_clock_is_advanced_is_counted_from_before(serve_instance: ServedInstance) -> None:
    opened: list[str] = []
    servekit.create_backend("b", HeldCall, opened)
    servekit.create_endpoint("e", backend="b", timeout_s=30)
    handle = servekit.get_handle("e")
    try:
        for _ in range(3):  # The link is dialled for the first of them.
            future = handle.remote()
            serve_instance.clock.advance(31)
            with pytest.raises(DeadlineError):
                future.result(10)
    finally:
        opened.append("now")


@pytest.mark.servekit(virtual_clock=True)
@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1", None])
def test_the_clock_goes_forward_alone(serve_instance: ServedInstance, seconds: Any) -> None:
    with pytest.raises(InvalidInputError, match="advanced by 0 to 86400 s"):
        serve_instance.clock.advance(seconds)
    assert serve_instance.clock.time_s == 0.0


def test_without_the_marker_there_is_no_clock(serve_instance: ServedInstance) -> None:
    with pytest.raises(ServekitError, match=r"@pytest\.mark\.servekit\(virtual_clock=True\)"):
        _ = serve_instance.clock


@pytest.mark.parametrize("seed", [None, 3])
def test_the_policy_within_is_told_that_a_rollout_is_judged(seed: int | None) -> None:
    policy = Decisions(seed).policy(PluginRef("servekit_weighted:WeightedSplit"), lambda ref: WeightedSplit())
    assert [policy.draw_order(1), policy.draw_order(None)] == [DrawnUnit.REQUEST, DrawnUnit.NONE]

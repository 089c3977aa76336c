"""Requests while a roll-out is judged: which version each is for, which one answers, and what is counted for whom."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.ingress.test_callers import Dialled

from servekit.config import Autoscaling
from servekit.interfaces import BackendView, DrawnUnit, RequestInfo, RoutingPolicy
from servekit.tallies import DURATION_US, FINE_BOUNDS
from servekit.wire.control_frames import PluginRef, RolloutEntry
from servekit.wire.data_frames import UNKNOWN, Answer, Chunk, End, Invoke, Refusal
from servekit_weighted import HeaderRules, WeightedSplit

HALF = {"old": 0.5, "new": 0.5}
ROLLOUT = RolloutEntry(1, "old", "new", seed=5)
DOWN = {"num_replicas": 1}
"""Of a backend whose only replica is not there yet."""


class Scripted(RoutingPolicy):
    """Chooses the versions of the script, one after the other; where one is not there, the first."""

    def __init__(self) -> None:
        self.script: list[str] = []
        self.told: list[Any] = []
        self.choices: list[list[str]] = []

    def traffic_changed(self, weights: Mapping[str, float]) -> None:
        self.told.append(dict(weights))

    def draw_order(self, seed: int | None) -> DrawnUnit:
        self.told.append(None if seed is None else seed)
        return DrawnUnit.REQUEST

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        self.choices.append([backend.name for backend in backends])
        wanted = self.script.pop(0) if self.script else ""
        return next((backend for backend in backends if backend.name == wanted), backends[0])

    def close(self) -> None:
        self.told.append("closed")


class Rolling:
    """An endpoint with two versions, between which a roll-out is judged, and its own policy."""

    def __init__(self, world: Any) -> None:
        self.world = world
        world.policies["scripted"] = Scripted

    def begin(self, rollout: RolloutEntry | None = ROLLOUT, **fields: Any) -> Scripted:
        """The endpoint, with the roll-out. Returns its own policy."""
        values = {"weights": HALF, "policy": PluginRef("scripted"), "rollout": rollout, **fields}
        assert self.world.apply(self.world.endpoint(**values)) == ""
        policy: Scripted = self.world.built[-1]
        return policy

    def both(self, **fields: Any) -> Scripted:
        """Both versions have a replica, ``old1`` and ``new1``."""
        self.world.apply(*(self.world.backend(name, [f"{name}1"]) for name in HALF))
        return self.begin(**fields)

    @property
    def judged(self) -> dict[tuple[str, str], int]:
        """By version and how it went, the requests that were counted."""
        found = {}
        for key, slots in self.world.shared.tallies.slots.items():
            if key[0] == "judged":
                assert key[1] == "e"
                assert sum(slots[DURATION_US + 1 :]) == 0
                found[key[2], key[3]] = sum(slots[:DURATION_US])
        return found

    def send(self, version: str, **asked: Any) -> Any:
        """A request for which the policy chooses this version."""
        self.world.built[-1].script.append(version)
        return self.world.ask(**asked)

    def answer(self, replica: str, **answer: Any) -> Any:
        """Answer the last call that the replica was sent."""
        call = self.world.calls(replica)[-1]
        self.world.answer(replica, call, **answer)
        return call.request


@pytest.fixture
def rolling(world: Any) -> Rolling:
    return Rolling(world)


def side_of(request: Any) -> str:
    return dict(request.headers).get(b"x-servekit-side", b"").decode()


# -- what is counted -------------------------------------------------------------------------------------------------


def test_each_request_is_counted_for_its_version(rolling: Rolling) -> None:
    rolling.both()
    for version, status in (("old", 200), ("new", 404), ("new", 200), ("new", 500), ("old", 503)):
        rolling.send(version)
        rolling.answer(f"{version}1", status=status)
    assert rolling.judged == {("old", "ok"): 1, ("new", "ok"): 2, ("new", "error"): 1, ("old", "error"): 1}


def test_its_duration_is_counted(rolling: Rolling) -> None:
    rolling.both()
    asked = rolling.send("new")
    asked.exchange.received_at -= 2.0
    rolling.answer("new1")
    slots = rolling.world.shared.tallies.slots["judged", "e", "new", "ok"].tolist()
    assert 2_000_000 <= slots[DURATION_US] < 2_500_000
    (bucket,) = (at for at, count in enumerate(slots[:DURATION_US]) if count)
    assert FINE_BOUNDS[bucket - 1] < 2.1
    assert FINE_BOUNDS[bucket] > 2.0


def test_without_a_rollout_nothing_is(rolling: Rolling) -> None:
    rolling.both(rollout=None)
    rolling.send("new")
    rolling.answer("new1", status=500)
    assert rolling.judged == {}


def test_what_is_broken_off_is_an_error_and_so_is_a_client_that_does_not_wait(rolling: Rolling) -> None:
    rolling.both()
    rolling.send("new")
    number = rolling.world.calls("new1")[-1].id
    rolling.world.receive("new1", Answer(number, 200, b"", b"first", 0, 0, True, UNKNOWN))
    rolling.world.receive("new1", Chunk(number, b"second"), End(number, 0, 10_000, False))
    rolling.world.leave(rolling.send("old"))
    assert rolling.judged == {("new", "error"): 1, ("old", "error"): 1}


def test_what_is_overdue_is_an_error_of_the_version_that_has_it(rolling: Rolling) -> None:
    rolling.both(timeout_s=5.0)
    asked = rolling.send("new")
    rolling.world.loop.advance(6.0)
    assert asked.status == 504
    assert rolling.judged == {("new", "error"): 1}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_lost_replica_is_an_error_whoever_answers(rolling: Rolling, method: str) -> None:
    rolling.both()
    asked = rolling.send("new", method=method)
    rolling.world.lose("new1")
    if method == "GET":
        rolling.answer("old1")
    assert asked.answered
    assert rolling.judged == {("new", "error"): 1}


def test_a_replica_that_leaves_is_no_error(rolling: Rolling) -> None:
    policy = rolling.both()
    rolling.world.apply(rolling.world.backend("new", ["new1", "new2"]))
    asked = rolling.send("new")
    (sent,) = [name for name in ("new1", "new2") if rolling.world.calls(name)]
    rolling.world.receive(sent, Refusal(rolling.world.calls(sent)[0].id, "draining"))
    again = [name for name in ("new1", "new2") if len(rolling.world.calls(name)) > (name == sent)]
    rolling.answer(again[0])
    assert asked.status == 200
    assert rolling.judged == {("new", "ok"): 1}
    assert len(policy.choices) == 1, "the version stays the one that was chosen first"


# -- versions that cannot serve --------------------------------------------------------------------------------------


def test_a_candidate_without_a_replica_has_its_share_counted_against_it(rolling: Rolling) -> None:
    rolling.world.apply(rolling.world.backend("old", ["old1"]), rolling.world.backend("new", [], **DOWN))
    policy = rolling.begin()
    asked = rolling.send("new")
    rolling.answer("old1")
    assert asked.status == 200
    assert policy.choices == [["old", "new"]], "the only one that is left is not chosen"
    rolling.send("old")
    rolling.answer("old1")
    assert rolling.judged == {("new", "error"): 1, ("old", "ok"): 1}


def test_of_several_others_the_policy_chooses(rolling: Rolling) -> None:
    rolling.world.apply(
        *(rolling.world.backend(name, [f"{name}1"]) for name in ("old", "third")),
        rolling.world.backend("new", [], **DOWN),
    )
    policy = rolling.begin(weights={"old": 0.5, "new": 0.25, "third": 0.25})
    policy.script = ["new", "third"]
    rolling.world.ask()
    rolling.answer("third1")
    assert policy.choices == [["old", "new", "third"], ["old", "third"]]
    assert rolling.judged == {("new", "error"): 1}


def test_where_no_version_can_serve_nobody_is_counted(rolling: Rolling) -> None:
    rolling.world.apply(*(rolling.world.backend(name, [], max_queued_requests=0, **DOWN) for name in HALF))
    policy = rolling.begin()
    assert rolling.world.ask().status == 503
    assert policy.choices == []
    assert rolling.judged == {}


def test_a_request_that_waits_for_any_replica_gets_its_version_when_one_comes(rolling: Rolling) -> None:
    rolling.world.apply(*(rolling.world.backend(name, [], **DOWN) for name in HALF))
    policy = rolling.begin()
    policy.script = ["new"]
    asked = rolling.world.ask()
    rolling.world.apply(rolling.world.backend("new", ["new1"]))
    rolling.answer("new1")
    assert asked.status == 200
    assert rolling.judged == {("new", "ok"): 1}


def test_a_version_that_was_scaled_down_to_nothing_is_not_blamed(rolling: Rolling) -> None:
    scaled = {"num_replicas": 0, "autoscaling": Autoscaling(min_replicas=0, max_replicas=2)}
    rolling.world.apply(rolling.world.backend("old", ["old1"]), rolling.world.backend("new", [], **scaled))
    rolling.begin()
    rolling.send("new")
    rolling.answer("old1")
    assert rolling.judged == {}


def test_a_strict_endpoint_counts_the_share_that_fails(rolling: Rolling) -> None:
    rolling.world.apply(rolling.world.backend("old", ["old1"]), rolling.world.backend("new", [], **DOWN))
    policy = rolling.begin(strict=True)
    assert rolling.send("new").status == 503
    assert rolling.judged == {("new", "error"): 1}
    assert policy.choices == [["old", "new"]]


# -- its beginning and its end ---------------------------------------------------------------------------------------


def test_the_policy_stays_from_before_the_rollout_to_after_it(rolling: Rolling) -> None:
    policy = rolling.both(rollout=None)
    rolling.begin(weights={"old": 0.9, "new": 0.1})
    rolling.begin(weights={"old": 0.5, "new": 0.5})
    rolling.begin(rollout=None, weights={"new": 1.0})
    seed = policy.told[1]
    assert isinstance(seed, int)
    assert policy.told == [HALF, seed, {"old": 0.9, "new": 0.1}, HALF, None, {"new": 1.0}]
    assert rolling.world.policy() is policy
    assert len(rolling.world.built) == 1


def test_each_worker_draws_another_order_and_the_same_in_each_run(rolling: Rolling) -> None:
    seeds = []
    for worker in ("ingress1", "ingress2", "ingress1"):
        rolling.world.applier._worker = worker
        rolling.both(rollout=None)
        seeds.append(rolling.both().told[-2])
    assert seeds[0] == seeds[2] != seeds[1]


def test_an_endpoint_that_is_there_from_the_first_with_a_rollout(rolling: Rolling) -> None:
    policy = rolling.both()
    assert policy.told[1:] == [HALF]
    rolling.world.apply(gone=["endpoint:e"])
    assert policy.told[-1] == "closed"


def test_a_request_under_way_is_counted_as_shares_change_and_not_in_another_rollout(rolling: Rolling) -> None:
    rolling.both()
    rolling.send("new")
    rolling.begin(weights={"old": 0.1, "new": 0.9})
    rolling.answer("new1")
    assert rolling.judged == {("new", "ok"): 1}
    rolling.send("new")
    rolling.begin(rollout=RolloutEntry(2, "old", "new", seed=6))
    rolling.answer("new1")
    assert rolling.judged == {("new", "ok"): 1}


def test_nothing_is_held_of_requests_that_have_ended(rolling: Rolling) -> None:
    rolling.both(timeout_s=5.0)
    rolling.send("new")
    rolling.answer("new1")
    rolling.world.leave(rolling.send("old"))
    rolling.send("old")
    rolling.send("new")
    rolling.world.lose("new1")
    rolling.world.loop.advance(6.0)
    assert not rolling.world.router.endpoints["e"].judged._versions


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_each_request_is_counted_once(rolling: Rolling, seed: int) -> None:
    """For the version that was chosen first."""
    draw, world = random.Random(seed), rolling.world
    rolling.both(timeout_s=5.0)
    chosen: Counter[str] = Counter()
    for number in range(60):
        version = draw.choice(["old", "new"])
        asked = rolling.send(version)
        chosen[version] += 1
        ending = draw.choice(["answer", "answer", "fails", "leave", "lose", "late"])
        replica = asked.exchange.replica
        call = world.calls(replica.id)[-1]
        if ending == "leave":
            world.leave(asked)
        elif ending == "late":
            world.loop.advance(6.0)
        elif ending == "lose":
            world.lose(replica.id)
            world.apply(world.backend(version, [f"{version}{number + 2}"]))
            replica = asked.exchange.replica
            call = world.calls(replica.id)[-1]
        world.answer(replica.id, call, status=500 if ending == "fails" else 200)
    counted: Counter[str] = Counter()
    for (version, _), requests in rolling.judged.items():
        counted[version] += requests
    assert counted == chosen
    assert not world.router.endpoints["e"].judged._versions


def test_a_policy_that_fails_gives_a_500_and_no_count(rolling: Rolling) -> None:
    policy = rolling.both()
    policy.choose_backend = lambda request, backends: "old"  # type: ignore[method-assign,assignment,return-value]
    assert rolling.world.ask().status == 500
    assert rolling.judged == {}


def test_two_choices_need_no_call_of_a_policy_that_leaves_replicas_to_them(rolling: Rolling) -> None:
    rolling.both()
    endpoint = rolling.world.router.endpoints["e"]
    assert (endpoint.picks_replica, endpoint.watches) == (False, False)


def test_the_policy_is_told_how_requests_end(rolling: Rolling) -> None:
    rolling.both(policy=PluginRef("first"))
    rolling.world.ask()
    rolling.answer("old1")
    assert [replica for _, replica, _ in rolling.world.built[-1].finished] == ["old1"]


@pytest.mark.parametrize("make", [WeightedSplit, lambda: HeaderRules([{"header": "x-b", "backend": "new"}])])
def test_the_split_is_as_exact_as_before(rolling: Rolling, make: Any) -> None:
    rolling.world.policies["split"] = make
    rolling.both(policy=PluginRef("split"), weights={"old": 0.9, "new": 0.1})
    for _ in range(50):
        asked = rolling.world.ask()
        rolling.answer("new1" if asked.exchange.backend == "new" else "old1")
    assert rolling.judged == {("old", "ok"): 45, ("new", "ok"): 5}


# -- versions that are named -----------------------------------------------------------------------------------------


def test_a_tester_names_a_version_and_is_not_counted(rolling: Rolling) -> None:
    policy = rolling.both(rollout=RolloutEntry(1, "old", "new", 5, header=True))
    for version in ("new", "old", "new"):
        rolling.world.ask(headers=[("x-servekit-version", version)])
        rolling.answer(f"{version}1", status=500)
    assert rolling.judged == {}
    assert policy.choices == []
    rolling.send("new", headers=[("x-servekit-version", "third")])
    rolling.answer("new1")
    assert rolling.judged == {("new", "ok"): 1}


def test_nobody_does_where_that_is_off(rolling: Rolling) -> None:
    rolling.both()
    rolling.send("old", headers=[("x-servekit-version", "new")])
    rolling.answer("old1")
    assert rolling.judged == {("old", "ok"): 1}


# -- sides -----------------------------------------------------------------------------------------------------------

PROPAGATES = RolloutEntry(1, "old", "new", 5, header=True, propagate=True)


def test_the_replica_is_told_its_side(rolling: Rolling) -> None:
    rolling.both(rollout=PROPAGATES)
    rolling.send("new", headers=[("x-servekit-side", "baseline"), ("x", "1")])
    assert rolling.answer("new1").headers == [(b"x", b"1"), (b"x-servekit-side", b"candidate")]
    rolling.send("new")
    rolling.world.lose("new1")
    assert side_of(rolling.answer("old1")) == "baseline"
    rolling.world.ask(headers=[("x-servekit-version", "old")])
    assert side_of(rolling.answer("old1")) == "baseline;named"


def test_no_client_names_its_side(rolling: Rolling) -> None:
    rolling.both()
    rolling.send("old", headers=[("x-servekit-side", "candidate")])
    assert side_of(rolling.answer("old1")) == ""
    rolling.begin(rollout=None)
    rolling.send("old", headers=[("x-servekit-side", "candidate")])
    assert side_of(rolling.answer("old1")) == ""
    assert rolling.judged == {("old", "ok"): 1}


@pytest.mark.parametrize(
    ("side", "answers", "counted"),
    [
        (b"candidate", "new1", {("new", "ok"): 1}),
        (b"baseline", "old1", {("old", "ok"): 1}),
        (b"candidate;named", "new1", {}),
        (b"other", "old1", {("old", "ok"): 1}),
    ],
)
def test_a_handles_call_keeps_to_its_side(rolling: Rolling, side: bytes, answers: str, counted: Any) -> None:
    rolling.both()
    Dialled(rolling.world).receive(Invoke(1, "e", b"", chain=("r9",), headers=((b"x-servekit-side", side),)))
    assert side_of(rolling.answer(answers)).encode() == side
    assert rolling.judged == counted


def test_a_side_without_a_share_is_no_side(rolling: Rolling) -> None:
    rolling.both(weights={"old": 1.0})
    Dialled(rolling.world).receive(Invoke(1, "e", b"", chain=("r9",), headers=((b"x-servekit-side", b"candidate"),)))
    rolling.answer("old1")
    assert Counter(rolling.judged) == {("old", "ok"): 1}

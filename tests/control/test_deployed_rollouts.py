"""Roll-outs that deploys ask for: pure functions of the desired state."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.control.test_deploys import RUNTIME, actions, backend, changes, done, endpoint, plan, wanted

from servekit.control.deployed_rollouts import options_of
from servekit.control.deploys import Wanted, plan_deploy
from servekit.control.rollout import promoted, rolled_back
from servekit.control.rollout_changes import put_rollout
from servekit.control.state import BackendRecord, Desired
from servekit.control.tables import RolloutTable, endpoint_table, in_file
from servekit.errors import InUseError, InvalidInputError
from servekit.wire.control_frames import EndpointRecord

KEYS = RolloutTable(steps=(0.25, "gate", 1.0), hold_s=5.0)


def to_b(*records: BackendRecord | EndpointRecord, keys: RolloutTable = KEYS) -> Wanted:
    """That ``e`` goes over to ``b`` by a roll-out."""
    found = wanted(*(records or (backend("a", 1), backend("b"))), endpoint("e", b=1.0))
    return msgspec.structs.replace(found, rollouts={"e": options_of("e", keys, {"b": 1.0})})


@pytest.fixture
def by_a() -> Desired:
    return done(Desired(), plan(Desired(), backend("a", 1), endpoint("e", a=1.0)))


def test_a_deploy_begins_a_roll_out_in_the_place_of_a_change_of_traffic(by_a: Desired) -> None:
    deploy = plan_deploy(by_a, to_b(), RUNTIME)
    assert actions(deploy) == ["create b", "rollout e"]
    assert changes(deploy) == {
        "backends.b.target": (None, "model:Model"),
        "backends.b.code": (None, "c1"),
        "endpoints.e.traffic.a": (1.0, None),
        "endpoints.e.traffic.b": (None, 1.0),
        "endpoints.e.rollout.steps": (None, [0.25, "gate", 1.0]),
        "endpoints.e.rollout.hold_s": (None, 5.0),
        "endpoints.e.rollout.judge": (None, "sequential"),
    }
    begun = done(by_a, deploy)
    assert begun.endpoints["e"].traffic == {"a": 1.0}
    rollout = begun.rollouts["e"]
    assert (rollout.baseline, rollout.candidate, rollout.state) == ("a", "b", "waiting")
    assert begun.history == by_a.history
    # The same again has nothing to do, at no step and not at the end.
    for step in range(3):
        at_step = put_rollout(begun, msgspec.structs.replace(rollout, state="holding", step=step - 1))
        assert plan_deploy(at_step, to_b(), RUNTIME).steps == []
    over = put_rollout(begun, promoted(rollout, 9.0, "as good"))
    assert over.endpoints["e"].traffic == {"b": 1.0}
    assert actions(plan_deploy(over, to_b(), RUNTIME)) == []
    assert actions(plan_deploy(over, to_b(backend("b")), RUNTIME)) == ["remove a"]


def test_one_that_was_rolled_back_is_begun_again_and_says_so(by_a: Desired) -> None:
    begun = done(by_a, plan_deploy(by_a, to_b(), RUNTIME))
    over = put_rollout(begun, rolled_back(begun.rollouts["e"], 9.0, "9 of 10 failed"))
    (step,) = plan_deploy(over, to_b(), RUNTIME).steps
    assert (step.action, step.undoes) == ("rollout", "the last roll-out to 'b' was rolled back: 9 of 10 failed")


def test_where_nothing_else_serves_there_is_no_roll_out(by_a: Desired) -> None:
    first = plan_deploy(Desired(), to_b(), RUNTIME)
    assert actions(first) == ["create a", "create b", "create e"]
    done_first = done(Desired(), first)
    assert (done_first.endpoints["e"].traffic, done_first.rollouts) == ({"b": 1.0}, {})
    without = done(by_a, plan(by_a, backend("a", 1), endpoint("e")))
    assert actions(plan_deploy(without, to_b(), RUNTIME)) == ["create b", "traffic e"]


def test_options_of_the_endpoint_change_at_once(by_a: Desired) -> None:
    both = to_b()
    both = msgspec.structs.replace(both, endpoints={"e": endpoint("e", timeout_s=9, b=1.0)})
    deploy = plan_deploy(by_a, both, RUNTIME)
    assert actions(deploy) == ["create b", "change e", "rollout e"]
    after = done(by_a, deploy)
    assert (after.endpoints["e"].options.timeout_s, after.endpoints["e"].traffic) == (9, {"a": 1.0})
    assert after.rollouts["e"].state == "waiting"


def test_a_roll_out_that_cannot_be_is_refused_by_the_plan(by_a: Desired) -> None:
    split = done(Desired(), plan(Desired(), backend("a", 1), backend("b"), endpoint("e", a=0.5, b=0.5)))
    with pytest.raises(InvalidInputError, match=r"'e' is split between 'a', 'b': a roll-out to 'b' begins from one"):
        plan_deploy(split, to_b(), RUNTIME)
    with pytest.raises(InUseError, match=r"until its roll-out to 'b' has ended.* keep \[backends.a\] in the file"):
        plan_deploy(by_a, to_b(backend("b")), RUNTIME)
    begun = done(by_a, plan_deploy(by_a, to_b(), RUNTIME))
    with pytest.raises(InUseError, match=r"keep \[backends.a\]"):
        plan_deploy(begun, to_b(backend("b")), RUNTIME)
    other = RolloutTable(steps=(0.5, 1.0))
    with pytest.raises(InUseError, match="has a roll-out from 'a' to 'b' under way"):
        plan_deploy(begun, to_b(keys=other), RUNTIME)


@pytest.mark.parametrize("traffic", [None, {}, {"a": 0.5, "b": 0.5}])
def test_a_roll_out_leads_to_one_backend(traffic: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"endpoint 'e': a roll-out leads to one backend"):
        options_of("e", KEYS, traffic)
    with pytest.raises(InvalidInputError, match=r"endpoint 'e': rollout: the last step is 1.0"):
        options_of("e", RolloutTable(steps=(0.5,)), {"b": 1.0})


def test_an_export_under_a_roll_out_has_the_traffic_in_force_and_no_table(by_a: Desired) -> None:
    begun = done(by_a, plan_deploy(by_a, to_b(), RUNTIME))
    at_step = put_rollout(begun, msgspec.structs.replace(begun.rollouts["e"], state="holding", step=0))
    said = in_file("endpoints", "e", endpoint_table(at_step.endpoints["e"]))
    assert said == {"route": "/e", "traffic": {"a": 0.75, "b": 0.25}}

"""What roll-outs change of the desired state, and what they forbid."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from servekit.control import state
from servekit.control.changes import changes_of
from servekit.control.rollout import Facts, Rollout, RolloutOptions, in_force, next_state, promoted, rolled_back
from servekit.control.rollout_changes import begin_rollout, check_change, check_parts, kept_warm, move_rollout
from servekit.control.state import Desired
from servekit.errors import InUseError, InvalidInputError, NotFoundError
from servekit.wire.control_frames import ShadowEntry

OPTIONS = RolloutOptions(to="b", steps=(0.25, 1.0), keep_warm_s=300.0)


@pytest.fixture
def served(make: Any) -> Desired:
    desired: Desired = make.desired(
        make.endpoint(traffic={"a": 1.0}), make.backend("a"), make.backend("b"), make.backend("c")
    )
    return desired


@pytest.fixture
def begun(served: Desired) -> Desired:
    return begin_rollout(served, "e", OPTIONS, 10.0, "me")


def first_step(rollout: Rollout) -> Rollout:
    return in_force(next_state(rollout, Facts(11.0, is_ready=True)), 11.0)


def test_its_beginning_changes_no_traffic(served: Desired, begun: Desired) -> None:
    assert begun.endpoints["e"] == served.endpoints["e"]
    moved = move_rollout(begun, "e", first_step)
    assert moved.endpoints["e"].traffic == {"a": 0.75, "b": 0.25}
    entry = moved.endpoints["e"].rollout
    assert entry is not None
    assert (entry.baseline, entry.candidate, entry.number) == ("a", "b", 1)
    over = move_rollout(moved, "e", lambda rollout: promoted(rollout, 20.0, "as good"))
    assert (over.endpoints["e"].traffic, over.endpoints["e"].rollout) == ({"b": 1.0}, None)
    again = begin_rollout(over, "e", msgspec.structs.replace(OPTIONS, to="a"), 30.0)
    assert (again.rollouts["e"].number, again.rollouts["e"].baseline) == (2, "b")


@pytest.mark.parametrize(
    ("endpoint", "to", "error", "reason"),
    [
        ("f", "b", NotFoundError, "no endpoint 'f'"),
        ("e", "d", NotFoundError, "no backend 'd'"),
        ("e", "a", InvalidInputError, "has backend 'a' already"),
        ("none", "b", InvalidInputError, "has no traffic"),
        ("split", "b", InvalidInputError, "is split between 'a', 'c'"),
    ],
)
def test_what_cannot_begin(make: Any, served: Desired, endpoint: str, to: str, error: Any, reason: str) -> None:
    for name, traffic in (("none", {}), ("split", {"a": 0.5, "c": 0.5})):
        served = state.add_endpoint(served, make.endpoint(name, route=f"/{name}", traffic=traffic))
    with pytest.raises(error, match=reason):
        begin_rollout(served, endpoint, msgspec.structs.replace(OPTIONS, to=to), 10.0)


def test_one_at_a_time(begun: Desired) -> None:
    with pytest.raises(InUseError, match="has a roll-out from 'a' to 'b' under way"):
        begin_rollout(begun, "e", msgspec.structs.replace(OPTIONS, to="c"), 10.0)
    ended = move_rollout(begun, "e", lambda rollout: rolled_back(rollout, 11.0, "worse"))
    with pytest.raises(NotFoundError, match=r"no roll-out under way; the last one, to 'b', was rolled back"):
        move_rollout(ended, "e", first_step)


def test_what_it_relies_on_stays(make: Any, begun: Desired) -> None:
    refused = [
        state.set_traffic(begun, "e", {"a": 0.5, "b": 0.5}),
        state.remove_backend(begun, "b"),
        state.replace_backend(begun, make.backend("a", revision=2)),
    ]
    for after in refused:
        with pytest.raises(InUseError, match="abort_rollout"):
            check_change(begun, after)
    with pytest.raises(InUseError, match="'b' is the candidate in a roll-out of endpoint 'e'"):
        check_parts(begun, ["c", "b"])


def test_all_else_goes_on(make: Any, begun: Desired) -> None:
    record = begun.backends["a"]
    more = msgspec.structs.replace(record, config=msgspec.structs.replace(record.config, num_replicas=3))
    for after in (
        state.replace_backend(begun, more),
        state.replace_backend(begun, msgspec.structs.replace(record, revision=2, repeats=1)),
        state.remove_backend(begun, "c"),
        state.add_endpoint(begun, make.endpoint("f", route="/f", traffic={"b": 1.0})),
    ):
        assert check_change(begun, after) is after
    assert check_change(begun, state.remove_endpoint(begun, "e")).rollouts == {}
    ended = move_rollout(begun, "e", lambda rollout: rolled_back(rollout, 11.0, "worse"))
    after = state.set_traffic(ended, "e", {"b": 1.0})
    assert check_change(ended, after) is after


def test_each_step_is_one_event(begun: Desired, served: Desired) -> None:
    def kinds(before: Desired, after: Desired) -> list[str]:
        return [change.kind for change in changes_of(before, after)]

    assert kinds(served, begun) == ["rollout_began"]
    advancing = move_rollout(begun, "e", lambda rollout: next_state(rollout, Facts(11.0, is_ready=True)))
    assert kinds(begun, advancing) == ["traffic_set", "rollout_advanced"]
    holding = move_rollout(advancing, "e", lambda rollout: in_force(rollout, 11.0))
    assert kinds(advancing, holding) == []
    over = move_rollout(holding, "e", lambda rollout: rolled_back(rollout, 12.0, "9 of 10 failed"))
    assert kinds(holding, over) == ["traffic_set", "rollout_rolled_back"]
    assert changes_of(holding, over)[-1].text == (
        "the roll-out of endpoint e from a to b has ended: the old version has all requests again: 9 of 10 failed"
    )


def test_the_old_version_is_kept_warm_for_a_while(begun: Desired) -> None:
    over = move_rollout(
        begun, "e", lambda rollout: msgspec.structs.replace(promoted(rollout, 20.0, "good"), warm_replicas=3)
    )
    assert kept_warm({"a": 0, "b": 2}, over, 319.0) == {"a": 3, "b": 2}
    assert kept_warm({"a": 0, "b": 2}, over, 320.0) == {"a": 0, "b": 2}
    assert kept_warm({"b": 2}, over, 20.0) == {"b": 2}, "it does not autoscale"
    assert kept_warm({"a": 0}, begun, 20.0) == {"a": 0}


def test_a_shadow_may_be_set_and_stopped_meanwhile_and_ends_where_it_is_promoted(begun: Desired) -> None:
    shadow = ShadowEntry("b", 0.1)
    record = msgspec.structs.replace(begun.endpoints["e"], shadow=shadow)
    shadowed = msgspec.structs.replace(begun, endpoints={**begun.endpoints, "e": record})
    assert check_change(begun, shadowed) is shadowed
    assert check_change(shadowed, begun) is begun
    over = move_rollout(shadowed, "e", lambda rollout: promoted(rollout, 20.0, "good"))
    assert over.endpoints["e"].shadow is None
    back = move_rollout(shadowed, "e", lambda rollout: rolled_back(rollout, 20.0, "bad"))
    assert back.endpoints["e"].shadow == shadow

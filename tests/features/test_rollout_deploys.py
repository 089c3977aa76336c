"""A deploy from a file that begins a roll-out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from servekit.errors import InUseError, InvalidInputError, UnknownPluginError
from servekit.testing.instances import ServedInstance

pytestmark = pytest.mark.servekit(virtual_clock=True)

MODULE = """
from servekit.interfaces import Ruling, RolloutJudge, Verdict

class Lenient(RolloutJudge):
    def judge(self, baseline, candidate, elapsed_s):
        return Verdict(Ruling.NO_WORSE, "as good")

class Strict(Lenient):
    reports = ("accuracy",)

def v1(request):
    return "one"

def v2(request):
    return "two"
"""
ROLLOUT = {"steps": [0.5, 1.0], "hold_s": 30, "judge": "rolled_from_a_file:Lenient"}


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rolled_from_a_file.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def tables(to: str, *backends: str, **rollout: Any) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"route": "/e", "traffic": {to: 1.0}}
    if rollout:
        endpoint["rollout"] = rollout
    return {
        "endpoints": {"e": endpoint},
        "backends": {name: {"target": f"rolled_from_a_file:{name}"} for name in backends},
    }


def state_of(served: ServedInstance) -> str:
    return str(served.status()["rollouts"]["e"]["state"])


def test_a_file_says_how_traffic_goes_to_its_backend(serve_instance: ServedInstance) -> None:
    served = serve_instance
    served.apply(served.plan(tables("v1", "v1")))
    plan = served.plan(tables("v2", "v1", "v2", **ROLLOUT))
    assert [(step.action, step.name) for step in plan.steps] == [("create", "v2"), ("rollout", "e")]
    assert str(plan).endswith(
        "~ endpoint e: rolls out, step by step\n"
        "    traffic.v1: 1.0 → none\n"
        "    traffic.v2: none → 1.0\n"
        "    rollout.steps: none → [0.5, 1.0]\n"
        "    rollout.hold_s: none → 30.0\n"
        '    rollout.judge: none → "rolled_from_a_file:Lenient"'
    )
    served.apply(plan)
    assert (state_of(served), served.get_traffic("e")) == ("waiting", {"v1": 1.0})
    assert served.plan(tables("v2", "v1", "v2", **ROLLOUT)).steps == []
    served.clock.advance(20)
    assert (state_of(served), served.get_traffic("e")) == ("holding", {"v1": 0.5, "v2": 0.5})
    assert served.plan(tables("v2", "v1", "v2", **ROLLOUT)).steps == []
    for other in (tables("v2", "v1", "v2"), tables("v1", "v1", "v2")):
        with pytest.raises(InUseError, match="abort_rollout"):
            served.plan(other)
    served.clock.advance(30)
    assert (state_of(served), served.get_traffic("e")) == ("promoted", {"v2": 1.0})
    assert served.plan(tables("v2", "v1", "v2", **ROLLOUT)).steps == []
    served.apply(served.plan(tables("v2", "v2", **ROLLOUT)))
    assert list(served.list_backends()) == ["v2"]


def test_what_is_wrong_with_it_is_said_by_the_plan(serve_instance: ServedInstance) -> None:
    served = serve_instance
    served.apply(served.plan(tables("v1", "v1")))
    with pytest.raises(InvalidInputError, match=r"endpoint 'e': rollout: a step is a share .*10 % is 0.1"):
        served.plan(tables("v2", "v1", "v2", steps=[10, 1.0]))
    with pytest.raises(InUseError, match=r"keep \[backends.v1\] in the file"):
        served.plan(tables("v2", "v2", **ROLLOUT))
    with pytest.raises(UnknownPluginError, match="nobody"):
        served.plan(tables("v2", "v1", "v2", judge="nobody"))
    with pytest.raises(InvalidInputError, match="looks at 'accuracy', which backend 'v1' has not reported"):
        served.plan(tables("v2", "v1", "v2", judge="rolled_from_a_file:Strict"))
    assert served.status()["rollouts"] == {}


def test_a_plan_with_a_roll_out_is_kept_in_a_file(serve_instance: ServedInstance, tmp_path: Path) -> None:
    served = serve_instance
    served.apply(served.plan(tables("v1", "v1")))
    plan = served.plan(tables("v2", "v1", "v2", **ROLLOUT))
    plan.save(tmp_path / "kept.plan")
    served.apply(type(plan).load(tmp_path / "kept.plan"))
    assert served.status()["rollouts"]["e"]["steps"] == [0.5, 1.0]

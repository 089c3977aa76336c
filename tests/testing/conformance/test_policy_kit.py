"""The kit for routing policies fails what is broken, and says what is wrong with it."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.testing.conformance.broken_policies import (
    AsksAndShrugs,
    Awaited,
    ByName,
    ByPosition,
    CloseNeedsARequest,
    CountsForEver,
    CountsOnThree,
    DividesByTheSum,
    Drawn,
    DrawsAndSaysNothing,
    DrawsEvenly,
    DrawsForEver,
    Empties,
    EveryOtherIsTheOtherWayRound,
    ForgetsWhoIsGone,
    KeepsOneView,
    KeepsReplicas,
    KeepsViews,
    KnowsThreeEndings,
    LooksAtReplicas,
    NeedsAHeader,
    ReadsAFile,
    ReadsTheFirstLetter,
    SharesItsCounts,
    SharesItsTurn,
    Sleeps,
    SometimesNone,
    Sorts,
    Unlike,
    WritesRoundTheBack,
    WritesToAView,
    WritesToHeaders,
    WritesToTheWeights,
)

from servekit.interfaces import BackendView, RequestInfo
from servekit.testing.conformance import FakeBackend, FakeReplica, FakeRequest, RoutingPolicyTests, fake_backends

WEIGHTS = "test_weights_are_honoured"
RESET = "test_weights_are_honoured_from_the_moment_they_are_set"
ANYTHING = "test_whatever_happens_choices_are_among_those_given"
CHANGING = "test_one_backend_then_many_then_one"
GONE = "test_what_has_weight_0_is_removed_or_not_ready_gets_nothing"
NO_TRAFFIC = "test_an_endpoint_may_have_no_traffic_at_first"
UNUSED = "test_an_endpoint_that_never_had_a_request_is_closed"
STRICT = "test_a_strict_endpoint_lists_backends_without_replicas"
ODD = "test_any_request_is_given_a_place"
ENDINGS = "test_a_request_may_end_in_any_way"
APART = "test_two_endpoints_share_nothing"
SAME = "test_the_same_calls_get_the_same_choices"
BLOCKING = "test_nothing_blocks"
JUDGED = "test_weights_are_honoured_while_a_rollout_is_judged"
CASES = {
    WEIGHTS,
    RESET,
    JUDGED,
    ANYTHING,
    CHANGING,
    GONE,
    NO_TRAFFIC,
    UNUSED,
    STRICT,
    ODD,
    ENDINGS,
    APART,
    SAME,
    BLOCKING,
}


def kit_for(factory: Callable[[], Any], **claims: Any) -> RoutingPolicyTests:
    attributes = {"tolerance": None, "max_examples": 50, **claims, "make_policy": lambda self: factory()}
    kit: RoutingPolicyTests = type("Kit", (RoutingPolicyTests,), attributes)()
    return kit


def failure_of(kit: RoutingPolicyTests, case: str) -> str:
    with pytest.raises(AssertionError) as raised:
        getattr(kit, case)()
    return str(raised.value)


def test_the_names_of_the_cases() -> None:
    assert {name for name in dir(RoutingPolicyTests) if name.startswith("test_")} == CASES


@pytest.mark.parametrize("case", sorted(CASES - {SAME}))
def test_a_right_policy_passes(case: str) -> None:
    getattr(kit_for(Drawn), case)()


ONLY_ONE = Drawn()
EXACT = {"tolerance": 1.0}
SAID = [
    (ByPosition, {}, WEIGHTS, "the weights are not honoured: of 2500 requests since traffic_changed backend 'a' of"),
    (Drawn, EXACT, WEIGHTS, "give or take 1 were due"),
    (CountsForEver, EXACT, RESET, "the weights are not honoured: of"),
    (KeepsOneView, {"tolerance": math.inf}, CHANGING, "choose_backend returned an earlier view of 'a': return one of"),
    (KeepsViews, {}, GONE, "choose_backend returned backend 'a', which has no traffic: its weight is 0, or it was rem"),
    (KeepsViews, {}, ANYTHING, "choose_backend returned backend"),
    (KeepsReplicas, {}, GONE, "which is not ready, has no room or is another backend's"),
    (KeepsReplicas, {}, ANYTHING, "choose_replica returned replica"),
    (CountsOnThree, {}, ANYTHING, "choose_replica raised IndexError: list index out of range: it must not raise"),
    (ByName, {}, CHANGING, "choose_backend returned 'a': it must return one of the views"),
    (Awaited, {}, CHANGING, "choose_backend returned a coroutine: policies are called, not awaited"),
    (ReadsTheFirstLetter, {}, ODD, "choose_backend raised IndexError: string index out of range"),
    (NeedsAHeader, {}, ODD, "choose_replica raised KeyError: 'x-shard'"),
    (
        SharesItsCounts,
        {"tolerance": 2.0},
        APART,
        "not honoured beside another endpoint's policy, though they are alone",
    ),
    (
        SharesItsTurn,
        {"tolerance": 3.0, "deterministic_backends": True},
        APART,
        "(is something kept in the class or the module?",
    ),
    (lambda: ONLY_ONE, {}, APART, "make_policy returned the same object twice"),
    (DividesByTheSum, {}, NO_TRAFFIC, "traffic_changed raised ZeroDivisionError"),
    (WritesToTheWeights, {}, CHANGING, "traffic_changed wrote to the weights"),
    (LooksAtReplicas, {}, STRICT, "choose_backend raised ValueError"),
    (KnowsThreeEndings, {}, ENDINGS, "request_finished raised KeyError"),
    (ForgetsWhoIsGone, {}, ENDINGS, "request_finished raised KeyError"),
    (CloseNeedsARequest, {}, UNUSED, "close raised AttributeError"),
    (
        EveryOtherIsTheOtherWayRound,
        {"deterministic_backends": True},
        SAME,
        "the same calls got different choices: choi",
    ),
    (SometimesNone, {}, ANYTHING, "choose_backend returned None: it must return one of the views"),
    (
        Unlike,
        {"deterministic_backends": True},
        APART,
        "it chooses otherwise beside another endpoint's policy than alone",
    ),
    (Drawn, {"deterministic_replicas": True}, SAME, "the same calls got different choices: choice "),
    (Sorts, {}, CHANGING, "choose_backend changed the list that it was given"),
    (Empties, {}, CHANGING, "choose_replica changed the list that it was given"),
    (WritesToAView, {}, CHANGING, "choose_replica wrote to a view (cannot assign to field 'outstanding')"),
    (WritesRoundTheBack, {}, CHANGING, "choose_replica wrote to a view that it was given"),
    (WritesToHeaders, {}, CHANGING, "choose_backend raised TypeError: 'mappingproxy' object does not support"),
    (DrawsAndSaysNothing, {}, JUDGED, "draw_order returned None: it must return a DrawnUnit"),
    (DrawsEvenly, {}, JUDGED, "the weights are not honoured while a roll-out is judged: of 2500 requests"),
    (DrawsForEver, {}, JUDGED, "the weights are not honoured: of 2500 requests"),
    (Sleeps, {}, BLOCKING, "it called time.sleep, which blocks"),
    (AsksAndShrugs, {}, BLOCKING, "it called socket.connect, which blocks"),
    (ReadsAFile, {}, BLOCKING, "it called open, which blocks"),
    (
        lambda: "weighted",
        {},
        CHANGING,
        "make_policy returned 'weighted', which is no servekit.interfaces.RoutingPolicy",
    ),
]


@pytest.mark.parametrize(
    ("factory", "claims", "case", "said"),
    [pytest.param(*row, id=f"{getattr(row[0], '__name__', '')}-{row[2]}") for row in SAID],
)
def test_a_broken_policy_fails_with_what_is_wrong(
    factory: Callable[[], Any], claims: dict[str, Any], case: str, said: str
) -> None:
    assert said in failure_of(kit_for(factory, **claims), case)


def test_a_failure_shows_the_calls_that_led_to_it() -> None:
    lines = failure_of(kit_for(KeepsOneView), CHANGING).splitlines()
    assert lines[0].startswith("KeepsOneView: choose_backend returned an earlier view of 'a'")
    assert lines[1:4] == [
        "The calls were:",
        "  traffic_changed({'a': 1.0})",
        "  choose_backend(GET / {}, [a:1[a-1(0+0)]]) -> a:1[a-1(0+0)]",
    ]


def test_many_calls_are_cut_short() -> None:
    lines = failure_of(kit_for(ByPosition), WEIGHTS).splitlines()
    assert lines[2].endswith("earlier calls")
    assert len(lines) == 23


def test_a_class_without_make_policy_is_told_so() -> None:
    with pytest.raises(NotImplementedError, match="RoutingPolicyTests needs a method make_policy"):
        RoutingPolicyTests().test_weights_are_honoured()


def test_policies_that_ignore_weights_may_say_so() -> None:
    kit = kit_for(ByPosition, tolerance=math.inf)
    for case in (WEIGHTS, RESET, APART):
        getattr(kit, case)()


@pytest.mark.parametrize("weight", [0.5, 0.01, 0.0003])
def test_what_chance_allows(weight: float) -> None:
    """Two in a thousand are beyond it at d = 3.7, by the bound; so some of 2,000 binomial counts may, but few."""
    kit, draws = kit_for(Drawn, deviations=3.7), random.Random(2)
    allowed = kit._allowed(1000, weight)
    assert allowed >= 3.7 * math.sqrt(1000 * weight * (1 - weight))
    counts = [sum(draws.random() < weight for _ in range(1000)) for _ in range(500)]
    assert sum(abs(count - 1000 * weight) > allowed for count in counts) <= 500 * 2 * math.exp(-(3.7**2) / 2) + 4


# -- the views ---------------------------------------------------------------------------------------------------------


def test_the_fakes_are_views_and_read_only() -> None:
    backend: BackendView = FakeBackend("a", 0.5, [FakeReplica("a-1", outstanding=2)])
    request: RequestInfo = FakeRequest({"x-user": "7"})
    assert backend.replicas[0].outstanding == 2
    assert backend != FakeBackend("a", 0.5, backend.replicas)  # type: ignore[arg-type]
    for view, name in ((backend, "weight"), (backend.replicas[0], "outstanding"), (request, "path")):
        with pytest.raises(AttributeError):
            setattr(view, name, 1)
    with pytest.raises(TypeError):
        request.headers["x-user"] = "8"  # type: ignore[index]
    one, other = fake_backends({"a": 0.9, "b": 0.1}, replicas=2)
    assert [replica.id for replica in other.replicas] == ["b-1", "b-2"]
    assert (one.name, one.weight) == ("a", 0.9)


# -- as authors use it -------------------------------------------------------------------------------------------------


MODULE = """
from servekit.interfaces import RoutingPolicy
from servekit.testing.conformance import RoutingPolicyTests

class First(RoutingPolicy):
    def choose_backend(self, request, backends):
        return backends[0]

class TestFirst(RoutingPolicyTests):
    def make_policy(self):
        return First()
"""


def run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )


def test_under_pytest_each_case_is_a_test(tmp_path: Path) -> None:
    (tmp_path / "test_first.py").write_text(MODULE)
    done = run(tmp_path, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider")
    assert "4 failed, 9 passed, 1 skipped" in done.stdout, done.stdout
    assert "First: the weights are not honoured: of 3 requests since traffic_changed backend 'a' of" in done.stdout


def test_without_hypothesis_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "hypothesis.py").write_text("raise ModuleNotFoundError('no', name='hypothesis')")
    (tmp_path / "test_first.py").write_text(MODULE)
    done = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-k", "whatever")
    assert "the conformance kit needs hypothesis: pip install 'servekit[testing]'" in done.stdout, (
        done.stdout + done.stderr
    )


def test_importing_the_kit_imports_only_what_is_asked_for(tmp_path: Path) -> None:
    heavy = "{'hypothesis', 'pytest', 'httpx', 'flask', 'servekit.testing.conformance.policies'}"
    probe = f"import sys, servekit.testing.conformance as kit; print({heavy} & set(sys.modules)); kit.FakeRequest;"
    probe += f"print({heavy} & set(sys.modules)); kit.RoutingPolicyTests; print('hypothesis' in sys.modules)"
    assert run(tmp_path, "-c", probe).stdout.split() == ["set()", "set()", "False"]


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    import servekit.testing.conformance as kit

    with pytest.raises(AttributeError, match="no attribute 'RuntimeTest'"):
        _ = kit.RuntimeTest

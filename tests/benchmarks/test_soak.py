"""A soak's plan, its judgement of failures, and its comparison of what is left; one minute of it runs in .ci/run."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from benchmarks.faults.outcomes import Outcome
from benchmarks.soak import acts
from benchmarks.soak.judge import A_REPLICA, AN_INGRESS, NOBODY, ONE_LEAVES, Span, unexpected
from benchmarks.soak.leftovers import Held, Looked, kind_of_file, more, role, table
from benchmarks.soak.plan import Step, steps
from hypothesis import given
from hypothesis import strategies as st


def some_steps(seed: int, count: int) -> list[Step]:
    return list(itertools.islice(steps(seed, list(acts.CHANGES), list(acts.FAULTS)), count))


@given(st.integers(0, 10_000))
def test_what_is_done_follows_from_the_seed_and_each_act_comes_once_before_any_comes_again(seed: int) -> None:
    some = some_steps(seed, len(acts.EVERY))
    assert some == some_steps(seed, len(acts.EVERY))
    assert sorted(step.acts[0].name for step in some) == sorted(acts.EVERY)
    assert {act.name for step in some for act in step.acts[1:]} <= acts.CHANGES.keys()


def test_other_seeds_do_other_things() -> None:
    assert some_steps(1, 10) != some_steps(2, 10)


def outcome(method: str, kind: str, sent_s: float = 10.5, ended_s: float = 11) -> Outcome:
    return Outcome("", method, sent_s, ended_s, kind, 0)


@pytest.mark.parametrize(
    ("method", "kind", "expected_of"),
    [
        ("POST", "502", {A_REPLICA}),
        ("handle", "ReplicaDiedError", {A_REPLICA}),
        ("GET", "502", set()),
        ("stream", "IncompleteRead", {A_REPLICA, AN_INGRESS}),
        ("GET", "ConnectionResetError", {AN_INGRESS}),
        ("handle", "LinkError", {AN_INGRESS}),
        ("socket", "1012", {A_REPLICA, ONE_LEAVES}),
        ("GET", "wrong", set()),
        ("GET", "503", set()),
        ("POST", "TimeoutError", set()),
        ("up", "unanswered", set()),
    ],
)
def test_what_may_fail_depends_on_what_died(method: str, kind: str, expected_of: set[str]) -> None:
    for effect in (NOBODY, A_REPLICA, AN_INGRESS, ONE_LEAVES):
        wrong = unexpected([outcome(method, kind)], [Span(10, 12, (effect,))])
        assert (not wrong) == (effect in expected_of), effect


def test_what_was_under_way_before_or_after_has_no_excuse() -> None:
    span = Span(10, 12, (A_REPLICA,))
    late, early = outcome("POST", "502", 13, 14), outcome("POST", "502", 8, 9)
    assert unexpected([late, early, outcome("POST", "502")], [span]) == [late, early]


def test_a_get_fails_where_two_died() -> None:
    assert not unexpected([outcome("GET", "502")], [Span(10, 12, (A_REPLICA, A_REPLICA))])
    assert not unexpected([outcome("GET", "502")], [Span(8, 10.6, (A_REPLICA,)), Span(10.8, 12, (A_REPLICA,))])


BEFORE = Looked({"replica": Held(9, 24, 4, 40.0)}, Counter({"r#.sock": 9}))


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (Held(9, 25, 4, 45.0), None),
        (Held(10, 24, 4, 40.0), "10 processes of the kind 'replica', at first 9"),
        (Held(9, 30, 4, 40.0), "replica: 30 descriptors, at first 24"),
        (Held(9, 24, 40, 40.0), "replica: 40 threads, at first 4"),
        (Held(9, 24, 4, 90.0), "replica: 90 MB, at first 40"),
    ],
)
def test_what_is_left_is_said(after: Held, said: str | None) -> None:
    found = Looked({"replica": after}, Counter(BEFORE.files))
    assert more(BEFORE, found) == ([said] if said else [])
    assert f"9 -> {after.processes}" in table(BEFORE, found)


def test_files_that_are_left_are_said() -> None:
    found = Looked(BEFORE.held, Counter({"r#.sock": 10, "new": 1}))
    assert more(BEFORE, found) == ["files: 1 of new, at first 0", "files: 10 of r#.sock, at first 9"]


def test_names_of_files_and_processes() -> None:
    assert kind_of_file("standing-x-12/r14-37d301.sock") == "standing-x-#/r#-#.sock"
    assert role("servekit: controller of soak") == "controller"
    assert role("/usr/bin/sleep 5") == "sleep 5"

"""Where an error was raised, and what a replica tells of those that its handler has raised."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable

import msgspec

from servekit.errors import ResultError
from servekit.replica.failures import LONGEST_TRACE, MOST_GROUPS, FailureCollector, place_of
from servekit.replica.handler_calls import trace_of
from servekit.replica.render import render
from servekit.wire.control_frames import FailureGroup


def raised(function: Callable[[], object]) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("it has raised nothing")


def in_a_library() -> None:
    json.loads("{")


def test_the_place_is_the_innermost_of_the_users_own() -> None:
    error = raised(in_a_library)
    first = traceback.extract_tb(error.__traceback__)
    assert first[-1].filename.endswith("decoder.py")
    file, line, function = place_of(error)
    assert (file, line, function) == (__file__, first[1].lineno, "in_a_library")


def test_an_error_of_servekits_own_has_its_place_there() -> None:
    assert place_of(raised(lambda: render(object(), None, False)))[0] == __file__  # type: ignore[arg-type]
    error = ResultError("was never raised")
    assert place_of(error) == ("", 0, "")


def test_errors_of_one_place_are_one_group() -> None:
    failures = FailureCollector()
    for number in range(3):
        error = raised(in_a_library)
        failures.add("call", error, trace_of(error), endpoint="e", request_id=f"id-{number}")
    failures.add("check_health", raised(in_a_library), "another")
    first, second = failures.take()
    assert (first.what, first.type, first.count, first.request_id) == (
        "call",
        "json.decoder.JSONDecodeError",
        3,
        "id-2",
    )
    assert first.first_at <= first.last_at
    assert "JSONDecodeError" in first.traceback
    assert (second.what, second.count) == ("check_health", 1)
    assert failures.take() == []


def test_it_is_bounded() -> None:
    failures, scope = FailureCollector(), {}  # type: tuple[FailureCollector, dict[str, Any]]
    for number in range(MOST_GROUPS + 5):
        exec(f"def f{number}():\n raise ValueError", scope)
        error = raised(scope[f"f{number}"])
        failures.add("call", error, "begin" + "x" * 20_000 + "end")
    groups = failures.take()
    assert len(groups) == MOST_GROUPS
    assert {len(group.traceback) for group in groups} == {LONGEST_TRACE}
    assert groups[0].traceback.startswith("begin")
    assert groups[0].traceback.endswith("end")
    assert [group.function for group in groups] == [f"f{number}" for number in range(MOST_GROUPS)]


def test_what_no_utf8_has_is_escaped() -> None:
    failures = FailureCollector()
    error = raised(lambda: os.stat("\udcff"))
    failures.add("call", error, trace_of(error))
    (group,) = msgspec.msgpack.decode(msgspec.msgpack.encode(failures.take()), type=list[FailureGroup])
    assert "\\udcff" in group.traceback


def test_a_lock_that_nobody_gives_back_is_not_waited_for() -> None:
    failures = FailureCollector()
    failures._lock.acquire()  # As in a child that was forked meanwhile.
    failures.add("call", raised(in_a_library), "")
    failures._lock.release()
    assert failures.take() == []

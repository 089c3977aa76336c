"""Options of ``servekit run`` and ``start``: one for each argument of `servekit.init`, and which of both counts."""

from __future__ import annotations

from typing import Any

import click
import pytest

from servekit.cli.main import main
from servekit.cli.options import DEFAULTS, INIT, merged
from servekit.cli.run import run
from servekit.cli.standing import start
from servekit.config import HttpLimits
from servekit.errors import InvalidInputError


def test_each_argument_of_init_is_an_option() -> None:
    for command in (run, start):
        assert {*DEFAULTS} - {"address"} <= {parameter.name for parameter in command.params}
    assert len(INIT) == len(DEFAULTS) - 1


@pytest.mark.parametrize(
    ("asked", "told", "found"),
    [
        ({}, {}, {"runtime": "process", "http_port": 8000}),
        ({"runtime": "ray"}, {}, {"runtime": "ray"}),
        ({"http_port": 9000, "debug": True}, {"http_port": 0, "debug": False}, {"http_port": 0, "debug": False}),
        ({"http_port": 9000}, {"debug": True}, {"http_port": 9000, "debug": True}),
        ({}, {"http_host": "none"}, {"http_host": None}),
        (
            {"runtime": "ray", "runtime_options": {"address": "auto"}},
            {"runtime": "process"},
            {"runtime": "process", "runtime_options": None},
        ),
        (
            {"runtime": "process", "runtime_options": {"env": {}}},
            {"runtime": "process"},
            {"runtime_options": {"env": {}}},
        ),
    ],
)
def test_what_the_command_is_told_comes_before_what_the_script_asks_for(
    asked: dict[str, Any], told: dict[str, Any], found: dict[str, Any]
) -> None:
    whole = merged({**DEFAULTS, **asked}, told, "process")
    assert whole.keys() == DEFAULTS.keys()
    assert {name: whole[name] for name in found} == found


def test_observers_are_named_with_their_options() -> None:
    (option,) = (parameter for parameter in start.params if parameter.name == "observers")
    context = click.Context(start)
    assert option.process_value(context, ("otel", 'm:f={"sample": 0.1}')) == {"otel": {}, "m:f": {"sample": 0.1}}
    assert option.process_value(context, ()) is None
    with pytest.raises(click.BadParameter, match="not a JSON object"):
        option.process_value(context, ("otel=1",))


@pytest.mark.parametrize("asked", [HttpLimits(body_bytes=5, connections=7), {"body_bytes": 5, "connections": 7}])
def test_limits_are_merged_one_by_one(asked: Any) -> None:
    limits = merged({**DEFAULTS, "http_limits": asked}, {"http_limits": {"body_bytes": 9}}, "process")["http_limits"]
    assert (limits["body_bytes"], limits["connections"]) == (9, 7)


def test_a_limit_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--http-limit", "body_size=5", "app.py"]) == 1
    assert "'body_size' is not a key of http_limits" in capsys.readouterr().err
    with pytest.raises(InvalidInputError, match="body_bytes"):
        run.make_context("run", ["--http-limit", "body_bytes=much", "app.py"])


def test_what_follows_a_script_is_its_own_and_what_follows_a_target_is_not() -> None:
    of_script = run.make_context("run", ["--http-port", "1", "app.py", "--http-port", "2"]).params
    assert (of_script["http_port"], of_script["arguments"]) == (1, ("--http-port", "2"))
    of_target = run.make_context("run", ["--http-port", "1", "app:main", "--route", "/x"]).params
    assert (of_target["http_port"], of_target["route"], of_target["arguments"]) == (1, "/x", ())


def test_the_port_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9001")
    assert run.make_context("run", ["app.py"]).params["http_port"] == 9001
    assert run.make_context("run", ["--http-port", "9002", "app.py"]).params["http_port"] == 9002

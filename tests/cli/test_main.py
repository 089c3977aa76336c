"""The command ``servekit``: its helps, and its errors of one line."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from servekit.cli.changes import goes_on
from servekit.cli.ending import say_soon
from servekit.cli.main import COMMANDS, main
from servekit.client import AdminClient
from servekit.deploy.plan import DeployPlan
from servekit.errors import InvalidInputError
from servekit.instance import Instance

HELPS = [["--help"], *([name, "--help"] for name in COMMANDS)]
WIDEST = 80
LONGEST = 45
"""Lines: one screen."""


@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_a_help_is_read_on_one_screen(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Usage: servekit {arguments[0] if arguments[1:] else '[OPTIONS]'}")
    assert max(map(len, lines)) <= WIDEST
    assert len(lines) <= LONGEST


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["statu"], "there is no command 'statu'; did you mean 'status'?"),
        (["stop", "--nme", "x"], "no such option '--nme'"),
        (["code"], "missing argument 'BACKEND'. See: servekit code --help"),
        (["scale", "v1", "-3"], "invalid value for 'N': -3 is not in the range"),
        (["init", ""], "the name of DIR is empty"),
        (["deploy", "f.toml", "--plan-out", "f.plan", "--yes"], "--plan-out writes the plan and changes nothing"),
        (
            ["run", "--http-limit", "body_bytes", "app.py"],
            "invalid value for '--http-limit': 'body_bytes' has no value",
        ),
        (
            ["run", "--runtime", "proces", "/nowhere.py"],
            "no replica runtime is called 'proces'; did you mean 'process'?",
        ),
        (["run", "--http-port", "99999", "/nowhere.py"], "http_port must be a number from 0"),
        (["run", "--name", "", "/nowhere.py"], "'' cannot name an instance"),
        (["run", "--trusted-proxy", "bla", "/nowhere.py"], "trusted_proxies"),
    ],
)
def test_a_command_that_is_used_wrongly_is_told_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"servekit: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["apply", "nope.plan"], "the plan nope.plan cannot be read: No such file or directory"),
        (["apply", __file__], f"{__file__} is no plan; servekit deploy FILE --plan-out"),
        (["run", "m-x:f"], "'m-x:f' is no module:attr, such as app:Greeter"),
        (["run", "v.a"], "the script 'v.a' cannot be read: No such file or directory; of a module write v:a"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    handled = signal.getsignal(signal.SIGTERM)
    try:
        assert main(arguments) == 1
    finally:
        signal.signal(signal.SIGTERM, handled)
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"servekit: {message}")
    assert err.count("\n") == 1


def test_a_plan_that_cannot_be_written_is_told_of() -> None:
    with pytest.raises(InvalidInputError, match=r"the plan cannot be written to /nope/x\.plan: No such file"):
        DeployPlan("default", 1, []).save("/nope/x.plan")


def test_an_interrupted_wait_says_that_the_change_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    instance = Instance("my inst", "", AdminClient("none", b""), lambda: None, "", "")
    with pytest.raises(click.exceptions.Exit) as ended, goes_on("the deploy", instance):
        raise KeyboardInterrupt
    assert ended.value.exit_code == 130
    said = capsys.readouterr().err
    assert said == "servekit: interrupted; the deploy goes on in the instance: see servekit status --name 'my inst'\n"


def test_an_end_that_takes_a_moment_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    say_soon("answering", after_s=0.0).join()
    assert capsys.readouterr().err == "servekit: answering\n"


@pytest.mark.parametrize(
    "arguments", [["status"], ["stop"], ["stop", "--purge"], ["code", "b"], ["restore"]], ids=" ".join
)
def test_a_name_that_nothing_has_leaves_no_directory(
    arguments: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--name", "nope"]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("servekit: ")
    assert "'nope'" in err
    assert err.count("\n") == 1
    assert not list(place.iterdir())


def test_help_imports_no_command_and_nothing_heavy() -> None:
    code = "import sys; from servekit.cli.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = done.stderr.split()
    own = {name for name in loaded if name.startswith("servekit.cli.")}
    assert own == {"servekit.cli.main"}
    assert not {"rich", "flask", "ray", "httpx"} & {*loaded}

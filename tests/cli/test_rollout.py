"""`servekit rollout`: what it begins, shows and decides, and its exit codes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from servekit.cli import rollout as module
from servekit.cli.main import main
from servekit.cli.rollout import table_of
from servekit.cli.status import rollout_line
from servekit.cli.status import table_of as status_table

pytestmark = pytest.mark.servekit(virtual_clock=True)

START = ["rollout", "start", "e", "--to", "v2", "--judge", "cli_handlers:Says", "--warmup", "0"]


@pytest.fixture
def served(serve_instance: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An instance that the commands find, and whose time goes on while they wait."""

    @contextlib.contextmanager
    def attached(_: str) -> Iterator[Any]:
        yield serve_instance.instance

    monkeypatch.setattr(module, "attached", attached)
    monkeypatch.setattr(module.time, "sleep", serve_instance.clock.advance)
    for name in ("v1", "v2"):
        serve_instance.create_backend(name, lambda flask_request: "hello")
    serve_instance.create_endpoint("e", "/e", backend="v1")
    return serve_instance


def rollout_of(served: Any) -> dict[str, Any]:
    found: dict[str, Any] = served.status()["rollouts"]["e"]
    return found


def test_a_roll_out_is_begun_and_watched_to_its_end(served: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*START, "--steps", "0.25, 0.5,1", "--hold", "5"]) == 0
    assert "servekit: roll-out of e from v1 to v2: waiting at 0, step 0 of 3: until backend" in capsys.readouterr().out
    assert main(["rollout", "status", "e", "--watch"]) == 0
    assert "promoted" in capsys.readouterr().out
    assert served.get_traffic("e") == {"v2": 1.0}
    assert main(["rollout", "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["e"]["reason"] == "as good"


def test_one_that_is_worse_ends_the_watch_with_1(served: Any, capsys: pytest.CaptureFixture[str]) -> None:
    why = ["--judge-option", "ruling=worse", "--judge-option", 'why="9 of 10 failed"']
    assert main([*START, "--step", "0.5", "--step", "1", *why, "--watch"]) == 1
    printed = capsys.readouterr().out
    assert "rolled_back" in printed
    assert "e: 9 of 10 failed" in printed


def test_somebody_decides(served: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*START, "--steps", "0.5,gate,1", "--hold", "0", "--header", "--on-failure", "pause"]) == 0
    assert main(["rollout", "pause", "e", "--why", "lunch"]) == 0
    assert "paused at 0, step 0 of 3: lunch" in capsys.readouterr().out
    assert main(["rollout", "resume", "e"]) == 0
    served.clock.advance(10)
    assert rollout_of(served)["reason"].startswith("a gate")
    assert main(["rollout", "abort", "e", "--why", "no"]) == 0
    assert (rollout_of(served)["state"], served.get_traffic("e")) == ("rolled_back", {"v1": 1.0})
    assert main(["rollout", "promote", "e"]) == 1
    assert "no roll-out under way; the last one" in capsys.readouterr().err
    assert main([*START]) == 0
    assert main(["rollout", "promote", "e"]) == 0
    assert served.get_traffic("e") == {"v2": 1.0}


def test_there_may_be_none(served: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollout", "status"]) == 0
    assert capsys.readouterr().out == "servekit: no endpoint has had a roll-out\n"
    assert main(["rollout", "status", "--watch"]) == 1
    assert main(["rollout", "status", "e"]) == 1
    assert "endpoint 'e' has had no roll-out" in capsys.readouterr().err
    assert main(["rollout", "status", "f"]) == 1
    assert "no endpoint 'f'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "half"], "'half' is neither a share, as 0.1, nor gate"),
        (["--step", "0.1", "--steps", "1"], "not both"),
        (["--judge-option", "margin"], "write NAME=VALUE"),
        (["--notify", "'"], "neither a URL nor a command"),
    ],
)
def test_it_is_used_wrongly(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*START, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_who_is_told_is_a_url_or_a_command() -> None:
    whom: Any = module._whom
    assert whom(None, None, "https://example.org/hook") == "https://example.org/hook"
    assert whom(None, None, "notify -x 'a b'") == ["notify", "-x", "a b"]


TOLD = {
    "endpoint": "digits",
    "state": "holding",
    "reason": "not certain \x1b[2J yet; 20 of 60 s",
    "baseline": "v1",
    "candidate": "v2",
    "share": 0.1,
    "step": 2,
    "steps": [0.01, 0.1, 0.5, 1.0],
    "judge": "strict",
    "claim": "nothing",
    "seen": {
        "v1": {"requests": 12345, "errors": 3, "error_rate": 3 / 12345, "p99_s": 0.0041},
        "v2": {"requests": 0, "errors": 0, "error_rate": None, "p99_s": None},
    },
}


def rendered(what: Any) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def test_the_table_has_both_versions_and_the_reason() -> None:
    lines = rendered(table_of({"digits": TOLD})).splitlines()
    assert lines[1].split()[:7] == ["digits", "holding", "v1", "0.9", "12,345", "3", "0.02%"]
    assert lines[2].split() == ["step", "2", "of", "4", "v2", "0.1", "0", "0"]
    assert lines[4] == "digits: not certain \\x1b[2J yet; 20 of 60 s"


def test_the_status_has_a_line_for_each_that_is_under_way() -> None:
    ended = {**TOLD, "state": "promoted"}
    many: dict[str, Any] = {str(number): TOLD for number in range(5)}
    status = {"name": "i", "url": "", "ingress": [], "deploy": "", "endpoints": {}, "backends": {}}
    status |= {"plugin_problems": [], "rollouts": {**many, "ended": ended}}
    lines = rendered(status_table(status)).splitlines()
    assert lines[2] == lines[1]
    assert lines[1].startswith("roll-out of digits from v1 to v2: holding at 0.1, step 2 of 4: not certain \\x1b")
    assert len(lines[1]) <= 80
    assert lines[3] == "and 3 more"
    assert rollout_line(ended).partition(": ")[2].startswith("promoted at")

"""Commands for a standing instance: what they print, what they change, and their exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_handlers import handler
from rich.console import Console
from tests.instances.instance_tools import controller, started_standing
from tests.support.waiting import until

from servekit import api
from servekit.cli import status as status_module
from servekit.cli.main import main
from servekit.cli.status import cause_of, degraded, table_of, watched
from servekit.cli.trends import Reading, Trend
from servekit.instance import Instance


@pytest.fixture(scope="module")
def keeper(place: Path) -> Iterator[subprocess.Popen[str]]:
    """The process of ``servekit start``."""
    with started_standing() as keeper:
        yield keeper
        keeper.terminate()
        keeper.wait(60)


@pytest.fixture(scope="module")
def instance(keeper: subprocess.Popen[str]) -> Iterator[Instance]:
    instance = api.attach("default")
    instance.create_backend("b", handler)
    instance.create_backend("none", handler, config={"num_replicas": 0})
    instance.create_endpoint("e", "/e", methods=["GET", "POST"], backend="b")
    instance.create_endpoint("of_user", "/users/<int:id>", backend="b")
    yield instance
    instance.shutdown()


@pytest.mark.processes
def test_status_is_a_table_or_json_and_an_exit_code(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"instance 'default' answers at {instance.url}; ingress workers 1/1 ready\n")
    assert "e         /e               GET, POST  b=1" in printed
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["endpoints"]["e"]["traffic"] == {"b": 1.0}
    assert main(["traffic", "e", "none=1"]) == 0
    assert capsys.readouterr().out == "none=1\n"
    assert main(["status"]) == 3
    assert "endpoint 'e' has traffic and no replica that is ready" in capsys.readouterr().out
    assert main(["traffic", "e", "b=0.75", "none=0.25"]) == 0
    capsys.readouterr()
    assert main(["traffic", "e"]) == 0
    assert capsys.readouterr().out == "b=0.75\nnone=0.25\n"
    assert main(["traffic", "e", "b=1"]) == 0


@pytest.mark.processes
def test_it_is_watched_until_ctrl_c(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pauses = iter([None])

    def pause(_: float) -> None:
        if next(pauses, "over") == "over":
            raise KeyboardInterrupt

    monkeypatch.setattr(status_module.time, "sleep", pause)
    assert main(["status", "--watch"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("ENDPOINT") == 2
    assert printed.count("LAST 3 MIN") == 2
    assert main(["status", "--watch", "--json"]) == 2


@pytest.mark.processes
def test_a_backend_is_scaled_and_restarted(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    before = {replica["id"] for replica in instance.status()["backends"]["b"]["replicas"]}
    assert main(["scale", "b", "2"]) == 0
    assert main(["restart", "b"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "servekit: backend 'b' has 2 replicas",
        "servekit: every replica of backend 'b' is a new one",
    ]
    after = {r["id"] for r in instance.status()["backends"]["b"]["replicas"] if r["state"] == "ready"}
    assert len(after) == 2
    assert not before & after
    assert main(["scale", "b", "1"]) == 0
    assert main(["scale", "unknown", "1"]) == 1
    assert "there is no backend 'unknown'" in capsys.readouterr().err


@pytest.mark.processes
def test_an_endpoint_is_called(instance: Instance, place: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    def answer(*arguments: str, code: int = 0) -> Any:
        assert main(["call", *arguments]) == code
        out, err = capfdbinary.readouterr()
        return err.decode() if code else json.loads(out)

    assert answer("e", "--header", "X-Tried: yes") == {"method": "GET", "body": "", "x": "yes"}
    assert answer("e", "--data", '{"a": 1}') == {"method": "POST", "body": '{"a": 1}', "x": None}
    (place / "data").write_text("7")
    assert answer("e", "--data", f"@{place}/data", "--path", "e?a")["body"] == "7"
    assert answer("of_user", "--path", "/users/7")["method"] == "GET"
    assert "--path" in answer("of_user", code=1)
    assert "answered 405" in answer("e", "--method", "PUT", code=1)
    assert "there is no endpoint 'f'; there are e, of_user" in answer("f", code=1)


@pytest.mark.processes
def test_a_script_that_attaches_leaves_the_instance_as_it_is(instance: Instance, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import servekit\nservekit.init(address='auto').create_endpoint('by_script')\n")
    command = [sys.executable, "-m", "servekit.cli.main", "run", "app.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"servekit: answers at {instance.url}\n"
    assert "by_script" in instance.list_endpoints()
    instance.delete_endpoint("by_script")


@pytest.mark.processes
def test_a_reader_that_goes_away_is_no_traceback(instance: Instance) -> None:
    command = f"{sys.executable} -m servekit.cli.main status --json | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "{\n"
    assert done.stderr == ""


@pytest.mark.processes
def test_a_controller_that_is_stopped_is_not_waited_for(
    keeper: subprocess.Popen[str],
    instance: Instance,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(status_module, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(status_module, "RESTART_TIMEOUT_S", 0.3)
    pid = controller(keeper)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert main(["status"]) == 1
        assert main(["traffic", "e"]) == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    for error, timeout_s in zip(errors, (0.2, 0.3), strict=True):
        assert error.startswith(f"servekit: the controller of 'default' has not answered within {timeout_s} s")
    until(lambda: instance.status()["ingress"][0]["ready"])


def of(traffic: dict[str, float], *, ready: int, wanted: int = 1, least: int | None = None) -> dict[str, Any]:
    """A status of one endpoint ``e`` and one backend ``b``."""
    backend = {
        "target": "m:b",
        "config": {"autoscaling": None if least is None else {"min_replicas": least}},
        "replicas": [{"state": "ready"}] * ready + [{"state": "starting"}],
        "wanted_replicas": wanted,
        "last_failure": 200 * "long " + "\n\nTraceback in the replica (most recent call last):\n  ^^^^",
        "last_start_error": "",
    }
    endpoint = {"route": "/e", "methods": ["*"], "mount": True, "traffic": traffic}
    return {
        "name": "default",
        "url": "",
        "deploy": "a deploy is under way",
        "ingress": [{"ready": False}],
        "endpoints": {"e": endpoint},
        "backends": {"b": backend},
        "plugin_problems": ["plugin 'x' was not loaded"],
    }


@pytest.mark.parametrize(
    ("status", "faulty"),
    [
        (of({"b": 1.0}, ready=1), []),
        (of({"b": 1.0}, ready=0), ["e"]),
        (of({}, ready=0), []),
        (of({"b": 1.0}, ready=0, wanted=0, least=0), []),
        (of({"b": 1.0}, ready=0, wanted=1, least=0), ["e"]),
        (of({"b": 1.0}, ready=0, wanted=1, least=1), ["e"]),
    ],
)
def test_an_endpoint_with_traffic_and_no_replica_is_degraded(status: dict[str, Any], faulty: list[str]) -> None:
    assert degraded(status) == faulty


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (
            "backend 'b': its handler m:B could not be built: ValueError: no weights\n\n"
            "Traceback in the replica (most recent call last):\n  File ...\n    ^^^^^^",
            "ValueError: no weights",
        ),
        ("ended: killed by SIGKILL", "ended: killed by SIGKILL"),
        ("", ""),
    ],
)
def test_the_error_of_a_failure_is_shown(failure: str, cause: str) -> None:
    assert cause_of(failure) == cause


def test_the_table_is_eighty_columns_wide(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=80).print(table_of(of({"b": 1.0}, ready=0)))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "instance 'default' serves without HTTP; ingress workers 0/1 ready"
    assert lines[1] == "a deploy is under way"
    assert "^^^^" not in "".join(lines)
    assert "a plugin is not in use: plugin 'x' was not loaded" in lines


def test_what_a_handler_has_raised_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    status = of({"b": 1.0}, ready=0)
    status["backends"]["b"]["last_failure"] = "ValueError: \x1b[2Jno weights"
    Console(width=80).print(table_of(status))
    assert "\\x1b[2Jno weights" in capsys.readouterr().out


@pytest.mark.parametrize("rows", [23, 40, 100])
def test_what_is_watched_fits_the_screen(rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    status = of({"b": 1.0}, ready=0)
    for kind in ("endpoints", "backends"):
        (each,) = status[kind].values()
        status[kind] |= {f"{kind}{number}": each for number in range(30)}
    trends = {name: Trend() for name in status["endpoints"]}
    for trend in trends.values():
        trend.add(Reading(1.0))
    Console(width=80).print(watched(status, trends, rows=rows))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= rows
    heads = [line.split()[0] for line in lines if line.startswith(("LAST", "ENDPOINT", "BACKEND"))]
    assert heads == ["LAST", "ENDPOINT", "BACKEND"]
    tables = "\n".join(lines).split("\n\n")[1:4]
    for table in tables:
        _, *shown, last = table.splitlines()
        assert last.strip() == f"and {31 - len(shown)} more" or len(shown) == 30
    assert lines[-1].strip() == "and 30 more"

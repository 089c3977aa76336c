"""``servekit events`` and ``servekit failures``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli_handlers import handler
from rich.console import Console
from tests.instances.instance_tools import started_standing
from tests.support.waiting import until

from servekit import api
from servekit.cli.events import events_table, failures_table
from servekit.cli.main import main
from servekit.instance import Instance

WIDTH = 80


def broken(request: Any) -> None:
    raise LookupError("of no use\r\x1b[2Jgone")


@pytest.fixture(scope="module")
def instance(place: Path) -> Iterator[Instance]:
    with started_standing() as keeper:
        instance = api.attach("default")
        instance.create_backend("v1", handler)
        instance.create_backend("v2", f"{__name__}:broken")
        instance.create_endpoint("e", "/e", backend="v1")
        instance.create_endpoint("bad", "/bad", backend="v2")
        yield instance
        instance.shutdown()
        keeper.terminate()
        keeper.wait(60)


@pytest.mark.processes
def test_events_are_a_table_or_json(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events"]) == 0
    printed = capsys.readouterr().out
    assert "instance default is started" in printed
    assert "backend v2 is created" in printed
    assert max(map(len, printed.splitlines())) <= WIDTH
    assert main(["events", "e", "--json"]) == 0
    own = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["kind"] for event in own] == ["endpoint_created", "traffic_set"]
    assert main(["events", "v1", "--since", "1h"]) == 0
    assert "backend v1 is created" in capsys.readouterr().out
    assert main(["events", "v1", "--since", "2999-01-01"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["events", "e1"]) == 1
    assert "no event is about a backend or an endpoint 'e1'; did you mean 'e'" in capsys.readouterr().err
    assert main(["events", "--since", "yesterday"]) == 2
    capsys.readouterr()


@pytest.mark.processes
def test_events_that_are_followed(instance: Instance, place: Path) -> None:
    command = [sys.executable, "-m", "servekit.cli.main", "events", "e", "--json", "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert [json.loads(following.stdout.readline())["kind"] for _ in range(2)] == [
            "endpoint_created",
            "traffic_set",
        ]
        instance.set_traffic("e", {"v1": 0.5, "v2": 0.5})
        assert json.loads(following.stdout.readline())["text"] == "endpoint e has traffic: v1 0.5, v2 0.5"
        following.terminate()


@pytest.mark.processes
def test_failures_are_a_table_or_json_or_tracebacks(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["failures", "v"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("servekit: there is no backend 'v'")
    assert said.endswith("Known: v1, v2\n")
    assert main(["failures", "v1"]) == 0
    assert capsys.readouterr().out == "servekit: nothing has failed in backend 'v1'\n"
    for _ in range(3):
        assert httpx.get(f"{instance.url}/bad").status_code == 500
    until(lambda: [each["count"] for each in instance.failures()] == [3])
    assert main(["failures"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["COUNT", "LAST", "BACKEND", "RAISED", "REQUEST"]
    assert "LookupError" in rows[0]
    assert main(["failures", "v2", "--traceback"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("3 times since ")
    assert "LookupError: of no use\\r\\x1b[2Jgone\n" in printed
    assert main(["failures", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["function"] == "broken"


def event(**fields: Any) -> dict[str, Any]:
    time_ = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(0))
    base = {"time": time_, "first_time": time_, "kind": "traffic_set", "text": "[b]bold[/b]", "who": "", "count": 1}
    return {**base, **fields}


def rendered(table: Any) -> str:
    console = Console(width=WIDTH, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_texts_are_no_markup_and_say_how_often() -> None:
    printed = rendered(events_table([event(who="[ada]", count=57), event(kind="replica_failed", text="x" * 200)]))
    assert "[b]bold[/b], by [ada] (57 times" in printed
    assert "its own \\r\\x1b[2J" in rendered(events_table([event(text="its own \r\x1b[2J")]))
    assert printed.count("x") == 200
    assert max(map(len, printed.splitlines())) <= WIDTH


def test_long_names_fit() -> None:
    group = {"count": 1, "last_time": event()["time"], "backend": "v1", "type": "a.b.VeryLongNameOfAnError" + "r" * 40}
    more = {"what": "call", "file": "/a/app.py", "line": 7, "function": "f", "request_id": "a-1", "first_time": ""}
    printed = rendered(failures_table([{**group, **more}, {**group, **more, "what": "build", "file": ""}]))
    assert max(map(len, printed.splitlines())) <= WIDTH
    assert "app.py:7" in printed
    assert "…" not in printed

"""`servekit explain`: a request's story, and the lists of those that failed or were slow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli_handlers import handler
from tests.instances.instance_tools import started_standing

from servekit import api
from servekit.cli.explain import WIDTH, list_of, moment, story_of
from servekit.cli.main import main
from servekit.instance import Instance


@pytest.fixture(scope="module")
def instance(place: Path) -> Iterator[Instance]:
    """A standing instance, with an endpoint that answers and one that refuses."""
    with started_standing() as keeper:
        instance = api.attach("default")
        instance.create_backend("b", handler)
        instance.create_endpoint("e", "/e", backend="b")
        instance.create_endpoint("empty", "/empty")
        yield instance
        instance.shutdown()
        keeper.terminate()
        keeper.wait(60)


@pytest.mark.processes
def test_a_request_is_a_story_or_json(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    httpx.get(f"{instance.url}/e", headers={"x-request-id": "mine"})
    assert main(["explain", "mine"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("request mine took ")
    assert "GET /e of endpoint 'e' (route /e)\n" in printed
    assert "policy 'weighted' chose backend 'b' from b=1\n" in printed
    assert main(["explain", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "mine"
    assert main(["explain", "other"]) == 1
    assert "servekit: no request 'other' is remembered" in capsys.readouterr().err


@pytest.mark.processes
def test_what_failed_is_a_table_or_json(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        httpx.get(f"{instance.url}/empty", headers={"x-request-id": f"failed-{number}"})
    assert main(["explain", "--failed", "empty", "-n", "2"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["TIME", "TOOK", "STATUS", "ENDPOINT", "ERROR", "ID"]
    assert [row.split()[-4:] for row in rows] == [["503", "empty", "no_traffic", f"failed-{n}"] for n in (2, 1)]
    assert main(["explain", "--failed", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) >= 3
    assert main(["explain", "--slow", "none"]) == 1
    assert "no endpoint 'none'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--slow", "--failed"], ["mine", "-n", "0"]])
def test_it_is_used_wrongly(arguments: list[str]) -> None:
    assert main(["explain", *arguments]) == 2


def test_a_story_fits_a_screen() -> None:
    request: dict[str, Any] = {
        "id": "a" * 128,
        "method": "GET",
        "path": "/" + "long" * 50,
        "endpoint": "e",
        "status": 200,
        "error": "",
        "pending": False,
        "came_at": 0.0,
        "latency_s": 1.5,
        "replica": "r1",
        "chain": [],
        "ingress": "i1",
        "client": "192.0.2.1",
    }
    steps = [{"after_s": 100.0, "says": "several words " * 20}, {"after_s": 0.00001, "says": ""}]
    others = [{**request, "pending": True, "replica": ""}] * 9
    story = story_of({**request, "steps": steps, "others": others, "times": 10, "silent": ["i2"]}).splitlines()
    assert all(len(line) <= WIDTH or " " not in line.strip() for line in story)
    assert "9 more of this id:" in story
    assert sum("is under way" in line for line in story) == 5
    assert story[-1] == "Ingress workers that did not answer: i2."


def test_a_table_has_whole_ids_and_cuts_the_rest() -> None:
    row = {"came_at": 0.0, "latency_s": 100.0, "status": 503, "endpoint": "e" * 99, "error": "x" * 99, "id": "i" * 17}
    table = list_of([row], "failed").splitlines()
    assert table[1].endswith("  " + "i" * 17)
    assert len(table[1]) <= WIDTH
    assert "…" in table[1]
    assert moment(1.9999).endswith(":01.999")

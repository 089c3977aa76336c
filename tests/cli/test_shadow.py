"""`servekit shadow`: begun, told of, and stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cli_handlers import handler
from tests.instances.instance_tools import started_standing
from tests.support.waiting import until

from servekit import api
from servekit.cli.main import main
from servekit.cli.shadow import NOISY_SHOWN, not_copied, report_of
from servekit.instance import Instance

REPORT = {
    "backend": "v3",
    "share": 0.1,
    "since": "2026-11-30T12:00:00Z",
    **{"sent": 9, "answered": 7, "failed": 1, "late": 1, "dropped": {"queue_full": 2, "no_room": 4}},
    **{"pairs": 7, "differing": 7, "repeats": 3, "noisy_paths": 10, "paths_left_out": 1, "noisy": ["/took", ""]},
    **{"not_compared": 2, "compare_error": "ValueError: no"},
    "paths": [
        {
            "path": "/k",
            "kind": "value",
            "count": 7,
            "noise": 0.0,
            "examples": [{"live": "1", "shadow": "x" * 100, "request_id": "5f-1"}],
        },
        {"path": "", "kind": "type", "count": 1, "noise": 0.0, "examples": []},
    ],
}


def test_a_report_for_people() -> None:
    assert report_of("e", REPORT).splitlines() == [
        "endpoint e: 0.1 of its requests are copied to v3, since 2026-11-30T12:00:00Z",
        "copies: 9 sent, 7 answered, 1 failed, 1 late; dropped: no_room 4, queue_full 2",
        "pairs: 7 compared, 7 differ beyond noise (3 repeats, 10 noisy paths)",
        "not compared: 2; the last: ValueError: no",
        "       7  value   /k",
        f"          1 → {'x' * 59}…  5f-1",
        "       1  type    (all of it)",
        "and 1 more paths",
        "noise, which --ignore PATH leaves out: /took, (all of it)",
    ]


def test_a_report_of_all_requests_and_of_much_noise() -> None:
    told = {**REPORT, "share": 1.0, "noisy": [f"/n{n}" for n in range(NOISY_SHOWN + 2)]}
    lines = report_of("e", told).splitlines()
    assert lines[0].startswith("endpoint e: all its requests are copied to v3")
    assert lines[-1].endswith(f"/n{NOISY_SHOWN - 1}, and 2 more")


def test_what_is_said_of_methods_that_are_not_copied() -> None:
    assert not_copied(["GET", "HEAD"]) == ""
    assert "only those by GET;" in not_copied(["GET", "POST"])
    assert "only those by GET, HEAD, OPTIONS;" in not_copied(["*"])
    assert not_copied(["POST"]).startswith("servekit: none so far")


@pytest.fixture(scope="module")
def instance(place: Path) -> Iterator[Instance]:
    """A standing instance with two versions."""
    with started_standing() as keeper:
        instance = api.attach("default")
        for name in ("v1", "v3"):
            instance.create_backend(name, handler)
        instance.create_endpoint("e", "/e", backend="v1")
        yield instance
        instance.shutdown()
        keeper.terminate()
        keeper.wait(60)


@pytest.mark.processes
def test_it_is_begun_told_of_and_stopped(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shadow", "start", "e", "v3", "--share", "1", "--noise", "0", "--ignore", "/x"]) == 0
    assert capsys.readouterr().out == "servekit: all requests of 'e' are copied to 'v3'\n"
    assert instance.status()["shadows"]["e"]["ignore"] == ["/x"]
    httpx.get(f"{instance.url}/e")
    until(lambda: instance.shadow_report("e")["pairs"] == 1)
    assert main(["shadow", "report", "e"]) == 0
    assert "pairs: 1 compared, 0 differ beyond noise" in capsys.readouterr().out
    assert main(["shadow", "report", "e", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 1
    assert main(["shadow", "stop", "e"]) == 0
    assert main(["shadow", "report", "e"]) == 1
    assert "servekit: endpoint 'e' has no shadow" in capsys.readouterr().err
    assert main(["shadow", "start", "e", "v3", "--share", "2"]) == 1
    assert "share must be above 0 and at most 1" in capsys.readouterr().err
    assert main(["shadow", "start", "e", "v3", "--compare", "none"]) == 0
    assert instance.status()["shadows"]["e"]["compare"] is None
    instance.create_endpoint("posts", "/posts", ["POST"], backend="v1")
    assert main(["shadow", "start", "posts", "v3"]) == 0
    assert "none so far: the endpoint takes no GET" in capsys.readouterr().out
    assert main(["shadow", "start", "posts", "v3", "--include-unsafe"]) == 0
    assert "none so far" not in capsys.readouterr().out

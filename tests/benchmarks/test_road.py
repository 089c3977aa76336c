"""The road of a request, walked for real; and what is said of it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.road.__main__ import text, within
from benchmarks.road.trace import own_folders, place_of

import servekit

ROADS = {"ingress worker": [("servekit/a.py", "A.b"), ("servekit/a.py", "c"), ("servekit_x/d.py", "e")], "replica": []}


def test_the_calls_are_in_their_order_and_a_file_is_named_once() -> None:
    assert [line.split() for line in text(ROADS).splitlines()] == [
        ["ingress", "worker:", "3", "calls", "in", "2", "files"],
        ["1", "servekit/a.py", "A.b"],
        ["2", "c"],
        ["3", "servekit_x/d.py", "e"],
        [],
        ["replica:", "0", "calls", "in", "0", "files"],
        [],
        ["one", "hello:", "3", "calls", "in", "2", "files"],
    ]


def test_a_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert within(ROADS, 3, 2)
    assert not within(ROADS, 2, 2)
    assert not within(ROADS, 3, 1)
    assert "the limit is 3 calls in 1 files" in capsys.readouterr().out


def test_what_counts() -> None:
    """By the packages' own folders: a checkout may be called servekit, too, and have an environment in it."""
    folders = own_folders()
    package = os.path.dirname(servekit.__file__)

    def placed(file: str, name: str = "f") -> object:
        place = place_of(test_what_counts.__code__.replace(co_filename=file, co_name=name), folders)
        return place and place[0]

    assert placed(f"{package}/ingress/router.py") == "servekit/ingress/router.py"
    assert placed(f"{package}/a.py", "<lambda>") == "servekit/a.py"
    assert placed(f"{package}/a.py", "<listcomp>") is None
    assert placed("/home/me/servekit/.venv/lib/site-packages/flask/app.py") is None
    assert placed(f"{package}_of_another/adapter.py") is None
    importlib.import_module("servekit_flask")
    assert {"servekit", "servekit_flask"} <= set(own_folders().values())


@pytest.mark.processes
def test_a_request_is_walked_from_the_socket_to_the_handler_and_back() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.road", "--most-calls", "1"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 1, ran.stderr
    walked = [line.split()[-1] for line in ran.stdout.splitlines() if line]
    stations = [
        "HttpConnection.data_received",
        "Router.handle",
        "Replica.send",
        "Executor.calls_done",
        "FlaskAdapter.call",
    ]
    assert [station for station in stations if station in walked] == stations
    assert "the limit is 1 calls" in ran.stdout

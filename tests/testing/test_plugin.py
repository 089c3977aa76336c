"""The pytest plugin: one test file, on each runtime; and what it costs those who do not use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import os
import servekit

def pid(request):
    return str(os.getpid())

def test_one(serve_instance):
    servekit.create_backend("b", pid)
    servekit.create_endpoint("e", "/e", backend="b")
    answer = serve_instance.client.get("/e").text
    print("PID", answer == str(os.getpid()))
    assert servekit.status()["runtime"] == RUNTIME

def test_two_finds_nothing_of_one(serve_instance):
    assert servekit.list_endpoints() == {}
    assert servekit.list_backends() == {}
"""


@pytest.mark.parametrize(
    ("runtime", "same_process"),
    [("inprocess", True), ("process", False), pytest.param("ray", False, marks=pytest.mark.ray)],
)
def test_the_same_tests_run_on_each_runtime(tmp_path: Path, runtime: str, same_process: bool) -> None:
    seen = "process" if runtime == "inprocess" else runtime
    (tmp_path / "test_it.py").write_text(TESTS.replace("RUNTIME", repr(seen)))
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", f"--servekit-runtime={runtime}"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout
    assert f"PID {same_process}" in run.stdout


def test_handlers_in_a_test_module_that_cannot_be_imported_travel_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks" / "test_it.py").write_text(TESTS.replace("RUNTIME", "'process'"))
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--import-mode=importlib"]
    # Not below the working directory, which is on the path of `python -m`.
    run = subprocess.run(
        [*command, "--servekit-runtime=process", "--rootdir", str(tmp_path), str(tmp_path / "checks")],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "PID False" in run.stdout


def test_a_project_that_does_not_use_it_pays_nothing() -> None:
    code = "import sys, servekit.testing.plugin; print({'httpx', 'uvloop', 'flask', 'cloudpickle'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"

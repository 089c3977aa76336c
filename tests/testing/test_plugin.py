"""The pytest plugin: one test file, on each runtime; and what it costs those who do not use it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import os
import pytest
import servekit
from servekit.errors import ServekitError

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

def test_three_drops_nothing(serve_instance):
    servekit.create_backend("b", pid)
    servekit.create_endpoint("e", "/e", backend="b")
    with serve_instance.assert_no_drops("/e") as load:
        servekit.update_backend_config("b", {"num_replicas": 2})
        load.more(5)
        servekit.create_backend("c", pid)
        servekit.set_traffic("e", {"c": 1.0})
        servekit.delete_backend("b")
    with pytest.raises(AssertionError, match="status 404"), serve_instance.assert_no_drops("/none"):
        pass
"""

INSIDE = """
import pytest
from servekit.errors import ServekitError

def test_what_is_inside_others_is_not_seen(serve_instance):
    with pytest.raises(ServekitError, match="recorded by in-process instances.*without --servekit-runtime"):
        serve_instance.decisions
    with pytest.raises(ServekitError, match="run it in process"):
        serve_instance.clock

@pytest.mark.servekit(seed=7, virtual_clock=True)
def test_marked(serve_instance):
    raise AssertionError("it should not run here")
"""


def run_pytest(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-rs", "-p", "no:cacheprovider", "--strict-markers"]
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("runtime", "same_process"),
    [("inprocess", True), ("process", False), pytest.param("ray", False, marks=pytest.mark.ray)],
)
def test_the_same_tests_run_on_each_runtime(
    tmp_path: Path, runtime: str, same_process: bool, ray_environ: dict[str, str]
) -> None:
    seen = "process" if runtime == "inprocess" else runtime
    (tmp_path / "test_it.py").write_text(TESTS.replace("RUNTIME", repr(seen)))
    run = run_pytest(tmp_path, f"--servekit-runtime={runtime}", **ray_environ)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 passed" in run.stdout
    assert f"PID {same_process}" in run.stdout


def test_what_holds_in_process_alone_says_so_on_real_workers(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(INSIDE)
    run = run_pytest(tmp_path, "--servekit-runtime=process")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed, 1 skipped" in run.stdout
    assert "seed and virtual_clock: for instances in process alone, and this is one on process" in run.stdout


@pytest.mark.parametrize("given", ["7", "sed=7", "seed=7, clock=True"])
def test_a_marker_that_says_something_else_is_an_error(tmp_path: Path, given: str) -> None:
    test = f"import pytest\n@pytest.mark.servekit({given})\ndef test_it(serve_instance): ..."
    (tmp_path / "test_it.py").write_text(test)
    run = run_pytest(tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    assert f"@pytest.mark.servekit takes seed and virtual_clock, by name; not {given}" in run.stdout


def test_the_marker_is_registered(tmp_path: Path) -> None:
    assert "@pytest.mark.servekit(seed=None, virtual_clock=False): " in run_pytest(tmp_path, "--markers").stdout


def test_handlers_in_a_test_module_that_cannot_be_imported_travel_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks" / "test_it.py").write_text(TESTS.replace("RUNTIME", "'process'"))
    # Not below the working directory, which is on the path of `python -m`.
    arguments = ["--import-mode=importlib", "--servekit-runtime=process", "--rootdir", str(tmp_path)]
    run = run_pytest(Path("/"), *arguments, str(tmp_path / "checks"))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "PID False" in run.stdout


# -- what it costs those who do not use it -----------------------------------------------------------------------

IMPORTS = """
import sys, pytest
before = set(sys.modules)
import MODULE
print(sorted(set(sys.modules) - before))
"""

EARLY = """
import sys
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests():
    # Here pytest-cov begins to measure: what is imported by now, it sees too late.
    print("BEFORE", sorted(name for name in sys.modules if name.partition(".")[0] == "servekit"))

def pytest_sessionfinish():
    print("AFTER", sorted(name for name in sys.modules if name.partition(".")[0] == "servekit"))
"""


def imported_by(module: str) -> str:
    code = IMPORTS.replace("MODULE", module)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_plugin_imports_nothing_but_pytest() -> None:
    assert imported_by("servekit_pytest") == "['servekit_pytest']"
    assert "'servekit.api'" in imported_by("servekit"), "this check would see it"


def test_servekit_is_not_imported_before_coverage_is_measured_nor_where_nobody_uses_it(tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text(EARLY)
    (tmp_path / "test_it.py").write_text("def test_it(): ...")
    path = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-p", "early"]
    run = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert "BEFORE []" in run.stdout
    assert "AFTER []" in run.stdout

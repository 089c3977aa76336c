"""Real instances: a controller, ingress workers and replicas in processes of their own, on each bundled runtime."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.support.runtimes import on_each_runtime

# Handlers are to be found by replicas, as they find what lies beside a user's script.
sys.path.insert(0, str(Path(__file__).parent))

from instance_tools import Scripts, empty, end_all, marked, started_standing, temporary_scripts

import servekit as serve


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    on_each_runtime(metafunc, "process", "ray", scope="module")


@pytest.fixture(scope="module")
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def instance(runtime: str, request: pytest.FixtureRequest) -> Iterator[serve.Instance]:
    """One for the tests of a module; they use it through `serving`, or leave it as it was."""
    options = {"address": request.getfixturevalue("ray_address")} if runtime == "ray" else {}
    with serve.init(runtime=runtime, runtime_options=options, http_port=0) as instance:
        yield instance


@pytest.fixture
def serving(instance: serve.Instance) -> Iterator[serve.Instance]:
    """The instance, empty before and after."""
    yield instance
    empty(instance)


@pytest.fixture
def client(instance: serve.Instance) -> Iterator[httpx.Client]:
    """One kept-alive connection to the instance, as long as requests come one after another."""
    with httpx.Client(base_url=instance.url, timeout=60, verify=False) as client:
        yield client


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short folder for sockets and for state, which every process of the test takes for its TMPDIR."""
    with tempfile.TemporaryDirectory(prefix="sk", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setenv("XDG_STATE_HOME", f"{folder}/state")
        yield Path(folder)
        end_all(marked(f"TMPDIR={folder}"))


@pytest.fixture
def detached() -> Iterator[None]:
    """No instance is current before a test and after it."""
    serve.shutdown()
    yield
    serve.shutdown()


@pytest.fixture
def standing(temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """The process of ``servekit start``."""
    with started_standing() as keeper:
        yield keeper


@pytest.fixture
def scripts() -> Iterator[Scripts]:
    """Runs user scripts in a folder of their own, and knows every process that came of them."""
    with temporary_scripts() as scripts:
        yield scripts

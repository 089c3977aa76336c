"""Faults that are injected for real, under a load whose every answer is checked."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.faults.load import Load
from tests.support.runtimes import on_each_runtime

# Handlers are to be found by replicas, as they find what lies beside a user's script; and the tools for processes.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "instances"))

from instance_tools import Scripts, temporary_scripts

import servekit as serve


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    on_each_runtime(metafunc, "process", "ray", scope="module")


@pytest.fixture(scope="module")
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(runtime: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., serve.Instance]]:
    """Starts an owned instance, as ``servekit.init`` does, on the runtime of the test; it ends with the test.

    A test of a fault has one of its own: what is left of the fault is not to be the next one's trouble.
    """
    with contextlib.ExitStack() as undo:

        def start(**options: Any) -> serve.Instance:
            if runtime == "ray":
                options.setdefault("runtime_options", {"address": request.getfixturevalue("ray_address")})
            instance = serve.init(**{"runtime": runtime, "http_port": 0, **options})
            undo.callback(instance.shutdown)
            return instance

        yield start


@pytest.fixture
def load() -> Callable[..., Load]:
    """A `Load` of less than it has by default: two cores serve it, and other tests run beside."""

    def load(instance: serve.Instance, path: str = "/echo", **options: Any) -> Load:
        return Load(instance.url, path, **{"gets": 4, "posts": 2, **options})

    return load


@pytest.fixture
def scripts() -> Iterator[Scripts]:
    """Runs user scripts and command lines in a folder of their own, and knows every process that came of them."""
    with temporary_scripts() as scripts:
        yield scripts

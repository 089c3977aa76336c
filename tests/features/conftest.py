"""One test, every runtime: in process, in child processes, in Ray actors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.runtimes import on_each_runtime

import servekit
from servekit import api
from servekit.testing import instances
from servekit.testing.instances import ServedInstance


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    on_each_runtime(metafunc, "inprocess", "process", "ray", scope="session")


@pytest.fixture(scope="session")
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def host(runtime: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """What the tests of one runtime share."""
    if runtime == "inprocess":
        with instances.open_host("inprocess") as registry:
            yield registry
        return
    options = {"address": request.getfixturevalue("ray_address")} if runtime == "ray" else {}
    with servekit.init(runtime=runtime, runtime_options=options, http_port=0) as instance:
        api.leave_current()
        yield instance


@pytest.fixture
def serve(host: Any) -> Iterator[ServedInstance]:
    """An instance that is current and empty: ``serve.create_backend(…)``, ``serve.client.get("/…")``."""
    with instances.serve(host) as served:
        yield served

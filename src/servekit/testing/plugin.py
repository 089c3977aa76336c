"""The pytest plugin (entry point ``pytest11``): the fixture `serve_instance`, and the option ``--servekit-runtime``.

Nothing but pytest is imported here: a project that has servekit installed and does not use it pays nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from servekit.testing.instances import ServedInstance

RUNTIMES = ("inprocess", "process", "ray")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("servekit").addoption(
        "--servekit-runtime",
        choices=RUNTIMES,
        default="inprocess",
        help="what serve_instance runs on: threads of this process (default), or real workers and real HTTP",
    )


@pytest.fixture(scope="session")
def _servekit_host(request: pytest.FixtureRequest) -> Iterator[object]:
    """What `serve_instance` shares between tests: loaded plugins, or the real instance."""
    from servekit.testing.instances import open_host

    with open_host(request.config.getoption("--servekit-runtime")) as host:
        yield host


@pytest.fixture
def serve_instance(_servekit_host: object) -> Iterator[ServedInstance]:
    """A servekit instance; the module functions (``servekit.create_endpoint`` …) act on it.

    ``serve_instance.client`` is an `httpx.Client` on it. In process by default, which costs milliseconds; with
    ``--servekit-runtime=process`` or ``ray`` the same test runs on real workers. What a test makes is gone after it.
    """
    from servekit.testing.instances import serve

    with serve(_servekit_host) as served:
        yield served

"""The pytest plugin (entry point ``pytest11``): the fixture `serve_instance`, its marker, and ``--servekit-runtime``.

A package of its own, which imports nothing but pytest: pytest loads it in every project that has servekit installed.
One that does not use it pays nothing, and servekit is not imported before pytest-cov watches what is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from servekit.testing.instances import ServedInstance

RUNTIMES = ("inprocess", "process", "ray")
MARKER = "servekit"
MARKER_OPTIONS = ("seed", "virtual_clock")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("servekit").addoption(
        "--servekit-runtime",
        choices=RUNTIMES,
        default=RUNTIMES[0],
        help="what serve_instance runs on: threads of this process (default), or real workers, over TCP",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MARKER}(seed=None, virtual_clock=False): for serve_instance in process: with an int as seed, routing makes "
        "the same choices in every run; with virtual_clock=True, time passes by serve_instance.clock.advance(seconds)",
    )


@pytest.fixture(scope="session")
def _servekit_host(request: pytest.FixtureRequest) -> Iterator[object]:
    """Yield what `serve_instance` shares between tests: loaded plugins, or the real instance."""
    from servekit.testing.instances import open_host

    with open_host(request.config.getoption("--servekit-runtime")) as host:
        yield host


@pytest.fixture
def serve_instance(request: pytest.FixtureRequest) -> Iterator[ServedInstance]:
    """A servekit instance; the module functions (``servekit.create_endpoint`` …) act on it.

    ``serve_instance.client`` is an `httpx.Client` on it. In process by default, which costs milliseconds; with
    ``--servekit-runtime=process`` or ``ray`` the same test runs on real workers. What a test makes is gone after it.
    """
    options = _marked(request.node)
    runtime = request.config.getoption("--servekit-runtime")
    if options and runtime != RUNTIMES[0]:
        pytest.skip(f"{' and '.join(options)}: for instances in process alone, and this is one on {runtime}")
    from servekit.testing.instances import serve

    with serve(request.getfixturevalue("_servekit_host"), **options) as served:
        yield served


def _marked(node: Any) -> dict[str, Any]:
    """Return what the markers on a test, its class and its module say; the nearest has the last word."""
    options: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers(MARKER))):
        if marker.args or not marker.kwargs.keys() <= set(MARKER_OPTIONS):
            given = ", ".join([*map(repr, marker.args), *(f"{key}={value!r}" for key, value in marker.kwargs.items())])
            raise pytest.UsageError(f"@pytest.mark.{MARKER} takes {' and '.join(MARKER_OPTIONS)}, by name; not {given}")
        options.update(marker.kwargs)
    return {key: value for key, value in options.items() if value is not None and value is not False}

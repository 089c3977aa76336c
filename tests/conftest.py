"""What the tests of several folders share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tests.support.runtimes import is_chosen

RAY = """
import sys, ray
context = ray.init(address="local", include_dashboard=True, log_to_driver=False, num_cpus=4, num_gpus=0)
print("ADDRESS", context.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""

# How long an example takes says how busy the machine is.
settings.register_profile("servekit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("servekit")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests that are marked as long too")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """An option and no ``-m "not long"`` in the settings, which any other ``-m`` would take the place of. And what the
    marker of a parameter leaves out."""
    with_long = config.getoption("long")
    left_out = [item for item in items if not is_chosen(item) or (item.get_closest_marker("long") and not with_long)]
    items[:] = [item for item in items if item not in left_out]
    if left_out:
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each process of pytest-xdist has a Ray cluster of its own."""
    from tests.support.side_by_side import Together

    config.option.loadscopereorder = False  # As they are found, long ones come before short ones.
    return Together(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test has logged is sent to the process that prints it, which takes no lone surrogates."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture
def ray_environ(request: pytest.FixtureRequest) -> dict[str, str]:
    """What has a script that serves on the parameter ``runtime`` find the cluster that is up, where that is Ray."""
    if request.getfixturevalue("runtime") != "ray":
        return {}
    return {"RAY_ADDRESS": request.getfixturevalue("ray_address")}


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of one Ray cluster for every module. Only what is about an instance's own Ray starts another: that
    takes 5 s of one core."""
    pytest.importorskip("ray")
    with subprocess.Popen([sys.executable, "-c", RAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ray:
        assert ray.stdout is not None
        yield next(line.split()[1] for line in ray.stdout if line.startswith("ADDRESS"))

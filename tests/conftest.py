"""What the tests of several folders share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

RAY = """
import sys, ray
context = ray.init(address="local", include_dashboard=True, log_to_driver=False, num_cpus=4, num_gpus=0)
print("ADDRESS", context.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of one Ray cluster for every module; `test_lifetimes` alone lets an instance start its own."""
    pytest.importorskip("ray")
    with subprocess.Popen([sys.executable, "-c", RAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ray:
        assert ray.stdout is not None
        yield next(line.split()[1] for line in ray.stdout if line.startswith("ADDRESS"))

"""Real instances: a controller, ingress workers and replicas in processes of their own, on each bundled runtime."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

# Handlers are to be found by replicas, as they find what lies beside a user's script.
sys.path.insert(0, str(Path(__file__).parent))

from instance_tools import Scripts, temporary_scripts

import servekit as serve

RAY = """
import sys, ray
context = ray.init(address="local", include_dashboard=True, log_to_driver=False, num_cpus=4, num_gpus=0)
print("ADDRESS", context.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """One Ray cluster for every module; a local Ray of an instance's own is for `test_lifetimes`."""
    pytest.importorskip("ray")
    with subprocess.Popen([sys.executable, "-c", RAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ray:
        assert ray.stdout is not None
        yield next(line.split()[1] for line in ray.stdout if line.startswith("ADDRESS"))


@pytest.fixture(scope="module", params=["process", pytest.param("ray", marks=pytest.mark.ray)])
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
    for name in instance.list_endpoints():
        instance.delete_endpoint(name)
    for name in instance.list_backends():
        instance.delete_backend(name)


@pytest.fixture
def client(instance: serve.Instance) -> Iterator[httpx.Client]:
    """One kept-alive connection to the instance, as long as requests come one after another."""
    with httpx.Client(base_url=instance.url, timeout=60, verify=False) as client:
        yield client


@pytest.fixture
def scripts() -> Iterator[Scripts]:
    """Runs user scripts in a folder of their own, and knows every process that came of them."""
    with temporary_scripts() as scripts:
        yield scripts

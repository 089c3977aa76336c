"""The runtime ``ray`` does what every runtime must, on a cluster that was there before."""

from __future__ import annotations

import pytest

from servekit.interfaces import ReplicaRuntime
from servekit.testing.conformance import ReplicaRuntimeTests
from servekit_ray import RayRuntime


@pytest.mark.ray
class TestRayRuntime(ReplicaRuntimeTests):
    worker_options = {"num_cpus": 0.5}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def _cluster(self, ray_address: str) -> None:
        self.address = ray_address

    def make_runtime(self) -> ReplicaRuntime:
        return RayRuntime(address=self.address)

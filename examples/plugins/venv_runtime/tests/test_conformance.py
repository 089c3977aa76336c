"""The runtime ``venv`` does what every replica runtime must: servekit's own kit says so."""

import pytest
from servekit_venv import VenvRuntime

from servekit.testing.conformance import ReplicaRuntimeTests


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("venvs"))


class TestVenvRuntime(ReplicaRuntimeTests):
    @pytest.fixture(autouse=True)
    def _use(self, folder):
        self.folder = folder  # One environment for all cases.

    def make_runtime(self):
        return VenvRuntime(["six==1.16.0"], folder=self.folder)

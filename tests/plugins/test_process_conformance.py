"""The runtime ``process`` does what every runtime must."""

from __future__ import annotations

import pytest

from servekit.interfaces import ReplicaRuntime
from servekit.testing.conformance import ReplicaRuntimeTests
from servekit_process import ProcessRuntime


@pytest.mark.processes
class TestProcessRuntime(ReplicaRuntimeTests):
    def make_runtime(self) -> ReplicaRuntime:
        return ProcessRuntime()

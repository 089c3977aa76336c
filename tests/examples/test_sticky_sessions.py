"""The example of a third-party policy: its own tests, with its entry point where an installed package has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "examples" / "plugins" / "sticky_sessions"


@pytest.mark.processes
def test_its_own_tests_pass_on_processes(run_own_tests: Callable[..., str]) -> None:
    """Those that an instance has a part in. All of them run where it is installed as a wheel: `tests/packaging`."""
    assert "skipped" not in run_own_tests("process", "-k", "session_stays")

"""The example of a third-party policy: its own tests, with its entry point where an installed package has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "examples" / "plugins" / "sticky_sessions"


@pytest.mark.parametrize(
    ("runtime", "chosen"),
    [("inprocess", []), pytest.param("process", ["-k", "session_stays"], marks=pytest.mark.processes)],
)
def test_its_own_tests_pass(run_own_tests: Callable[..., str], runtime: str, chosen: list[str]) -> None:
    assert "skipped" not in run_own_tests(runtime, *chosen)

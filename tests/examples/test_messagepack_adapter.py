"""The example of a third-party adapter: its own tests, with its entry point where an installed package has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "examples" / "plugins" / "messagepack_adapter"


@pytest.mark.processes
def test_its_own_tests_pass_on_processes(run_own_tests: Callable[..., str]) -> None:
    """Those that an instance has a part in. All of them run where it is installed as a wheel: `tests/packaging`."""
    run_own_tests("process", "-k", "test_an_endpoint or in_a_batch")


def test_its_own_tests_pass_in_process(run_own_tests: Callable[..., str]) -> None:
    run_own_tests("inprocess")


def test_it_imports_only_what_is_public() -> None:
    imported = {
        line.split()[1]
        for path in PACKAGE.glob("src/**/*.py")
        for line in path.read_text().splitlines()
        if line.startswith(("from servekit.", "import servekit"))
    }
    assert imported == {"servekit.hookspecs", "servekit.interfaces"}

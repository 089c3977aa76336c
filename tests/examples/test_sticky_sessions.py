"""The example of a third-party policy: its own tests, with its entry point where an installed package has it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "examples" / "plugins" / "sticky_sessions"


@pytest.mark.parametrize(
    ("runtime", "chosen"),
    [("inprocess", []), pytest.param("process", ["-k", "session_stays"], marks=pytest.mark.processes)],
)
def test_its_own_tests_pass(site: Path, tmp_path: Path, runtime: str, chosen: list[str]) -> None:
    shutil.copytree(PACKAGE / "tests", tmp_path / "work" / "tests")
    shutil.copy(PACKAGE / "pyproject.toml", tmp_path / "work")
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--servekit-runtime={runtime}", *chosen],
        cwd=tmp_path / "work",
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout

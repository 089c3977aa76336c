"""The example of a third-party policy: its own tests, with its entry point where an installed package has it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

PACKAGE = Path(__file__).parents[2] / "examples" / "plugins" / "sticky_sessions"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with the package and its metadata, as pip leaves them: entry points are found there."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    shutil.copytree(PACKAGE / "src", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    metadata = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [f"{name} = {module}" for name, module in project["entry-points"]["servekit"].items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[servekit]", *lines, ""]))
    return tmp_path


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

"""What the tests of the example packages share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.runtimes import on_each_runtime

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory with the module's ``PACKAGE`` and its metadata, as pip leaves them: entry points are found there."""
    package: Path = request.module.PACKAGE
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    site = tmp_path / "site"
    shutil.copytree(package / "src", site, ignore=shutil.ignore_patterns("__pycache__"))
    metadata = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (metadata / "METADATA").write_text(head)
    lines = [f"{name} = {module}" for name, module in project["entry-points"]["servekit"].items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[servekit]", *lines, ""]))
    return site


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    on_each_runtime(metafunc, "process", "ray", scope="function")


@pytest.fixture
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run_demo(runtime: str, ray_environ: dict[str, str]) -> Callable[..., str]:
    """Run the ``demo.py`` of a folder on the parameter ``runtime``, with more arguments; what it printed."""

    def run(folder: Path, *arguments: str) -> str:
        command = [sys.executable, str(folder / "demo.py"), "--runtime", runtime, *arguments]
        environ = os.environ | ray_environ
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def run_own_tests(request: pytest.FixtureRequest, site: Path, tmp_path: Path) -> Callable[..., str]:
    """Run the package's own tests on a runtime, with more arguments of pytest; what pytest printed, for they pass."""

    def run(runtime: str, *arguments: str) -> str:
        package: Path = request.module.PACKAGE
        shutil.copytree(package / "tests", tmp_path / "work" / "tests")
        shutil.copy(package / "pyproject.toml", tmp_path / "work")
        path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                f"--servekit-runtime={runtime}",
                *arguments,
            ],
            cwd=tmp_path / "work",
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert " passed" in done.stdout
        return done.stdout

    return run

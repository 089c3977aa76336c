"""The example distribution ``servekit-venv``: built, installed beside this servekit, and put to its own tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import servekit

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugins" / "venv_runtime"


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has the example installed, and whatever this one has."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder)
    python = str(folder / "bin" / "python")
    source = tmp_path_factory.mktemp("source") / "venv_runtime"
    shutil.copytree(EXAMPLE, source)
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    if run(*pip, "download", "--no-deps", "-q", "-d", str(folder / "probe"), "six==1.16.0", cwd=folder).returncode:
        pytest.skip("there is no pip here, or it reaches no package index")
    done = run(*pip, "install", "--no-deps", "-q", str(source), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (site_packages,) = folder.glob("lib/python*/site-packages")
    host = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    # addsitedir reads the .pth files there as well: servekit may be installed in editable mode.
    lines = [f"import site; site.addsitedir({path!r})\n" for path in host]
    (site_packages / "host.pth").write_text("".join(lines))
    done = run(python, "-c", "import servekit; print(servekit.__file__)", cwd=folder)
    assert done.stdout.strip() == servekit.__file__, done.stderr
    return python


@pytest.mark.processes
def test_the_installed_distribution_passes_its_own_tests(python: str, tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    shutil.copytree(EXAMPLE / "tests", tests)
    command = [python, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--import-mode=importlib"]
    done = run(*command, str(tests), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_it_imports_only_what_is_public() -> None:
    public = {"servekit"} | {
        f"servekit.{name}" for name in ("interfaces", "hookspecs", "errors", "processes", "worker")
    }
    imported = {
        line.split()[1]
        for path in EXAMPLE.glob("src/**/*.py")
        for line in path.read_text().splitlines()
        if line.startswith(("from servekit", "import servekit"))
    }
    own = {name for name in imported if name.startswith("servekit_venv")}
    assert imported - own
    assert imported - own <= public

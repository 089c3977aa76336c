"""Wheels, as a stranger gets them: built from this tree, installed in clean virtual environments, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples" / "plugins").iterdir())
BUILD_TIMEOUT_S = 300.0
SCRIPT_TIMEOUT_S = 120.0

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "{name}"
version = "{version}"
dependencies = ["servekit"]
[project.entry-points.servekit]
{entry} = "{module}"
[tool.hatch.build.targets.wheel]
packages = ["{module}"]
"""


class Installation:
    """A virtual environment without this tree on its path."""

    def __init__(self, folder: Path, base: Installation | None = None) -> None:
        """``base``: one of which this is a copy. That takes less than to install it all again; scripts in its ``bin``
        still run that one's Python."""
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        if base is None:
            subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=BUILD_TIMEOUT_S)
        else:
            shutil.copytree(base.folder / "venv", folder / "venv", symlinks=True)

    def pip(self, *arguments: object) -> None:
        command = [self.python, "-m", "pip", "--disable-pip-version-check", "-q", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def wheel(self, source: Path, into: Path) -> Path:
        """Build the wheel of ``source``, from a copy: nothing is left in the tree."""
        into.mkdir(parents=True, exist_ok=True)
        self.pip("wheel", "--no-deps", "--no-build-isolation", "-w", into, source)
        return max(into.glob("*.whl"), key=lambda path: path.stat().st_mtime)

    def install(self, *sources: Path) -> None:
        """Build the wheel of each source, and install it."""
        self.pip("install", "--no-deps", "--no-build-isolation", *sources)

    def package(self, name: str, code: str, *, version: str = "1.0") -> Path:
        """The source of a distribution that has one module with this code."""
        module = name.replace("-", "_")
        source = self.folder / "made" / name
        (source / module).mkdir(parents=True)
        (source / module / "__init__.py").write_text(textwrap.dedent(code))
        text = PYPROJECT.format(name=name, version=version, entry=module, module=module)
        (source / "pyproject.toml").write_text(text)
        return source

    def run(self, code: str, **environ: str) -> tuple[Any, str]:
        """What the script's last line of output says as JSON, and its stderr."""
        script = self.folder / "script.py"
        script.write_text(textwrap.dedent(code))
        kept = {
            key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "SERVEKIT_DISABLE_PLUGINS")
        }
        done = subprocess.run(
            [self.python, script],
            cwd=self.folder,
            env={**kept, **environ},
            capture_output=True,
            text=True,
            timeout=SCRIPT_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1]), done.stderr

"""What the tests of the example packages share."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

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

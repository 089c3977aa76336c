"""servekit's wheel, built once, and a clean virtual environment that has it installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from packaging_tools import ROOT, Installation


@pytest.fixture(scope="session")
def servekit_wheel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Installation, Path]:
    """An environment that can build wheels, and servekit's wheel."""
    builder = Installation(tmp_path_factory.mktemp("builder"))
    builder.pip("install", "hatchling>=1.27")
    return builder, builder.wheel(ROOT, builder.folder / "wheels" / "servekit")


@pytest.fixture(scope="module")
def installed(servekit_wheel: tuple[Installation, Path], tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """A clean environment with servekit's wheel, and hatchling to build more."""
    _, wheel = servekit_wheel
    installation = Installation(tmp_path_factory.mktemp("clean"))
    installation.pip("install", "hatchling>=1.27", wheel)
    return installation

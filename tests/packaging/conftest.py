"""servekit's wheel, built and installed once, with what its tests and those of the examples need."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from packaging_tools import ROOT, Installation


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """servekit's wheel and its extra ``testing``, with hatchling to build more."""
    base = Installation(tmp_path_factory.mktemp("base"))
    base.pip("install", "hatchling>=1.27")
    wheel = base.wheel(ROOT, base.folder / "wheels")
    base.pip("install", f"servekit[testing] @ {wheel.as_uri()}")
    return base


@pytest.fixture
def installed(base: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """A copy of that one: what a test installs is there for it alone."""
    return Installation(tmp_path_factory.mktemp("clean"), base)

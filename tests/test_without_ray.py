"""Where Ray is not installed (``tox run -e noray``), choosing it says what to install."""

from __future__ import annotations

import importlib.util

import pytest

import servekit
from servekit.errors import MissingDependencyError


@pytest.mark.processes
@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed: tox run -e noray")
def test_choosing_ray_says_what_to_install() -> None:
    with pytest.raises(MissingDependencyError, match=r"servekit\[ray\]"):
        servekit.init(http_port=0)
    with pytest.raises(servekit.errors.NotRunningError):
        servekit.list_endpoints()

"""On which runtimes a test runs that has the argument ``runtime``."""

from __future__ import annotations

from typing import Any

import pytest

MARKS = {"process": pytest.mark.processes, "ray": pytest.mark.ray}


def on_each_runtime(metafunc: pytest.Metafunc, *names: str, scope: Any) -> None:
    """Once on each of ``names``; on fewer where the marker ``runtimes`` of the test or of its module says so. For
    ``pytest_generate_tests`` of a folder. What the core's processes do is the same whoever hosts them: a case earns
    another runtime where that has a part in it."""
    if "runtime" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("runtimes")
        chosen = [pytest.param(name, marks=MARKS.get(name, ())) for name in (marker.args if marker else names)]
        metafunc.parametrize("runtime", chosen, indirect=True, scope=scope)

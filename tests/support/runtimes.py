"""On which runtimes a test runs that has the argument ``runtime``, as its marker ``runtimes`` says, its module's, or
that of one of its parameters."""

from __future__ import annotations

from typing import Any

import pytest

MARKS = {"process": pytest.mark.processes, "ray": pytest.mark.ray}
NOT_ON_RAY = pytest.mark.runtimes("inprocess", "process")


def on_each_runtime(metafunc: pytest.Metafunc, *names: str, scope: Any) -> None:
    """Once on each of ``names``; on fewer where the marker ``runtimes`` of the test or of its module says so. For
    ``pytest_generate_tests`` of a folder. What the core's processes do is the same whoever hosts them: a case earns
    another runtime where that has a part in it."""
    if "runtime" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("runtimes")
        chosen = [pytest.param(name, marks=MARKS.get(name, ())) for name in (marker.args if marker else names)]
        metafunc.parametrize("runtime", chosen, indirect=True, scope=scope)


def is_chosen(item: pytest.Item) -> bool:
    """Whether the runtime of a test is one that each marker ``runtimes`` of its own names: a parameter that has one, as
    in ``pytest.param(…, marks=NOT_ON_RAY)``, runs on fewer than the others. `on_each_runtime` does not know it yet."""
    callspec = getattr(item, "callspec", None)
    if callspec is None or "runtime" not in callspec.params:
        return True
    return all(callspec.params["runtime"] in mark.args for mark in item.own_markers if mark.name == "runtimes")

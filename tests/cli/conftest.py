"""A place of its own for the instances of a test."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.instances.instance_tools import Scripts, end_all, marked, temporary_scripts

sys.path.insert(0, str(Path(__file__).parent))  # Replicas find handlers there.


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A short folder for sockets and for state, which every process of the module takes for its TMPDIR."""
    with (
        tempfile.TemporaryDirectory(prefix="sk", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        patch.setenv("XDG_STATE_HOME", f"{folder}/state")
        yield Path(folder)
        end_all(process for process in marked(f"TMPDIR={folder}"))


@pytest.fixture
def scripts() -> Iterator[Scripts]:
    """Runs commands in a folder of their own, and knows every process that came of them."""
    with temporary_scripts() as scripts:
        yield scripts

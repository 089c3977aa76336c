"""What a main script defines works in another process: see `rebuild_script`, which both run."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("rebuild_script.py")
CASES = [
    node.name
    for node in ast.parse(SCRIPT.read_text()).body
    if isinstance(node, ast.FunctionDef) and any(ast.unparse(mark) == "case" for mark in node.decorator_list)
]


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    ran = subprocess.run(
        [sys.executable, SCRIPT], capture_output=True, text=True, cwd=tmp_path_factory.mktemp("elsewhere"), check=False
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, str | None] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("case", CASES)
def test_what_a_script_defines_works_elsewhere(failures: dict[str, str | None], case: str) -> None:
    assert failures[case] is None, failures[case]

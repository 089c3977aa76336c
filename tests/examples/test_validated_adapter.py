"""The example of a third-party adapter: its own tests, with its entry point where an installed package has it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "examples" / "plugins" / "validated_adapter"


@pytest.mark.processes
def test_its_own_tests_pass_on_processes(run_own_tests: Callable[..., str]) -> None:
    """Those that an instance has a part in. All of them run where it is installed as a wheel: `tests/packaging`."""
    pytest.importorskip("pydantic")
    run_own_tests("process", "-k", "test_an_endpoint")


def test_structs_are_validated_where_there_is_no_pydantic(site: Path, tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text("raise ModuleNotFoundError('no', name='pydantic')")
    program = """
import msgspec
from servekit.interfaces import Request
from servekit_validated import ValidatedAdapter

class Item(msgspec.Struct):
    price: float

def handler(item: Item):
    return {"seen": item}

for body in (b'{"price": 1}', b'{"price": ""}'):
    answer = ValidatedAdapter().call(handler, Request("POST", "/", b"", [], body, "e", "/", "1", ""))
    print(answer.status, answer.body.decode())
"""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(site)])}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [
        '200 {"seen":{"price":1.0}}',
        '422 {"detail":[{"loc":["price"],"msg":"Expected `float`, got `str`"}]}',
    ]


def test_it_imports_only_what_is_public() -> None:
    imported = {
        line.split()[1]
        for path in PACKAGE.glob("src/**/*.py")
        for line in path.read_text().splitlines()
        if line.startswith(("from servekit.", "import servekit"))
    }
    assert imported == {"servekit.hookspecs", "servekit.interfaces"}

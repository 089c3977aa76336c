"""Every python block of the README and of the docs runs, as a reader would run it.

The blocks of a file, in order, are one script, which runs on the process runtime and a free port (the README's on Ray
too). ``print(...)  # text`` says what that line prints. A comment above a block says when it is something else::

    <!-- test: pytest -->         a test module of its own, run by pytest
    <!-- test: file NAME.py -->   a module, there for the other blocks of that file
    <!-- test: skip REASON -->    not run
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- test: (\w+) ?([^\n]*?) -->\n\n?)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTS = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    kind: str
    argument: str
    code: str


def blocks(page: Path) -> list[Block]:
    return [Block(kind or "script", argument, code) for kind, argument, code in BLOCK.findall(page.read_text())]


def having(*kinds: str) -> list[Path]:
    return [page for page in PAGES if any(block.kind in kinds for block in blocks(page))]


def script_cases() -> list[object]:
    name = "{0.stem}-{1}".format
    cases = [
        pytest.param(page, "process", marks=pytest.mark.processes, id=name(page, "process"))
        for page in having("script")
    ]
    return [*cases, pytest.param(PAGES[0], "ray", marks=pytest.mark.ray, id=name(PAGES[0], "ray"))]


def write_modules(page: Path, directory: Path) -> None:
    for block in blocks(page):
        if block.kind == "file":
            (directory / block.argument).write_text(block.code)


def run(directory: Path, *command: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_every_block_says_what_it_is() -> None:
    kinds = {block.kind for page in PAGES for block in blocks(page)}
    assert kinds <= {"script", "pytest", "file", "skip"}
    assert having("script")
    assert having("pytest")
    for page in PAGES:
        text = page.read_text()
        assert len(blocks(page)) == text.count("```python"), f"{page.name}: a python block that the test does not see"
        assert text.count("<!-- test:") == sum(block.kind != "script" for block in blocks(page)), page.name


@pytest.mark.parametrize(("page", "runtime"), script_cases())
def test_scripts(page: Path, runtime: str, ray_environ: dict[str, str], tmp_path: Path) -> None:
    script = "\n".join(block.code for block in blocks(page) if block.kind == "script")
    port = free_port()
    code = script.replace("serve.init()", f'serve.init(runtime="{runtime}")')
    code = code.replace("serve.init(", f"serve.init(http_port={port}, ").replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    write_modules(page, tmp_path)
    (tmp_path / "script.py").write_text(code)
    assert run(tmp_path, "script.py", **ray_environ).splitlines() == PRINTS.findall(script)


@pytest.mark.parametrize("page", having("pytest"), ids=lambda page: page.stem)
def test_test_modules(page: Path, tmp_path: Path) -> None:
    write_modules(page, tmp_path)
    modules = [block.code for block in blocks(page) if block.kind == "pytest"]
    for number, code in enumerate(modules):
        (tmp_path / f"test_block_{number}.py").write_text(code)
    output = run(tmp_path, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider")
    passed = int(re.findall(r"(\d+) passed", output)[-1])
    written = sum(code.count("def test_") for code in modules)
    inherited = any("Tests):" in code for code in modules)  # from a conformance kit
    assert passed > written if inherited else passed == written

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from servekit.code.bundle import Code
from servekit.code.closure import Closure

Write = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stands on `sys.path`; what is imported from it is forgotten in the end."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def write(folder: Path) -> Write:
    def write(**files: str) -> None:
        """By path, with ``__`` for a slash: ``pkg__sub="…"`` is ``pkg/sub.py``."""
        for name, text in files.items():
            path = folder / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def frozen(*names: str, exclude: tuple[str, ...] = (), data: tuple[str, ...] = ()) -> Code:
    closure = Closure(exclude)
    closure.add(names)
    for pattern in data:
        assert closure.add_data(pattern)
    return closure.code({})


def paths(code: Code) -> list[str]:
    return [file.path for file in code.files]

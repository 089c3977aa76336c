"""Where a file was edited since it was imported, what runs is frozen, and a warning names the file."""

from __future__ import annotations

import importlib
import importlib.util
import os
import py_compile
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.code.conftest import Write

from servekit.code.finder import FrozenLoader
from servekit.code.modules import find
from servekit.code.running import Running, running


@pytest.fixture(autouse=True)
def _bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)


def imported(name: str) -> ModuleType:
    importlib.invalidate_caches()
    return importlib.import_module(name)


def what_runs(name: str) -> Running:
    module = find(name)
    assert module is not None
    found = running(module)
    assert found is not None
    return found


def value_of(found: Running, folder: Path) -> object:
    """What the frozen module says when it is loaded."""
    file = folder / f"frozen{found.suffix}"
    file.write_bytes(found.data)
    module = ModuleType("frozen")
    code = FrozenLoader("frozen", str(folder / "frozen.py"), str(file)).get_code("frozen")
    assert code is not None
    exec(code, vars(module))
    return module.value()  # type: ignore[attr-defined]


def test_a_file_as_it_was_imported(write: Write) -> None:
    write(zz_m="def value(): return 1")
    imported("zz_m")
    assert what_runs("zz_m") == Running(b"def value(): return 1", ".py")


@pytest.mark.parametrize("edited", ["def value(): return 2", "# longer\ndef value(): return 1 + 1"])
def test_an_edited_file(edited: str, write: Write, folder: Path) -> None:
    """Of the same size and in the same second, too, which Python itself does not see."""
    write(zz_m="def value(): return 1")
    imported("zz_m")
    write(zz_m=edited)
    found = what_runs("zz_m")
    assert found.suffix == ".pyc"
    assert "zz_m.py was edited after" in found.warning
    assert value_of(found, folder) == 1


def test_constants_that_were_edited(write: Write, folder: Path) -> None:
    write(zz_m="WORD = 1\ndef value(): return WORD")
    imported("zz_m")
    write(zz_m="WORD = 22\ndef value(): return WORD")
    assert value_of(what_runs("zz_m"), folder) == 1


def test_a_file_that_was_edited_and_imported_anew(write: Write, folder: Path) -> None:
    write(zz_m="def value(): return 1")
    module = imported("zz_m")
    write(zz_m="def value(): return 1 + 1")
    importlib.reload(module)
    found = what_runs("zz_m")
    assert (found.suffix, found.warning) == (".py", "")
    assert value_of(found, folder) == 2


def test_a_file_that_was_only_touched(write: Write, folder: Path) -> None:
    write(zz_m="def value(): return 1")
    imported("zz_m")
    os.utime(folder / "zz_m.py", (10**9, 10**9))
    assert what_runs("zz_m") == Running(b"def value(): return 1", ".py")


def test_old_bytecode_that_could_not_be_replaced(write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(zz_m="WORD = 1")
    py_compile.compile(str(folder / "zz_m.py"))
    write(zz_m="WORD = 22")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    imported("zz_m")
    assert what_runs("zz_m") == Running(b"WORD = 22", ".py")


def test_without_bytecode_the_file_is_frozen_and_that_is_said(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(zz_m="def value(): return 1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    imported("zz_m")
    write(zz_m="def value(): return 2")
    found = what_runs("zz_m")
    assert (found.data, found.suffix) == (b"def value(): return 2", ".py")
    assert "what is in the file now" in found.warning


def test_without_bytecode_edited_constants_are_seen(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(zz_m="WORD = 1\ndef value(): return WORD")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    imported("zz_m")
    assert what_runs("zz_m").warning == ""
    write(zz_m="WORD = 2\ndef value(): return WORD")
    assert "what is in the file now" in what_runs("zz_m").warning


def test_a_file_that_is_gone(write: Write, folder: Path) -> None:
    write(zz_m="def value(): return 1")
    imported("zz_m")
    (folder / "zz_m.py").unlink()
    found = what_runs("zz_m")
    assert "is gone" in found.warning
    assert value_of(found, folder) == 1


def test_decorated_methods_and_made_functions_are_no_edit(write: Write) -> None:
    write(
        zz_m="import dataclasses, functools\n"
        "@dataclasses.dataclass\nclass D:\n    a: int\n    @property\n    def p(self): return 1\n"
        "    @staticmethod\n    def s(): pass\n    @functools.cache\n    def c(self): pass\n"
        "def deco(f):\n    @functools.wraps(f)\n    def g(): return f()\n    return g\n@deco\ndef h(): pass\n"
    )
    imported("zz_m")
    assert what_runs("zz_m").warning == ""

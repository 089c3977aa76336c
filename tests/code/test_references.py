"""What a pickle refers to: modules by name, and the sources of what goes by value."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from servekit.code.freezing import Freezing
from servekit.code.references import References
from servekit.targets import pack_target


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a source as the main script's, and gives its module."""

    def run(source: str, encoding: str = "utf-8") -> Any:
        file = tmp_path / "script.py"
        file.write_bytes(source.encode(encoding))
        module = ModuleType("__main__")
        module.__file__ = str(file)
        monkeypatch.setitem(sys.modules, "__main__", module)
        linecache.clearcache()
        exec(compile(file.read_bytes(), str(file), "exec", dont_inherit=True), vars(module))
        return module

    return run


def references_of(function: Any) -> References:
    references = References()
    code = function.__code__
    references.note_function(function)
    references.note_code(code)
    return references


def test_imports_of_a_function_by_the_level_of_its_package() -> None:
    module: dict[str, Any] = {"__package__": "pkg.sub"}
    exec("def f():\n    import a.b\n    from . import c\n    from ..d import e, g", module)
    assert references_of(module["f"]).modules == {"a.b", "pkg.sub", "pkg.sub.c", "pkg.d", "pkg.d.e", "pkg.d.g"}


def test_a_function_with_more_names_than_an_instruction_holds() -> None:
    module: dict[str, Any] = {}
    names = "\n".join(f"    name_{n} = {n}.5; use(name_{n}, global_{n})" for n in range(300))
    exec(f"def f():\n{names}\n    from a import b", module)
    assert references_of(module["f"]).modules == {"a", "a.b"}


def test_functions_of_one_script_have_digests_of_their_own(main: Any) -> None:
    module = main("def f(request):\n    return 'one'\ng = f\ndef f(request):\n    return {'two', 'sets'} and 'two'\n")
    one, two, again = (pack_target(each, (), None, Freezing()).code for each in (module.g, module.f, module.f))
    assert one.digest != two.digest == again.digest
    assert not pack_target(eval("lambda request: 3"), (), None, Freezing()).code.is_empty


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_the_source_of_a_script_is_there_in_whatever_encoding(main: Any, encoding: str) -> None:
    module = main(f"# -*- coding: {encoding} -*-\ndef f(request):\n    return '\u00e9'\n", encoding)
    packed = pack_target(module.f, (), None, Freezing())
    assert packed.warnings == []
    assert "return '\u00e9'" in packed.code.texts[module.__file__]


def test_a_script_that_was_edited_since_has_no_source(main: Any) -> None:
    module = main("def f(request):\n    return 1\n")
    Path(module.__file__).write_text("def f(request):\n    return 2\n")
    linecache.clearcache()
    packed = pack_target(module.f, (), None, Freezing())
    assert packed.code.texts == {module.__file__: ""}
    assert "was edited after this process had begun to run it" in packed.warnings[0]

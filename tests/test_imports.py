"""``import servekit`` costs nothing and starts nothing; its files import each other in one direction."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Set
from pathlib import Path

import servekit

PROBE = """
import os, sys, threading
import servekit
heavy = sorted({"ray", "flask", "numpy"} & set(sys.modules))
assert not heavy, f"import servekit imports {heavy}"
loaded = sorted(name for name in sys.modules if name.startswith("servekit_"))
assert not loaded, f"import servekit loads the plugins {loaded}"
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no children")
"""


def test_import_loads_no_plugin_and_starts_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "no children\n"


# -- the sources -------------------------------------------------------------------------------------------------------


def parsed(root: Path) -> dict[str, ast.Module]:
    """The modules of the package whose folder is ``root``, by their names."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text())
    return found


def imports(modules: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """For each module, those of ``modules`` that it imports anywhere: under ``TYPE_CHECKING`` and in functions, too."""
    found: dict[str, set[str]] = {name: set() for name in modules}
    for name, tree in modules.items():
        for node in ast.walk(tree):
            wanted: list[tuple[str, ...]]
            if isinstance(node, ast.Import):
                wanted = [(alias.name,) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                wanted = [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
            else:
                continue
            for names in wanted:
                found[name].update([each for each in names if each in modules][:1])
    return found


def reachable(start: str, edges: Mapping[str, Set[str]]) -> set[str]:
    """All that ``start`` leads to; ``start`` itself where a circle leads back."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = edges[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def circles(edges: Mapping[str, Set[str]]) -> list[list[str]]:
    """The modules that import each other in circles, each in the one set of those that it is in a circle with."""
    leads_to = {name: reachable(name, edges) for name in edges}
    found = {
        tuple(sorted(other for other in leads_to[name] if name in leads_to[other]))
        for name in edges
        if name in leads_to[name]
    }
    return [list(each) for each in sorted(found)]


CORE = parsed(Path(servekit.__file__).parent)


def test_no_circle_of_imports_has_more_than_two_files() -> None:
    """Those that only type checkers follow are imports, too: they say what a reader must know."""
    assert [circle for circle in circles(imports(CORE)) if len(circle) > 2] == []


def test_no_class_name_stands_twice() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for name, tree in CORE.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_circles_are_found_however_modules_are_imported() -> None:
    sources = {
        "p": "",
        "p.a": "from __future__ import annotations\nif TYPE_CHECKING:\n    from p.b import B",
        "p.b": "def f():\n    from p import c",
        "p.c": "import p.a, os",
        "p.d": "from p.a import A\nfrom p import nothing",
        "p.e": "from p.d import D",
    }
    edges = imports({name: ast.parse(source) for name, source in sources.items()})
    assert edges["p.d"] == {"p.a", "p"}
    assert circles(edges) == [["p.a", "p.b", "p.c"]]

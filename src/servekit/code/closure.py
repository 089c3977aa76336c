"""The code that a target needs: the local modules in the static closure of its imports, in whole top-level packages."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import pkgutil
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from servekit.code.bundle import Code, CodeFile
from servekit.code.modules import FoundModule, Ownership, distribution_of, find, is_code, owner_of
from servekit.code.running import running
from servekit.errors import InvalidInputError
from servekit.processes import tellable

MOST_BYTES = 50 * 1000**2
MOST_FILES = 10_000
_NAMED_IN_ERROR = 5


class Closure:
    """Collects modules and data files; `code` gives all that was collected."""

    def __init__(self, exclude: Iterable[str] = ()) -> None:
        self._exclude = tuple(exclude)
        self.unused = set(self._exclude)
        """Those of ``exclude`` that have left out nothing so far."""
        self._left_out: set[str] = set()
        self._files: dict[str, CodeFile] = {}
        self._namespaces: dict[str, tuple[str, ...]] = {}
        self._distributions: dict[str, str] = {}
        self._owners: dict[str, Ownership] = {}
        """The owner of each top-level name that was met."""
        self._taken: set[str] = set()
        """Modules that are in the files, or were left out."""
        self._seen: set[str] = set()
        self._roots: set[str] = set()
        """Folders that top-level modules were found in."""
        self._sizes: list[tuple[int, str]] = []
        self._bytes = 0
        self.warnings: list[str] = []

    def add(self, names: Iterable[str]) -> None:
        """Take the modules of these names, whole top-level packages, and all modules that these import, and so on."""
        waiting = set(names) - self._seen
        while waiting:
            name = min(waiting)  # Always in the same order: a module may be reached in several ways.
            self._seen.add(name)
            top = name.partition(".")[0]
            if top not in self._owners:
                self._owners[top] = Ownership.NOBODY
                waiting |= self.add_top(top)
            if name not in self._taken and self._owners[top] in (Ownership.USER, Ownership.NOBODY):
                waiting |= self._add_single(name)
            waiting -= self._seen

    def add_data(self, pattern: str) -> bool:
        """Take the files that match ``pattern``, relative to the folders that modules were found in.

        False where no file matches. Raises `InvalidInputError` for what is no pattern.
        """
        found = False
        for root in sorted(self._roots):
            try:
                paths = sorted(Path(root).glob(pattern))
            except ValueError as error:
                raise InvalidInputError(f"include: {pattern!r} is no pattern of files: {error}") from None
            for path in paths:
                relative = tellable(path.relative_to(root).as_posix())
                if path.is_file() and self._is_data(relative) and not self._is_excluded("", relative):
                    executable = os.access(path, os.X_OK)
                    self._keep(CodeFile(relative, "", str(path), False, path.read_bytes(), executable))
                found = found or path.is_file()
        return found

    def _is_data(self, path: str) -> bool:
        """Whether the file is no module that was taken; an extension module may also be a library, to be loaded by its
        path."""
        return path not in self._files or path.endswith(tuple(EXTENSION_SUFFIXES))

    def add_root(self, folder: str) -> None:
        """Look for data in this folder as well as in those of modules: it is the main script's."""
        self._roots.add(folder)

    def code(self, texts: Mapping[str, str], functions: Iterable[str] = ()) -> Code:
        """All that was collected. Raises `InvalidInputError` beyond `MOST_BYTES` and `MOST_FILES`."""
        if self._bytes > MOST_BYTES or len(self._sizes) > MOST_FILES:
            largest = sorted(self._sizes, reverse=True)[:_NAMED_IN_ERROR]
            raise InvalidInputError(
                f"the local code that the target needs is {len(self._sizes):,} files of {self._bytes / 1e6:,.1f} MB in "
                f"all, above {MOST_FILES:,} files or {MOST_BYTES / 1e6:g} MB. The largest: "
                + ", ".join(f"{path} ({size / 1e6:,.1f} MB)" for size, path in largest)
                + ". Leave out what the target does not need, exclude=['package.tests', 'package/data/*'], install "
                "what is large as a package, or let replicas import the files as they are, freeze=False"
            )
        files = tuple(self._files[path] for path in sorted(self._files))
        python = platform.python_version()
        namespaces = dict(sorted(self._namespaces.items()))
        functions, left_out = tuple(sorted(functions)), tuple(sorted(self._left_out))
        return Code(files, namespaces, dict(texts), functions, left_out, self._distributions, python)

    # -- modules and packages ------------------------------------------------------------------------------------

    def add_top(self, top: str) -> set[str]:
        """Take a top-level module or package, and return the names of the modules that it imports, which are not taken.

        Nothing is taken where the module is not the user's.
        """
        found = find(top)
        if found is None:
            return set()  # The import may be in a branch that is never taken.
        # A file that bears such a name by chance is not the user's module, unless this process has imported it as such.
        by_chance = found.module is None and top in sys.stdlib_module_names
        owner = self._owners[top] = Ownership.PYTHON if by_chance else owner_of(found)
        if owner is Ownership.INSTALLED:
            known = distribution_of(found)
            if known is not None:
                self._distributions[known[0]] = known[1]
        if owner is not Ownership.USER:
            return set()
        imported: set[str] = set()
        for module in self._package(found):
            imported |= self._add_module(module)
        return imported

    def _add_single(self, name: str) -> set[str]:
        """Take a module that is not in its package's folder: it was loaded from another path, or by a loader of the
        user's. Returns the names of the modules that it imports."""
        found = find(name)
        if found is None or not found.origin or owner_of(found) is not Ownership.USER:
            return set()
        parent = name.rpartition(".")[0]
        while parent and parent not in self._taken:
            self._taken.add(parent)
            self._namespaces[parent] = ()
            parent = parent.rpartition(".")[0]
        return self._add_module(found)

    def _add_module(self, found: FoundModule) -> set[str]:
        """Take one module; return the names of the modules that it imports."""
        self._taken.add(found.name)
        if found.is_namespace:
            self._namespaces[found.name] = found.locations or ()
            return set()
        is_package = found.locations is not None
        stem = found.name.replace(".", "/") + ("/__init__" if is_package else "")
        if self._is_excluded(found.name, f"{stem}.py"):
            self._left_out.add(f"{stem}.py")
            return set()
        what = running(found)
        if what is None:
            if found.module is not None:
                self.warnings.append(f"{found.origin} is gone: replicas import {found.name} as they find it")
            return set()
        if what.warning:
            self.warnings.append(what.warning)
        if "." not in found.name:
            folder = os.path.dirname(found.origin)
            self._roots.add(os.path.dirname(folder) if is_package else folder)
        self._keep(CodeFile(stem + what.suffix, found.name, found.origin, is_package, what.data))
        if what.suffix in EXTENSION_SUFFIXES:
            return set()
        source = what.data if what.suffix == ".py" else found.source() or b""
        return set(imported_names(source, found.name if is_package else found.name.rpartition(".")[0]))

    def _package(self, found: FoundModule) -> Iterator[FoundModule]:
        """A module; and where it is a package, all modules in it."""
        yield found
        for location in found.locations or ():
            if os.path.isdir(location):
                if owner_of(FoundModule(found.name, "", None, (location,))) is Ownership.USER:
                    names = _members(location)
                    self._roots.add(str(Path(location).parents[found.name.count(".")]))
                else:
                    continue
            else:
                names = [info.name for info in pkgutil.iter_modules([location])]
            for name in names:
                member = find(f"{found.name}.{name}")
                if member is None:
                    continue
                if self._is_excluded(member.name, ""):
                    path = member.name.replace(".", "/")
                    self._left_out.add(path if member.locations is not None else _beside(path, member.origin))
                else:
                    yield from self._package(member)

    # -- what is kept ----------------------------------------------------------------------------------------------

    def _keep(self, file: CodeFile) -> None:
        self._sizes.append((len(file.data), file.origin))
        self._bytes += len(file.data)
        if self._bytes > MOST_BYTES:  # Only the file's size is of use now, for the error.
            file = CodeFile(file.path, file.module, file.origin, file.is_package, b"")
        self._files[file.path] = file

    def _is_excluded(self, module: str, path: str) -> bool:
        for item in self._exclude:
            named = module and (module == item or module.startswith(f"{item}."))
            if named or (path and fnmatchcase(path, item)):
                self.unused.discard(item)
                return True
        return False


def _beside(path: str, origin: str) -> str:
    return os.path.join(os.path.dirname(path), os.path.basename(origin))


def _members(folder: str) -> list[str]:
    """The names of modules and packages in a package's folder."""
    names = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, _, rest = entry.name.partition(".")
            is_name = stem.isidentifier() and stem not in ("__init__", "__pycache__") and not rest.endswith("pyc")
            if is_name and is_code(entry):
                names.add(stem)
    return sorted(names)


@functools.lru_cache(maxsize=4096)
def imported_names(source: bytes, package: str) -> frozenset[str]:
    """The absolute names of the modules that ``source`` imports; its relative imports start from ``package``.

    ``from a import b`` names ``a`` and ``a.b``, which may be no module. None, where the source is not Python.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return frozenset()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolved(node.module or "", node.level, package)
            if base:
                names.add(base)
                names.update(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and _calls_import(node.func) and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str) and not first.value.startswith("."):
                names.add(first.value)
    return frozenset(names)


def resolved(module: str, level: int, package: str) -> str:
    """The absolute name of the module that ``from ..module import`` names in ``package``; empty where there is none."""
    try:
        return importlib.util.resolve_name("." * level + module, package)
    except ImportError:  # It leads out of the package.
        return ""


def _calls_import(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        return function.attr == "import_module"
    return isinstance(function, ast.Name) and function.id in ("import_module", "__import__")

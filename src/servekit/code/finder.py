"""Serves frozen code from a folder: the modules under their original ``__file__``, before ``sys.path`` is asked.

This file imports the standard library alone: a copy of it is in every folder of frozen code, whose ``sitecustomize``
imports the copy, so that children of handlers, whose ``PYTHONPATH`` begins with the folder, run the same code.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import linecache
import marshal
import os
import sys
import threading
import traceback
import zipimport
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import MAGIC_NUMBER, module_from_spec, spec_from_file_location
from types import CodeType, ModuleType
from typing import Any

MANIFEST = "_servekit_code.json"
"""The file that says which modules a folder has, and where they came from:
``{"modules": {name: [path in the folder, original file, is a package]}, "namespaces": {name: [original folder, …]},
"texts": {file name: source}, "digests": {top-level name: digest}, "distributions": {name: version},
"python": version}``."""
COPY = "_servekit_finder"
"""The name of this file's copy in a folder, which the folder's ``sitecustomize`` imports."""
PYC_HEADER_BYTES = 16
"""PEP 552: magic number, flags, and the time and size of the source."""


class FrozenFinder(MetaPathFinder):
    """Finds the modules of one folder; all others are left to the finders behind this one."""

    def __init__(self, folder: str) -> None:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
        self.folder = folder
        self.manifest = found
        self._modules: dict[str, tuple[str, str, bool]] = found["modules"]
        self._namespaces: dict[str, list[str]] = found["namespaces"]
        self.local_folders: Sequence[str] = ()
        """The folders in which the client had its own top-level modules."""
        self.tell_unfrozen: Callable[[str, str], None] = lambda name, file: None
        """Called with the name and the file of each module that is found there, and not in the folder of frozen
        code."""
        self.digests: dict[str, str] = found["digests"]
        """The digest of each top-level module and package."""
        for name, text in found["texts"].items():
            show_source(name, text)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        found = self._modules.get(fullname)
        if found is not None:
            return self._module_spec(fullname, *found)
        if fullname in self._namespaces:
            return self._namespace_spec(fullname, path)
        if "." not in fullname:
            self._tell_unfrozen(fullname)
        return None

    def _module_spec(self, name: str, relative: str, origin: str, is_package: bool) -> ModuleSpec | None:
        file = os.path.join(self.folder, relative)
        if relative.endswith(tuple(EXTENSION_SUFFIXES)):
            if os.path.isfile(origin) and filecmp.cmp(origin, file, shallow=False):
                file = origin  # The folder may be on a file system that is mounted noexec, as /tmp may be.
            return spec_from_file_location(name, file, loader=ExtensionFileLoader(name, file))
        # Not the original folder, in which there may be newer code. Its data is linked into the folder.
        locations = [os.path.dirname(file)] if is_package else None
        loader = FrozenLoader(name, origin, file)
        return spec_from_file_location(name, origin, loader=loader, submodule_search_locations=locations)

    def _namespace_spec(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """A package without ``__init__``: its frozen portion, and those that are installed here; not the original
        folder."""
        own = os.path.join(self.folder, *name.split(".")[:-1])
        originals = {os.path.dirname(location) for location in self._namespaces[name]}
        others = [entry for entry in (sys.path if path is None else path) if entry not in originals]
        return PathFinder.find_spec(name, [own, *others])

    def _tell_unfrozen(self, name: str) -> None:
        """Call `tell_unfrozen` where the module is the user's own: the frozen code does not have it, so that it may
        differ from one version of a backend to the next."""
        for folder in self.local_folders if name not in sys.stdlib_module_names else ():
            for file in (f"{name}.py", os.path.join(name, "__init__.py")):
                if os.path.isfile(os.path.join(folder, file)):
                    self.tell_unfrozen(name, os.path.join(folder, file))
                    return


class FrozenLoader(SourceFileLoader):
    """Loads one module from the folder, as if from its original file. No bytecode is read or written."""

    def __init__(self, name: str, origin: str, file: str) -> None:
        super().__init__(name, origin)
        self.file = file

    def frozen(self) -> bytes:
        """The bytes that run: source, or bytecode."""
        return super().get_data(self.file)

    def get_data(self, path: Any) -> bytes:
        if path == self.path:
            return self.frozen()
        try:
            return super().get_data(path)
        except NotADirectoryError:
            return bytes(self._archive().get_data(path))

    def get_resource_reader(self, name: str | None = None) -> Any:
        if os.path.isdir(os.path.dirname(self.path)):
            return super().get_resource_reader(name)
        return self._archive().get_resource_reader(name)

    def _archive(self) -> Any:
        """The importer of the archive that the module is in, where its file is such as ``/x/app.zip/module.py``."""
        archive = os.path.dirname(self.path)
        while not os.path.isfile(archive):
            archive, _ = os.path.split(archive)
            if archive == os.path.dirname(archive):
                raise FileNotFoundError(f"{self.path} and what was beside it are gone")
        return zipimport.zipimporter(archive)

    def path_stats(self, path: Any) -> Any:
        raise OSError("frozen code has no bytecode beside the original file")

    def get_code(self, fullname: str) -> CodeType | None:
        if not self.file.endswith(".pyc"):
            return super().get_code(fullname)
        data = self.get_data(self.path)
        if data[:4] != MAGIC_NUMBER:
            raise ImportError(
                f"{self.path} was edited after the client had imported it, so its bytecode was frozen, which this "
                "Python cannot read: create the backend again from a process that imports the file as it is now",
                name=fullname,
                path=self.path,
            )
        code = marshal.loads(memoryview(data)[PYC_HEADER_BYTES:])
        assert isinstance(code, CodeType)
        return code

    def get_source(self, fullname: str) -> str | None:  # None: bytecode has no source.
        return None if self.file.endswith(".pyc") else super().get_source(fullname)

    def exec_module(self, module: ModuleType) -> None:
        # Tracebacks and `inspect` are to show the code that runs, not that of the original file as it is by now.
        show_source(self.path, self.get_source(module.__name__) or "")
        super().exec_module(module)


def show_source(name: str, text: str) -> None:
    """Let `linecache` give ``text`` for the file ``name``; without a time, so that the file itself is never looked
    at."""
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)


def install(folder: str) -> FrozenFinder:
    """Serve the code in ``folder`` in this process, before any other code; a second call returns the same finder."""
    for finder in _finders():
        if finder.folder == folder:
            return finder
    finder = FrozenFinder(folder)
    sys.meta_path.insert(0, finder)
    _show_frozen_lines()
    if folder not in sys.path:
        sys.path.insert(0, folder)  # For children of `multiprocessing`, which find the sitecustomize there.
    return finder


def _show_frozen_lines() -> None:
    """Print uncaught exceptions with the lines of the code that runs; Python before 3.13 takes the files as they are
    now."""
    if sys.version_info >= (3, 13):
        return
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = lambda kind, error, trace: traceback.print_exception(kind, error, trace)
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _show_of_thread


def _show_of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit and sys.stderr is not None:
        print(f"Exception in thread {getattr(args.thread, 'name', '?')}:", file=sys.stderr)
        traceback.print_exception(args.exc_type, args.exc_value, args.exc_traceback)


def runs_frozen_code() -> bool:
    """Whether this process is a replica, or a child of one."""
    return bool(_finders())


def is_frozen(module: str) -> bool:
    """Whether this process runs frozen code that has the module."""
    return any(finder.find_spec(module) is not None for finder in _finders())


def frozen_digest(top: str) -> str:
    """The digest of a top-level module or package of the frozen code that this process runs; empty where the code does
    not have it."""
    return next((finder.digests[top] for finder in _finders() if top in finder.digests), "")


def _finders() -> list[FrozenFinder]:
    # By the name of the class, for the folder's own sitecustomize has another class of this name.
    return [finder for finder in sys.meta_path if type(finder).__name__ == FrozenFinder.__name__]  # type: ignore[misc]


def _run_next_sitecustomize() -> None:
    """Run the ``sitecustomize`` that Python would have run, if the folder's own did not come first."""
    others = [entry for entry in sys.path if not os.path.exists(os.path.join(entry, MANIFEST))]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


def _leave_out_working_directory() -> None:
    """Ray puts nothing behind the last colon of PYTHONPATH where a node has none: Python takes that for a folder."""
    path = os.environ.get("PYTHONPATH", "")
    if path.endswith(os.pathsep):
        os.environ["PYTHONPATH"] = path.rstrip(os.pathsep)
        with contextlib.suppress(ValueError, OSError):  # It is on the path in another form, or deleted.
            sys.path.remove(os.getcwd())


if __name__ == COPY:
    _leave_out_working_directory()
    install(os.path.dirname(os.path.abspath(__file__)))
    _run_next_sitecustomize()

"""Finds where this process has a module from, without importing any, and whose the module is."""

from __future__ import annotations

import contextlib
import enum
import functools
import os
import site
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from servekit.processes import standard_library

SUFFIXES = (".py", *EXTENSION_SUFFIXES)
_MOST_FOLDERS = 1_000
"""How many folders are searched for modules at most: a folder that has none in so many holds data."""


def is_main(module: str) -> bool:
    """Whether this is the main script's module, under its own name or under the one that `multiprocessing` gives it."""
    return module in ("__main__", "__mp_main__")


class FoundModule(NamedTuple):
    """A module, as an import in this process would give it."""

    name: str
    origin: str
    """Its ``__file__``; empty where it has none: built-in, or a package without ``__init__``."""
    loader: Any
    locations: tuple[str, ...] | None
    """The folders of a package, in which its submodules are looked for; None where the module is no package."""
    module: ModuleType | None = None
    """The module itself, where it is imported already."""

    @property
    def is_namespace(self) -> bool:
        return self.locations is not None and not self.origin

    def source(self) -> bytes | None:
        """The bytes of the module's file, or the source that its loader gives; None where there is neither."""
        try:
            return Path(self.origin).read_bytes()
        except OSError:
            pass
        for get in ("get_data", "get_source"):
            try:
                data = getattr(self.loader, get)(self.origin if get == "get_data" else self.name)
            except (AttributeError, ImportError, OSError):
                continue
            if data is not None:
                return data.encode() if isinstance(data, str) else bytes(data)
        return None

    @property
    def is_plain(self) -> bool:
        """Whether Python's own loader has run the file as it is; pytest's, for one, runs it rewritten."""
        return type(self.loader) is SourceFileLoader


def find(name: str) -> FoundModule | None:
    """The module ``name``: the one that is imported, or else the one that an import would find; None where there is
    none."""
    module = sys.modules.get(name)
    if isinstance(module, ModuleType) and not is_main(name):
        return _loaded(name, module)
    parent, _, _ = name.rpartition(".")
    path: Sequence[str] | None = None
    if parent:
        package = find(parent)
        if package is None or package.locations is None:
            return None
        path = package.locations
    spec = _find_spec(name, path)
    return _folders(name, path or ()) if spec is None else _from_spec(name, spec, None)


def _folders(name: str, path: Sequence[str]) -> FoundModule | None:
    """A package without ``__init__`` in a package that is not imported: Python's finder would ask for the parent."""
    places = [os.path.join(entry, name.rpartition(".")[2]) for entry in path]
    locations = tuple(place for place in places if os.path.isdir(place))
    return FoundModule(name, "", None, locations) if locations else None


def _loaded(name: str, module: ModuleType) -> FoundModule:
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        return _from_spec(name, spec, module)
    locations = getattr(module, "__path__", None)
    origin = getattr(module, "__file__", None) or ""
    loader = getattr(module, "__loader__", None)
    return FoundModule(name, origin, loader, None if locations is None else tuple(locations), module)


def _from_spec(name: str, spec: ModuleSpec, module: ModuleType | None) -> FoundModule:
    locations = spec.submodule_search_locations
    origin = getattr(module, "__file__", None) or (spec.origin if spec.has_location else None)
    if not origin and spec.origin not in ("built-in", "frozen") and _has_sources(spec.loader):
        origin = spec.origin or f"<{name}>"  # A loader of the user's own need not know files.
    return FoundModule(name, origin or "", spec.loader, None if locations is None else tuple(locations), module)


def _has_sources(loader: object) -> bool:
    # Python's loader of packages without __init__ has the method too; its class is public from 3.11 on.
    return hasattr(loader, "get_source") and not type(loader).__name__.endswith("NamespaceLoader")


@functools.lru_cache(maxsize=4096)
def is_importable(name: str) -> bool:
    """Whether an import in another process would find the module that this one has under this name.

    False where the module was loaded by its path, as pytest's ``--import-mode=importlib`` does: there may even be
    another module of that name on ``sys.path``.
    """
    path: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        spec = _find_spec(".".join(parts[:count]), path)
        if spec is None or (count < len(parts) and spec.submodule_search_locations is None):
            return False
        path = spec.submodule_search_locations
    own: str | None = getattr(sys.modules.get(name), "__file__", None)
    if own is None or spec is None or not spec.has_location:
        return True
    return os.path.realpath(own) == os.path.realpath(spec.origin or "")


def _find_spec(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    # Not importlib.util.find_spec: that imports the parents.
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        if find_spec is not None:
            try:
                spec: ModuleSpec | None = find_spec(name, path)
            except Exception:  # A finder of the user's own may not expect to be asked for this.
                continue
            if spec is not None:
                return spec
    return None


class Ownership(enum.Enum):
    """The owner of a module."""

    USER = "user"
    """The module is local: neither of the standard library, nor of an installed distribution, nor servekit's. A
    distribution that is installed as editable is local: its files are where its developer changes them."""
    INSTALLED = "installed"
    PYTHON = "python"
    NOBODY = "nobody"
    """The module has no file and no folder: it is built into the interpreter, or made by hand."""


def owner_of(found: FoundModule) -> Ownership:
    top = found.name.partition(".")[0]
    places = [found.origin] if found.origin else [*(found.locations or ())]
    if not places:
        return Ownership.NOBODY
    if all(map(_is_standard, places)):
        return Ownership.PYTHON
    if top in own_names() or all(_is_installed(place, top) for place in places):
        return Ownership.INSTALLED
    return Ownership.USER


def distribution_of(found: FoundModule) -> tuple[str, str] | None:
    """Name and version of the installed distribution that the module's top-level package belongs to."""
    top = found.name.partition(".")[0]
    return _distribution("servekit" if top in own_names() else top)


@functools.cache
def own_names() -> frozenset[str]:
    """The top-level names that belong to servekit itself: a replica has imported them already."""
    import importlib_metadata  # This import is slow, and replicas rarely need it.

    try:
        points = importlib_metadata.distribution("servekit").entry_points
    except importlib_metadata.PackageNotFoundError:
        return frozenset({"servekit"})
    return frozenset({"servekit", *(point.module.partition(".")[0] for point in points)})


@functools.cache
def _site_folders() -> tuple[str, ...]:
    """Where distributions are installed, in this interpreter and in the one that its environment was made from."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    folders.add(site.getusersitepackages() if site.ENABLE_USER_SITE else "")
    with contextlib.suppress(AttributeError):  # An embedded interpreter may have another `site`.
        folders.update(site.getsitepackages(), site.getsitepackages([sys.base_prefix]))
    folders.update(entry for entry in sys.path if os.path.basename(entry) in ("site-packages", "dist-packages"))
    return tuple(os.path.realpath(folder) + os.sep for folder in folders if folder)


@functools.cache
def _standard_folders() -> tuple[str, ...]:
    return tuple(os.path.realpath(folder) + os.sep for folder in standard_library())


@functools.lru_cache(maxsize=4096)
def _is_standard(place: str) -> bool:
    real = os.path.realpath(place)
    return real.startswith(_standard_folders()) and not real.startswith(_site_folders())


@functools.lru_cache(maxsize=4096)
def _is_installed(place: str, top: str) -> bool:
    real = os.path.realpath(place)
    return real.startswith(_site_folders()) or _is_in_target_folder(real, top)


def _is_in_target_folder(place: str, top: str) -> bool:
    """Whether an installer has put the module into a folder of the user's own: ``pip install --target``."""
    parts = Path(place).parts
    for index in range(len(parts) - 1, 0, -1):
        if parts[index] in (top, f"{top}.py") or parts[index].startswith(f"{top}."):
            return _installs(str(Path(*parts[:index])), top)
    return False


@functools.lru_cache(maxsize=256)
def _installs(folder: str, top: str) -> bool:
    if not any(Path(folder).glob("*.dist-info/RECORD")):
        return False
    import importlib_metadata

    return any(_has_file_of(found, top) for found in importlib_metadata.distributions(path=[folder]))


@functools.lru_cache(maxsize=1024)
def _distribution(top: str) -> tuple[str, str] | None:
    import importlib_metadata

    try:
        found = importlib_metadata.distribution(top)
        if top == "servekit" or top in (found.read_text("top_level.txt") or "").split() or _has_file_of(found, top):
            return found.name, found.version
    except (importlib_metadata.PackageNotFoundError, ValueError):
        pass
    names = _distributions().get(top, ())
    return (names[0], importlib_metadata.version(names[0])) if names else None


def _has_file_of(distribution: Any, top: str) -> bool:
    return any(file.parts[0] in (top, f"{top}.py") for file in distribution.files or ())


@functools.cache
def _distributions() -> dict[str, list[str]]:
    import importlib_metadata

    # This reads the records of every distribution: it is for names alone that are not their distribution's.
    return {name: sorted(set(found)) for name, found in importlib_metadata.packages_distributions().items()}


def is_code(entry: os.DirEntry[str]) -> bool:
    """Whether an import could find the entry: a module's file, or a folder that is a package or has modules below
    it."""
    if entry.name == "__pycache__":
        return True
    if not entry.is_dir():
        return entry.name.endswith((*SUFFIXES, ".pyc"))
    return entry.name.isidentifier() and _holds_code(entry.path)


def _holds_code(folder: str) -> bool:
    """Whether a folder is a package, or has modules somewhere below it; False for a virtual environment."""
    if os.path.exists(os.path.join(folder, "pyvenv.cfg")) or Path(folder).resolve() in Path(folder).absolute().parents:
        return False
    if os.path.exists(os.path.join(folder, "__init__.py")):
        return True
    for _, (_, folders, files) in zip(range(_MOST_FOLDERS), os.walk(folder), strict=False):
        if any(name.endswith(SUFFIXES) for name in files):
            return True
        folders[:] = [name for name in folders if name.isidentifier() and name != "__pycache__"]
    return False

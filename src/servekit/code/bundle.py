"""Frozen code: in memory, as the bytes that travel, and as the folder that `servekit.code.finder` serves from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from servekit.code import finder
from servekit.code.modules import is_code

_SITECUSTOMIZE = f"""\
import sys

if sys.version_info >= (3, 10):  # Children may be of another Python.
    import {finder.COPY}
"""


class CodeFile(msgspec.Struct, frozen=True, array_like=True):
    """One frozen file."""

    path: str
    """Within the folder: ``package/module.py``; ``.pyc`` where only the bytecode is known."""
    module: str
    """The module's name; empty for a data file."""
    origin: str
    """The file's path on the client's machine."""
    is_package: bool
    data: bytes
    is_executable: bool = False

    @property
    def top(self) -> str:
        """The name of its top-level module or package."""
        return self.module.partition(".")[0]


class Code(msgspec.Struct, frozen=True, array_like=True):
    """The modules of the client's own that a backend's target needs."""

    files: tuple[CodeFile, ...] = ()
    """By path."""
    namespaces: dict[str, tuple[str, ...]] = {}
    """Packages without ``__init__``: name, and their folders on the client's machine."""
    texts: dict[str, str] = {}
    """The sources of functions that travel by value (the main script's, a notebook's), by file name."""
    functions: tuple[str, ...] = ()
    """A digest of each function that travels by value."""
    left_out: tuple[str, ...] = ()
    """Paths of modules and packages that were not to be frozen, and that replicas import as they find them."""
    distributions: dict[str, str] = {}
    """Installed distributions that the code imports: they are not frozen; name and version."""
    python: str = ""
    """Version of the client's Python."""

    @property
    def digest(self) -> str:
        """A short digest by which people tell one version of the code from another: the same for the same sources, in
        whatever folders they are."""
        total = hashlib.sha256()
        for file in self.files:
            total.update(f"{file.path} {hashlib.sha256(file.data).hexdigest()}\n".encode())
        for function in self.functions:
            total.update(function.encode())
        return total.hexdigest()[:16]

    @property
    def is_empty(self) -> bool:
        return not (self.files or self.functions)

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    def listing(self) -> list[dict[str, object]]:
        """For people: path, original file, size and SHA-256 of each file."""
        return [
            {
                "path": file.path,
                "file": file.origin,
                "size_bytes": len(file.data),
                "sha256": hashlib.sha256(file.data).hexdigest(),
            }
            for file in self.files
        ]


def decode(data: bytes) -> Code:
    return msgspec.msgpack.decode(data, type=Code)


def digests(code: Code) -> dict[str, str]:
    """A digest for each top-level name, by which two processes find out which of their packages differ."""
    totals: dict[str, list[CodeFile]] = {}
    for file in code.files:
        totals.setdefault(file.top, []).append(file)
    return {top: Code(tuple(files)).digest for top, files in totals.items() if top}


def unpack(code: Code, folder: Path) -> None:
    """Write the folder, whole or not at all; where it is there already, do nothing.

    The files are read-only (0400). Files that lie beside their originals, and are no code, are linked.
    """
    if folder.exists():
        return
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name[:16]}-", dir=folder.parent))
    try:
        for file in code.files:
            _write(part / file.path, file.data, 0o500 if file.is_executable else 0o400)
        _write(part / finder.MANIFEST, json.dumps(_manifest(code, folder)).encode())
        _write(part / f"{finder.COPY}.py", Path(finder.__file__).read_bytes())
        # Last: the interpreter would not have run a module of the user's own of that name either.
        _write(part / "sitecustomize.py", _SITECUSTOMIZE.encode())
        _link_rest(code, part)
        part.rename(folder)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        if not folder.exists():  # Else another process was faster.
            raise


def _link_rest(code: Code, part: Path) -> None:
    """Link data files into the folder: a package's `__path__` leads there alone, so that no code that came later is
    found, but data is to be found."""
    originals: dict[str, set[str]] = {}
    for file in code.files:
        if "/" in file.path:
            originals.setdefault(os.path.dirname(file.path), set()).add(os.path.dirname(file.origin))
    for name, locations in code.namespaces.items():
        originals.setdefault(name.replace(".", "/"), set()).update(locations)
    for relative, folders in originals.items():
        for entry in [entry for folder in sorted(folders) for entry in _entries(folder)]:
            path = f"{relative}/{entry.name}"
            if path in code.left_out or not is_code(entry):
                with contextlib.suppress(FileExistsError):
                    (part / relative).mkdir(mode=0o700, parents=True, exist_ok=True)
                    (part / path).symlink_to(entry.path)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """The entries of a folder; none, where the folder is not on this machine, or is within an archive."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _write(path: Path, data: bytes, mode: int = 0o400) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)


def _manifest(code: Code, folder: Path) -> Mapping[str, object]:
    beside_data = _tops_beside_data(code)
    return {
        "modules": {
            file.module: (
                file.path,
                str(folder / file.path) if file.top in beside_data else file.origin,
                file.is_package,
            )
            for file in code.files
            if file.module
        },
        "namespaces": code.namespaces,
        "texts": code.texts,
        "digests": digests(code),
        "distributions": code.distributions,
        "python": code.python,
    }


def _tops_beside_data(code: Code) -> set[str]:
    """The top-level modules beside which data was frozen: their ``__file__`` is in the folder of frozen code, as the
    data is."""
    data = [file.path for file in code.files if not file.module]
    packages = {path.partition("/")[0] for path in data if "/" in path}
    loose = any("/" not in path for path in data)
    return {file.top for file in code.files if file.top in packages or (loose and file.path.startswith(f"{file.top}."))}

"""The code that a module runs in this process, though its file may have been edited since it was imported."""

from __future__ import annotations

import ast
import functools
import inspect
import marshal
import os
import sys
import time
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import MAGIC_NUMBER
from types import CodeType, ModuleType
from typing import NamedTuple

from servekit.code.finder import PYC_HEADER_BYTES, FrozenLoader
from servekit.code.modules import FoundModule
from servekit.processes import identify

_BYTECODE = "the backend gets what this process runs, of which tracebacks cannot show the source"


class Running(NamedTuple):
    """The bytes to freeze of a module, the suffix that says what they are, and a warning where there is one."""

    data: bytes
    suffix: str
    warning: str = ""


def running(found: FoundModule) -> Running | None:
    """The bytes to freeze of ``found``: its source, or the bytecode of an earlier source, which is the one that runs.

    None where the module has neither source nor bytecode.
    """
    if type(found.loader).__name__ == FrozenLoader.__name__:  # Here, or in the folder's own sitecustomize.
        return Running(found.loader.frozen(), ".pyc" if found.loader.file.endswith(".pyc") else ".py")
    for suffix in EXTENSION_SUFFIXES:
        if found.origin.endswith(suffix):
            data = found.source()
            return None if data is None else Running(data, suffix)
    source = found.source()
    if source is not None and found.origin.endswith(".pyc"):
        return Running(source, ".pyc")
    if found.module is None or not found.is_plain:
        return None if source is None else Running(source, ".py")
    if source is not None:
        return _imported(found, found.module, source)
    pyc = _bytecode(found.module)
    return None if pyc is None else Running(pyc, ".pyc", f"{found.origin} is gone: {_BYTECODE}")


def _imported(found: FoundModule, module: ModuleType, source: bytes) -> Running:
    pyc = _bytecode(module)
    if not _may_be_edited(found.origin, pyc):
        return Running(source, ".py")
    live, current = frozenset(_live_codes(module, found.origin)), compiled(source, found.origin)
    if pyc is not None:
        made = _codes(pyc)
        # Old bytecode in a folder that cannot be written to says nothing: the import could not write its own.
        if live <= made and made != current and (not live <= current or _writes_bytecode(module)):
            return Running(
                pyc,
                ".pyc",
                f"{found.origin} was edited after this process had imported it: {_BYTECODE}. "
                "Import it anew for what is in the file now",
            )
    if not live <= current or (pyc is None and _constants_differ(module, source)):
        return Running(
            source,
            ".py",
            f"{found.origin} was edited after this process had imported it: the backend gets what is in the file now, "
            "for the source of what this process runs is gone",
        )
    return Running(source, ".py")


def _may_be_edited(origin: str, pyc: bytes | None) -> bool:
    """Whether the file was written since this process began, or is not the one that the bytecode was made from."""
    found = os.stat(origin)
    if found.st_mtime >= _process_began():
        return True
    if pyc is None:
        return False
    time_and_size = int(found.st_mtime) & 0xFFFFFFFF, found.st_size & 0xFFFFFFFF
    return (int.from_bytes(pyc[8:12], "little"), int.from_bytes(pyc[12:16], "little")) != time_and_size


@functools.cache
def _process_began() -> float:
    """The time when this process began, less the difference that the clocks of kernel and file systems may have."""
    own = identify(os.getpid())
    assert own is not None
    alive_s = time.clock_gettime(time.CLOCK_BOOTTIME) - own.start_ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - alive_s - 2.0


def _writes_bytecode(module: ModuleType) -> bool:
    return not sys.dont_write_bytecode and os.access(os.path.dirname(module.__cached__ or ""), os.W_OK)


def _constants_differ(module: ModuleType, source: bytes) -> bool:
    """Whether the module has other constants as globals than its source says. Its own code may have changed them,
    too."""
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError):
        return True
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            if any(vars(module).get(name, statement.value.value) != statement.value.value for name in names):
                return True
    return False


def _bytecode(module: ModuleType) -> bytes | None:
    path = getattr(module, "__cached__", None)
    try:
        with open(path or "", "rb") as file:
            data = file.read()
    except OSError:
        return None
    # Flags other than 0: checked by a hash of the source, if at all.
    return data if data[:4] == MAGIC_NUMBER and data[4:8] == bytes(4) else None


def _codes(pyc: bytes) -> frozenset[CodeType]:
    return frozenset(nested(marshal.loads(memoryview(pyc)[PYC_HEADER_BYTES:])))


@functools.lru_cache(maxsize=256)
def compiled(source: bytes | str, origin: str) -> frozenset[CodeType]:
    """All code objects that the compiler makes from ``source``; none, where the source is not Python."""
    try:
        return frozenset(nested(compile(source, origin, "exec", dont_inherit=True)))
    except (SyntaxError, ValueError):
        return frozenset()


def nested(code: CodeType) -> Iterator[CodeType]:
    """``code``, and all code objects in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def _live_codes(module: ModuleType, origin: str) -> Iterator[CodeType]:
    """The code objects of the module's functions and methods that come from its own file."""
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        for member in [value, *vars(value).values()] if inspect.isclass(value) else [value]:
            try:
                code = getattr(inspect.unwrap(member) if callable(member) else member, "__code__", None)
            except Exception:  # An object of the user's may raise anything.
                continue
            if isinstance(code, CodeType) and code.co_filename == origin:
                yield code

"""A script, run in this process as ``python SCRIPT`` runs it: as the module ``__main__``."""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from types import ModuleType, TracebackType
from typing import NoReturn

from servekit.errors import NotFoundError


def source_of(path: str) -> bytes:
    """The script at ``path``; raises `NotFoundError`."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        module, dot, name = path.rpartition(".")
        hint = (
            f"; of a module write {module}:{name}" if dot and f"{module}{name}".isidentifier() and name != "py" else ""
        )
        raise NotFoundError(f"the script {path!r} cannot be read: {error.strerror or error}{hint}") from error


def run(path: str, source: bytes, arguments: Sequence[str]) -> None:
    """Run the script to its end. Raises what the script raises.

    Its functions and classes are those of ``sys.modules["__main__"]`` from then on.
    """
    file_name = os.path.abspath(path)
    find_modules_in(os.path.dirname(os.path.realpath(path)))
    sys.argv[:] = [path, *arguments]
    main = ModuleType("__main__")
    main.__dict__.update(__file__=file_name, __builtins__=builtins, __cached__=None, __annotations__={})
    main.__loader__ = SourceFileLoader("__main__", file_name)
    sys.modules["__main__"] = main
    exec(compile(source, file_name, "exec", dont_inherit=True), main.__dict__)


def find_modules_in(folder: str) -> None:
    """Put ``folder`` where Python puts a script's; the one that Python has put there for the command goes."""
    if getattr(sys.flags, "safe_path", False):
        return
    if sys.path and sys.path[0] in ("", os.getcwd(), os.path.dirname(os.path.realpath(sys.argv[0]))):
        del sys.path[0]
    sys.path.insert(0, folder)


def show(error: Exception) -> NoReturn:
    """Print an exception of the user's code, as Python would, and raise ``SystemExit``."""
    error.__traceback__ = users_part(error.__traceback__)
    sys.excepthook(type(error), error, error.__traceback__)
    raise SystemExit(1) from None


def users_part(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without what comes before the user's code; None where there is nothing else."""
    own = (__package__, "importlib", "pkgutil")
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(own):
        trace = trace.tb_next
    return trace

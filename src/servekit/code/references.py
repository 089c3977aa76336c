"""The references of a pickle: modules, by name, and the code and sources of functions that travel whole."""

from __future__ import annotations

import dis
import functools
import hashlib
import linecache
import os
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any

from servekit.code.closure import resolved
from servekit.code.modules import find
from servekit.code.running import compiled


class References:
    """Collects references; a pickler calls its methods."""

    def __init__(self, modules: Iterable[str] = ()) -> None:
        self.modules = set(modules)
        self.texts: dict[str, str] = {}
        """The sources of functions that travel whole, by file name; empty where other code runs than is in the file."""
        self.functions: set[str] = set()
        """A digest of each function that travels whole."""
        self.warnings: list[str] = []
        self._package = ""

    def note_module(self, name: str) -> None:
        self.modules.add(name)

    def note_function(self, function: FunctionType) -> None:
        """Note a function; where it travels whole, `note_code` follows at once."""
        self._package = str(function.__globals__.get("__package__") or "")

    def note_code(self, code: CodeType) -> None:
        """Note the code of a function that travels whole."""
        self.modules.update(_imports(code, self._package))
        self.functions.add(_digest(code))
        self._note_text(code)

    def _note_text(self, code: CodeType) -> None:
        name = code.co_filename
        text = "".join(linecache.getlines(name))
        if not text or self.texts.get(name) == "":
            return
        self.texts[name] = text
        if os.path.isfile(name) and _is_plain(name) and code not in compiled(text, name):
            self.texts[name] = ""
            self.warnings.append(
                f"{name} was edited after this process had begun to run it: the backend gets what this process runs, "
                "and tracebacks cannot show its source"
            )


def _digest(code: CodeType) -> str:
    """A digest that is the same in every process of one version of Python, wherever in a file the code stands."""
    constants = [each for each in code.co_consts if not isinstance(each, CodeType)]
    # The order of a set differs from one process to another.
    shown = [sorted(map(repr, each)) if isinstance(each, frozenset) else repr(each) for each in constants]
    what = (code.co_name, code.co_code.hex(), code.co_names, code.co_varnames, shown)
    return hashlib.sha256(repr(what).encode(errors="surrogatepass")).hexdigest()[:16]


def _imports(code: CodeType, package: str) -> Iterator[str]:
    """The absolute names of the modules that this very code imports."""
    before: list[Any] = [0, None]
    for instruction in dis.get_instructions(code):
        if instruction.opname == "EXTENDED_ARG":  # A prefix of the next instruction.
            continue
        if instruction.opname == "IMPORT_NAME":
            level, names = before
            base = resolved(instruction.argval, level or 0, package)
            if base:
                yield base
                yield from (f"{base}.{name}" for name in names or () if name != "*")
        before = [before[1], instruction.argval]


@functools.lru_cache(maxsize=256)
def _is_plain(file: str) -> bool:
    """Whether Python's own loader has compiled the file as it is; pytest's, for one, rewrites it."""
    main = sys.modules.get("__main__")
    if getattr(main, "__file__", None) == file:
        return True
    names = [name for name, module in list(sys.modules.items()) if getattr(module, "__file__", None) == file]
    found = [find(name) for name in names]
    return bool(found) and all(each is not None and each.is_plain for each in found)

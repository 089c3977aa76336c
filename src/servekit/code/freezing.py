"""Makes the frozen code that travels with a target, from the references of the target's pickle."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from servekit.code.bundle import Code
from servekit.code.closure import Closure, imported_names
from servekit.code.modules import Ownership, find, is_main, owner_of
from servekit.code.references import References
from servekit.code.running import running
from servekit.errors import InvalidInputError


class Freezing(NamedTuple):
    """The options of `create_backend` that concern frozen code."""

    freeze: bool = True
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()


def check(freeze: bool, include: Iterable[str], exclude: Iterable[str]) -> Freezing:
    """The options, checked. Raises `InvalidInputError` where one of them is not acceptable."""
    checked = Freezing(freeze, tuple(include), tuple(exclude))
    for item in (*checked.include, *checked.exclude):
        # What an iterator gives, nobody has looked at before.
        if not isinstance(item, str) or not item or os.path.isabs(item) or ".." in item.split("/"):
            raise InvalidInputError(
                f"include and exclude take names of modules, and patterns of files relative to the folder that the "
                f"modules are in, such as 'package/templates/*.html'; not {item!r}"
            )
    if not freeze and (checked.include or checked.exclude):
        raise InvalidInputError("include and exclude say what to freeze; leave them out, or leave out freeze=False")
    return checked


def freeze(references: References, freezing: Freezing) -> tuple[Code, list[str]]:
    """The code that ``references`` need, and warnings. A reference to the main script needs the script's imports.

    Raises `InvalidInputError`: there is too much code, or nothing is found of an item of ``include`` or ``exclude``.
    """
    if not freezing.freeze:
        return Code(), []
    closure = Closure(freezing.exclude)
    if any(map(is_main, references.modules)):
        closure.add(_main_imports(closure))
    closure.add(name for name in references.modules if not is_main(name))
    for item in freezing.include:
        found = find(item) if all(part.isidentifier() for part in item.split(".")) else None
        if found is not None:
            closure.add([item])
        elif not closure.add_data(item):
            raise InvalidInputError(
                f"include: nothing is found of {item!r}: it is no module that can be imported here, and no file "
                "matches it in the folders that the target's modules are in. A package is its name; all files of a "
                "folder are 'folder/*', and with those below it 'folder/**/*'"
            )
    if closure.unused:
        raise InvalidInputError(
            f"exclude: nothing of the target's code is {', '.join(map(repr, sorted(closure.unused)))}; name a module, "
            "'package.tests', or a pattern of files, 'package/data/*'"
        )
    return closure.code(references.texts, references.functions), [*references.warnings, *closure.warnings]


def is_carried(module: str) -> bool:
    """Whether the code of ``module`` travels with a target, which can therefore refer to the module's objects by
    name."""
    found = None if is_main(module) else find(module)
    if found is None or not found.origin or owner_of(found) is not Ownership.USER or running(found) is None:
        return False
    # A module that was loaded by its path under a dotted name may have no package, which pickling looks for.
    return all(find(parent) is not None for parent in _parents(module))


def _parents(module: str) -> Iterator[str]:
    while module := module.rpartition(".")[0]:
        yield module


def _main_imports(closure: Closure) -> frozenset[str]:
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if not isinstance(main, types.ModuleType) or not file:
        return frozenset()
    closure.add_root(os.path.dirname(os.path.abspath(file)))
    try:
        with open(file, "rb") as source:
            return imported_names(source.read(), main.__package__ or "")
    except OSError:
        return frozenset()

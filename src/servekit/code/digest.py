"""Digests of packages, by which a process finds out whether another runs the same code."""

from __future__ import annotations

import functools
import sys

from servekit.code.finder import frozen_digest, is_frozen
from servekit.code.modules import Ownership, find, owner_of
from servekit.errors import InvalidInputError


def digest_here(module: str) -> str:
    """The digest of the top-level package that ``module`` belongs to; empty, where the package is not local."""
    top = module.partition(".")[0]
    if is_frozen(top):
        return frozen_digest(top)
    return _digest(top, id(getattr(sys.modules.get(top), "__spec__", None)))


@functools.lru_cache(maxsize=1024)
def _digest(top: str, loaded: int) -> str:
    """``loaded`` is another number each time that the module was loaded: a key of the cache."""
    found = find(top)
    if found is None or owner_of(found) is not Ownership.USER:
        return ""
    # Only clients use these modules, while every replica imports this file.
    from servekit.code.bundle import digests
    from servekit.code.closure import Closure

    closure = Closure()
    closure.add_top(top)
    try:
        return digests(closure.code({})).get(top, "")
    except InvalidInputError:  # More than can be frozen.
        return ""

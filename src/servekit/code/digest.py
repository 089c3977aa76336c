"""By what a process tells its own code from that of another."""

from __future__ import annotations

import functools
import sys

from servekit.code.finder import frozen_digest, is_frozen
from servekit.code.modules import Ownership, find, owner_of
from servekit.errors import InvalidInputError


def digest_here(module: str) -> str:
    """The digest of the local top-level package that ``module`` belongs to; empty, where that is not local."""
    top = module.partition(".")[0]
    if is_frozen(top):
        return frozen_digest(top)
    return _digest(top, id(getattr(sys.modules.get(top), "__spec__", None)))


@functools.lru_cache(maxsize=1024)
def _digest(top: str, loaded: int) -> str:
    """``loaded``: another for each time that the module was loaded."""
    found = find(top)
    if found is None or owner_of(found) is not Ownership.USER:
        return ""
    # Of use to clients alone, while every replica imports this file.
    from servekit.code.bundle import digests
    from servekit.code.closure import Closure

    closure = Closure()
    closure.add_alone(top)
    try:
        return digests(closure.code({})).get(top, "")
    except InvalidInputError:  # More than can be frozen.
        return ""

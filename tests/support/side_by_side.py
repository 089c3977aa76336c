"""Which tests pytest-xdist keeps together, where it runs several at a time (``pytest -n 3``)."""

from __future__ import annotations

import re

from xdist.scheduler import LoadScopeScheduling

RUNTIME = re.compile(r"[\[-](inprocess|process|ray)(?=[\]-])")


class Together(LoadScopeScheduling):
    """Those that share an instance: of a module and a runtime, and in `features` of a runtime."""

    def _split_scope(self, nodeid: str) -> str:
        path, _, test = nodeid.partition("::")
        place = path.rpartition("/")[0] if path.startswith("tests/features/") else path
        runtime = RUNTIME.search(test)
        return f"{place} {runtime[1]}" if runtime else place

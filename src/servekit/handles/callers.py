"""Which `Caller` the handles of this process use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from servekit.errors import NotRunningError

if TYPE_CHECKING:
    from servekit.handles.caller import Caller

in_worker: Caller | None = None
"""That of the replica worker that this process is."""
of_current_instance: Callable[[str], Caller] | None = None
"""Set by `servekit.api`, which knows it; takes the endpoint's name, and raises where there is none of that name."""


def find(endpoint: str) -> Caller:
    """Raises `NotRunningError` where this process belongs to no instance."""
    if in_worker is not None and in_worker.is_here:
        return in_worker
    if of_current_instance is not None:
        return of_current_instance(endpoint)
    raise NotRunningError("no servekit instance is running here; call servekit.init() first")

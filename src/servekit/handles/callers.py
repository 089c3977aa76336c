"""The `Caller` that the handles of this process use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from servekit.errors import NotRunningError

if TYPE_CHECKING:
    from servekit.handles.caller import Caller

in_worker: Caller | None = None
"""The caller of the replica worker, where this process is one."""
of_current_instance: Callable[[str], Caller] | None = None
"""Gives the caller of the current instance, for an endpoint's name. Set by `servekit.api`. Raises where no endpoint has
that name."""


def find(endpoint: str) -> Caller:
    """The caller for calls of ``endpoint``. Raises `NotRunningError` where this process belongs to no instance."""
    if in_worker is not None and in_worker.is_here:
        return in_worker
    if of_current_instance is not None:
        return of_current_instance(endpoint)
    raise NotRunningError("no servekit instance is running here; call servekit.init() first")

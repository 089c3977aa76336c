"""What a handler may know of the call that it answers."""

from __future__ import annotations

import time
from contextvars import ContextVar

import msgspec

from servekit.errors import NotRunningError


class Context(msgspec.Struct, frozen=True, gc=False):
    """One call of a handler; of a batch, its first request."""

    backend: str
    replica: str
    """The id of the replica that answers."""
    endpoint: str
    request_id: str
    batch_size: int
    """Requests that this call of the handler has; 1 where it takes no batches."""
    expires: float
    """The deadline, by ``time.perf_counter``."""
    chain: tuple[str, ...]
    """The replicas whose handlers wait for this one, outermost first, and this one."""

    @property
    def remaining_s(self) -> float:
        """Seconds to the deadline; 0.0 when it has passed."""
        return max(0.0, self.expires - time.perf_counter())


current_call: ContextVar[Context] = ContextVar("servekit_current_call")
"""Set by a replica around each call of its handler."""


def get_context() -> Context:
    """The call that is being answered here. Raises `NotRunningError` where none is: outside of a handler."""
    found = current_call.get(None)
    if found is None:
        raise NotRunningError("servekit.get_context() is for handlers: no call is being answered here")
    return found

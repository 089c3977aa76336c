"""The context of a call: facts that a handler may know of the call that it answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import msgspec

from servekit.arguments import checked
from servekit.errors import NotRunningError
from servekit.traces import BAGGAGE, TRACEPARENT, TRACESTATE, text_of, trace_id_of


class Context(msgspec.Struct, frozen=True, gc=False):
    """One call of a handler. For a batch, the fields are those of its first request."""

    backend: str
    replica: str
    """The id of the replica that answers."""
    endpoint: str
    request_id: str
    batch_size: int
    """How many requests this call of the handler has; 1 where the handler takes no batches."""
    expires: float
    """The deadline, by ``time.perf_counter``."""
    chain: tuple[str, ...]
    """The replicas whose handlers wait for this call, outermost first, and this replica."""
    replica_rank: int = 0
    """The replica's number among the living ones of its backend, from 0: a new replica has the lowest that is free."""
    headers: Sequence[tuple[bytes, bytes]] = ()
    """The request's headers, with lower-case names."""
    shadow: bool = False
    """The request is a copy, sent to a shadow of the endpoint: no client gets the answer, and nothing may come of it.
    No client can have it so."""

    @property
    def remaining_s(self) -> float:
        """Seconds to the deadline; 0.0 when the deadline has passed."""
        return max(0.0, self.expires - time.perf_counter())

    @property
    def traceparent(self) -> str:
        """The trace that the request belongs to, and the span id that servekit has given the request: what is to be
        passed on with requests to others. Empty where the request belongs to no trace."""
        return text_of(self.headers, TRACEPARENT)

    @property
    def tracestate(self) -> str:
        """What belongs beside `traceparent`; empty where there is none."""
        return text_of(self.headers, TRACESTATE)

    @property
    def baggage(self) -> str:
        """What the request's sender wants passed on to all that work on the request (W3C Baggage); empty where there
        is none."""
        return text_of(self.headers, BAGGAGE)

    @property
    def trace_id(self) -> str:
        """The trace id in `traceparent`; empty where there is none."""
        return trace_id_of(self.traceparent)


current_call: ContextVar[Context] = ContextVar("servekit_current_call")
"""Set by a replica around each call of its handler."""


@checked
def get_context() -> Context:
    """The context of the call that is being answered here. Raises `NotRunningError` outside of a handler."""
    found = current_call.get(None)
    if found is None:
        raise NotRunningError("servekit.get_context() is for handlers: no call is being answered here")
    return found


def __getattr__(name: str) -> Any:
    """``servekit.context.batch_size`` and the other fields of `get_context`, as the first Ray Serve had them."""
    if name in Context.__struct_fields__:
        return getattr(get_context(), name)
    raise AttributeError(f"module 'servekit.context' has no attribute {name!r}")

"""The headers by which a request belongs to a trace (W3C Trace Context, levels 1 and 2, and W3C Baggage), without any
library of tracing."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

Headers: TypeAlias = "Sequence[tuple[bytes, bytes]]"

TRACEPARENT, TRACESTATE, BAGGAGE = b"traceparent", b"tracestate", b"baggage"
SIDE = b"x-servekit-side"
"""Which side of a roll-out answers, for what is called meanwhile: ``baseline`` or ``candidate``."""
_OF_TRACE = frozenset({TRACEPARENT, TRACESTATE})
_PASSED_ON = frozenset({TRACEPARENT, TRACESTATE, BAGGAGE, SIDE})
SAMPLED, RANDOM = 0x01, 0x02
"""Flags. Others are for later versions of the specification: what has them set is passed on without them."""
_match = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
).fullmatch
_random = random.Random().getrandbits
"""Of its own, so that whoever seeds the module's has no ids twice."""


class TraceParent(NamedTuple):
    """A ``traceparent``."""

    trace_id: str
    span_id: str
    flags: int

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    @property
    def is_sampled(self) -> bool:
        return bool(self.flags & SAMPLED)


class Passage(NamedTuple):
    """A request's part in a trace: what it came with, and what goes on."""

    traceparent: str
    """With a span id of the request's own; empty: the request belongs to no trace."""
    parent: str
    """The span id that the request came with; empty: none, the trace begins here."""
    headers: list[tuple[bytes, bytes]]
    """Those of the request, as they go on."""


def parse(value: bytes) -> TraceParent | None:
    """The ``traceparent``; None where it is malformed, and so stands for nothing.

    Of a version later than 00, what this version knows is taken, and what follows is left out.
    """
    found = _match(value)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"00" and more is not None:
        return None
    known = SAMPLED | RANDOM if version == b"00" else SAMPLED
    return TraceParent(trace_id.decode(), span_id.decode(), int(flags, 16) & known)


def pass_on(headers: Headers, share: float = 0.0) -> Passage:
    """Continue the trace of a request, or begin one where it has none.

    Args:
        headers: the request's, with lower-case names.
        share: of the traces that begin here, how many are sampled; 0: none begins.
    """
    came = [value for name, value in headers if name == TRACEPARENT]
    # Of several, none can be believed.
    found = parse(came[0]) if len(came) == 1 else None
    span_id = f"{_random(64) or 1:016x}"
    if found is not None:
        own = f"00-{found.trace_id}-{span_id}-{found.flags:02x}"
        line = (TRACEPARENT, own.encode())
        return Passage(own, found.span_id, [line if each[0] == TRACEPARENT else each for each in headers])
    # A `tracestate` belongs to the `traceparent` beside it.
    rest = [each for each in headers if each[0] not in _OF_TRACE]
    if share <= 0:
        return Passage("", "", rest)
    own = str(_first(span_id, share))
    return Passage(own, "", [*rest, (TRACEPARENT, own.encode())])


def _first(span_id: str, share: float) -> TraceParent:
    """The beginning of a trace. The right half of its id decides whether it is sampled, as OpenTelemetry has it: who
    is asked for the same share decides alike."""
    left, right = _random(64) or 1, _random(64)
    is_sampled = right < share * 2**64
    return TraceParent(f"{left:016x}{right:016x}", span_id, RANDOM | SAMPLED if is_sampled else RANDOM)


def passed_on(headers: Headers) -> tuple[tuple[bytes, bytes], ...]:
    """Those of the headers that go on from call to call."""
    return tuple([each for each in headers if each[0] in _PASSED_ON])


def text_of(headers: Headers, name: bytes) -> str:
    """The value of a header; empty where there is none. Several of one name are one list."""
    return ",".join([value.decode("latin-1") for key, value in headers if key == name])


def trace_id_of(traceparent: str) -> str:
    """The trace id in one of servekit's own; empty where that is."""
    return traceparent[3:35]

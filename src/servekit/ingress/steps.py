"""The steps that are noted of a request on an unusual way, for `servekit.explain`. A request that is sent at once, and
answered, has none, and pays for none."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Protocol

from servekit.interfaces import RequestStep

MOST_STEPS = 20
"""Of one request: beyond, the last takes the place of the one before."""
MOST_LOADS = 16
"""Replicas of a backend whose loads are noted in a step."""
_NO_LOADS: Mapping[str, tuple[int, int]] = {}


class Noted(Protocol):
    """An `Exchange`, as far as its steps go."""

    backend: str
    queued: int
    received_at: float
    steps: list[RequestStep] | None
    unusual: bool


def note(
    exchange: Noted,
    what: str,
    replica: str = "",
    number: int = 0,
    text: str = "",
    loads: Mapping[str, tuple[int, int]] = _NO_LOADS,
    at: float = 0.0,
) -> None:
    """Note a step of a request; ``at``: when, by ``time.monotonic``; 0: now. The rest is as in `RequestStep`."""
    after_s = (at or monotonic()) - exchange.received_at
    step = RequestStep(after_s, what, exchange.backend, replica, number, text, dict(loads))
    if exchange.queued:
        exchange.steps, exchange.queued = [*steps_of(exchange)], 0
    exchange.unusual = True
    if exchange.steps is None:
        exchange.steps = [step]
    elif len(exchange.steps) < MOST_STEPS:
        exchange.steps.append(step)
    else:
        exchange.steps[-1] = step


def steps_of(exchange: Noted) -> tuple[RequestStep, ...]:
    """All that is noted of a request. One that only waited in a queue is usual under load: that is one number."""
    return queued(exchange.backend, exchange.queued) or tuple(exchange.steps or ())


def queued(backend: str, number: int) -> tuple[RequestStep, ...]:
    """The steps that stand for an `Exchange`'s ``queued`` of ``number``: one, or none where that is 0."""
    return (RequestStep(0.0, "queued", backend, number=number - 1),) if number else ()

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
    received_at: float
    steps: list[RequestStep] | None


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
    if exchange.steps is None:
        exchange.steps = [step]
    elif len(exchange.steps) < MOST_STEPS:
        exchange.steps.append(step)
    else:
        exchange.steps[-1] = step

"""Which routing policy and weights each endpoint had, from which snapshot on: what a request's backend was chosen from
follows from the version of the snapshot that the request has in its record."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

MOST_CHANGES = 100
"""Of one endpoint, that are remembered."""
MOST_GONE = 100
"""Endpoints that are gone, of which the changes are remembered."""


class Weights(NamedTuple):
    """An endpoint's, from this version on."""

    version: int
    policy: str
    weights: Mapping[str, float]


class WeightsHistory:
    """The last changes of every endpoint's policy and weights."""

    def __init__(self) -> None:
        self._changes: dict[str, deque[Weights]] = {}
        self._gone: dict[str, None] = {}
        """In the order in which they went."""

    def changed(self, endpoint: str, weights: Weights) -> None:
        """From now on the endpoint has these."""
        self._gone.pop(endpoint, None)
        self._changes.setdefault(endpoint, deque(maxlen=MOST_CHANGES)).append(weights)

    def removed(self, endpoint: str) -> None:
        """The endpoint is gone; its requests are asked for yet."""
        self._gone[endpoint] = None
        if len(self._gone) > MOST_GONE:
            oldest = next(iter(self._gone))
            del self._gone[oldest]
            self._changes.pop(oldest, None)

    def at(self, endpoint: str, version: int) -> Weights | None:
        """What the endpoint had under the snapshot of this version; None: it is not known any more."""
        changes = reversed(self._changes.get(endpoint, ()))
        return next((weights for weights in changes if weights.version <= version), None)

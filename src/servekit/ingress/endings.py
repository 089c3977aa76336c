"""How requests end: answered, refused or given up, each counted, observed and told to its policy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from time import monotonic

from servekit.ingress.counters import Counters
from servekit.ingress.deadlines import Deadlines
from servekit.ingress.endpoint import Endpoint
from servekit.ingress.exchange import Exchange
from servekit.ingress.refusals import Refused
from servekit.interfaces import Outcome, RequestRecord

_log = logging.getLogger("servekit.ingress")


class Endings:
    """Every request comes here once, by `finish`, `refuse` or `settle`."""

    def __init__(self, endpoints: Mapping[str, Endpoint], observe: Callable[[RequestRecord], None] | None) -> None:
        """``endpoints``: those there are; what a policy did for one that is gone, it is not told."""
        self.counters = Counters()
        self._endpoints = endpoints
        self._observe = observe

    def refuse(self, exchange: Exchange, answer: Refused) -> None:
        """End it with an answer of the ingress's own."""
        self.finish(exchange, *answer)

    def finish(self, exchange: Exchange, status: int, head: bytes, body: bytes) -> None:
        """End it with a whole answer."""
        self.settle(exchange, status)
        exchange.respond(status, with_id(exchange, head), body)

    def settle(self, exchange: Exchange, status: int) -> None:
        """Count it, and wait for it no longer."""
        Deadlines.discard(exchange)
        if exchange.upload is not None:
            exchange.upload.stop()
        target = exchange.target
        backend = "" if target is None else target.name
        # Not the loop's time, which stands still within a turn and would make quick answers end before they began.
        latency_s = monotonic() - exchange.received_at
        endpoint = exchange.owner.name
        self.counters.add(endpoint, backend, status, latency_s)
        if self._observe is not None:
            replica = "" if exchange.replica is None else exchange.replica.id
            self._observe(
                RequestRecord(
                    exchange.id, endpoint, backend, replica, exchange.method, exchange.path, status, latency_s
                )
            )

    def tell_policy(self, exchange: Exchange, outcome: Outcome) -> None:
        owner = exchange.owner
        if not owner.watches or self._endpoints.get(owner.name) is not owner:
            return
        assert exchange.replica is not None
        try:
            exchange.owner.policy.request_finished(exchange, exchange.replica, outcome)
        except Exception:
            _log.exception("the routing policy of endpoint %r failed in request_finished", exchange.owner.name)


def with_id(exchange: Exchange, head: bytes) -> bytes:
    """An answer's header lines, with the request's id before them."""
    return b"x-request-id: %b\r\n%b" % (exchange.id.encode("ascii"), head)

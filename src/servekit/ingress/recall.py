"""What an ingress worker knows of requests that have ended, or are under way: the answers to `Recall`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from time import monotonic, time

from msgspec import structs

from servekit.ingress.exchange import Exchange
from servekit.ingress.shared import Shared
from servekit.ingress.steps import steps_of
from servekit.interfaces import RequestRecord
from servekit.wire.control_frames import MOST_RECALLED, Recall, Recalled, RecalledRequest


def recalled(shared: Shared, under_way: Iterable[Exchange], question: Recall) -> Recalled:
    """The answer to a question: the last requests of an id, or the last ones that were slow or have failed.

    Args:
        under_way: requests that have not ended; others among them are left out.
    """
    oldest = shared.recent.began_at
    if question.kind:
        ring = shared.slow if question.kind == "slow" else shared.failed
        wanted = (each for each in reversed(ring) if question.endpoint in ("", each.endpoint))
        last = list(islice(wanted, max(0, min(question.most, MOST_RECALLED))))
        return Recalled(question.number, [_told(shared, record) for record in last], len(ring), len(ring), oldest)
    pending = [each for each in under_way if each.id == question.request_id and not each.done]
    pending.sort(key=lambda each: each.received_at, reverse=True)
    ended = find(shared, question.request_id)
    told = [_told(shared, record_so_far(each), pending=True) for each in pending]
    told += [_told(shared, record) for record in ended]
    return Recalled(question.number, told[:MOST_RECALLED], len(told), len(shared.recent), oldest)


def find(shared: Shared, request_id: str) -> list[RequestRecord]:
    """The requests of this id that are remembered, the last first: what a handler calls by handles has the id of its
    own request, and a client may send its own, again and again."""
    found = {
        id(each): each
        for each in (*shared.recent.of(request_id), *shared.failed, *shared.slow)
        if each.id == request_id
    }
    return sorted(found.values(), key=lambda record: record.ended_at, reverse=True)


def record_so_far(exchange: Exchange) -> RequestRecord:
    """The record of a request that is under way: of status 0, and of the time that has gone by."""
    came, replica = exchange.received_at, exchange.replica
    rest = exchange.answer_rest
    return RequestRecord(
        exchange.id,
        exchange.owner.name,
        exchange.backend,
        "" if replica is None else replica.id,
        exchange.method,
        exchange.path,
        status=0,
        latency_s=monotonic() - came,
        ended_at=time(),
        body_bytes=0 if rest is None else rest.written_bytes,
        client=exchange.client,
        route=exchange.owner.route_text,
        error=exchange.error,
        sent_s=exchange.sent_at - came if exchange.sent_at else -1.0,
        began_s=exchange.began_at - came if exchange.began_at else -1.0,
        service_s=exchange.service_us / 1e6,
        sends=exchange.tries,
        ahead=exchange.ahead,
        snapshot=exchange.snapshot or exchange.shared.snapshot,
        trace=exchange.trace,
        parent=exchange.parent,
        scheme=exchange.scheme,
        by_handle=exchange.chain is not None,
        steps=steps_of(exchange),
        chain=exchange.chain or (),
    )


def _told(shared: Shared, record: RequestRecord, *, pending: bool = False) -> RecalledRequest:
    weights = shared.weights.at(record.endpoint, record.snapshot)
    printable = structs.replace(record, path=_printable(record.path), method=_printable(record.method))
    if weights is None:
        return RecalledRequest(printable, pending)
    return RecalledRequest(printable, pending, weights.policy, dict(weights.weights))


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()

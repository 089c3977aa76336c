"""The requests of one ingress worker that have ended last.

A usual request is kept packed, in one piece of memory that is written from its beginning to its end, again and again.
Ten thousand objects would be in no cache of the CPU when their turn comes to be replaced, and each request would wait
for memory: that cost more than all else that is counted of a request.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from servekit.ingress.steps import queued
from servekit.interfaces import RequestRecord

PACKED = struct.Struct("=qdddqQQIIII")
"""The hash of its id; when it ended, by ``time.monotonic``; how long it took, and waited until it was sent (below 0: it
was not), in seconds; how long it was in the handler (below 0: unknown), in microseconds; the snapshot; the answer's
length; its `RequestKind`; ahead, the batch's size, and ``queued``, as `Exchange` has them. It was sent once, if at all.
"""
PACKED_BYTES = PACKED.size
_hash = struct.Struct("=q")
MOST_KINDS = 20_000


class RequestKind(NamedTuple):
    """What many requests have in common."""

    endpoint: str
    route: str
    backend: str
    replica: str
    method: str
    status: int
    error: str


class RecentRequests:
    """A ring of records, of fixed size. Of those that are packed neither path nor client is kept."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.memory = bytearray(most * PACKED_BYTES)
        """The request of the number N is at ``N % most * PACKED_BYTES``. Whoever packs one there raises ``added``."""
        self.epoch_s = 0.0
        """``time.time`` is so far beyond ``time.monotonic``: asked once a second, not for each request."""
        self.added = 0
        """How many there have been."""
        self.whole: OrderedDict[int, RequestRecord] = OrderedDict()
        """Records that are not packed, by number. Those of numbers that are no longer in the ring go when the next one
        comes, so that what is packed need not look here."""
        self._first = 0
        """The number of the first one that is not forgotten, where the ring is not full."""
        self._kinds: list[RequestKind] = []
        self._numbers: dict[RequestKind, int] = {}

    def number_of(self, kind: RequestKind) -> int | None:
        """The number by which requests of the kind are packed. None: there are `MOST_KINDS` others; see `forget`."""
        number = self._numbers.get(kind)
        if number is None and len(self._kinds) < MOST_KINDS:
            number = self._numbers[kind] = len(self._kinds)
            self._kinds.append(kind)
        return number

    def forget(self) -> None:
        """Begin anew. The numbers of kinds are those of others from now on."""
        self._numbers.clear()
        self._kinds.clear()
        self.whole.clear()
        self._first = self.added

    def append(self, record: RequestRecord) -> None:
        """Keep a record as it is."""
        self.whole[self.added] = record
        self.added += 1
        while next(iter(self.whole)) < self.added - self.most:
            self.whole.popitem(last=False)

    def extend(self, records: Iterable[RequestRecord]) -> None:
        for record in records:
            self.append(record)

    def of(self, request_id: str) -> list[RequestRecord]:
        """Those with this id, the first one first."""
        last, first = self.added - 1, self.added - len(self)
        found = {number for number, record in self.whole.items() if record.id == request_id}
        at, sought = -1, _hash.pack(hash(request_id))
        while (at := self.memory.find(sought, at + 1)) >= 0:
            place, behind = divmod(at, PACKED_BYTES)
            number = last - (last - place) % self.most
            if not behind and number not in self.whole:
                found.add(number)
        return [self._record(number, request_id) for number in sorted(found) if number >= first]

    def last(self, count: int, most: int) -> Iterator[tuple[str, int, float]]:
        """Of so many of the last ones, the first of those first: endpoint, status, and how long it took. Where they are
        more than ``most``, every second, or third, and so on, is."""
        count = min(count, len(self))
        for number in range(self.added - count, self.added, max(1, -(-count // most))):
            whole = self.whole.get(number)
            if whole is not None:
                yield whole.endpoint, whole.status, whole.latency_s
                continue
            _, _, took_s, _, _, _, _, kind, *_ = self._packed(number)
            yield self._kinds[kind].endpoint, self._kinds[kind].status, took_s

    @property
    def began_at(self) -> float:
        """When the first of them ended, by ``time.time``; 0: there are none."""
        return next(iter(self)).ended_at if len(self) else 0.0

    def __len__(self) -> int:
        return min(self.most, self.added - self._first)

    def __iter__(self) -> Iterator[RequestRecord]:
        """The first one first. The ids of those that are packed are not known."""
        return (self._record(number) for number in range(self.added - len(self), self.added))

    def _record(self, number: int, request_id: str = "") -> RequestRecord:
        whole = self.whole.get(number)
        if whole is not None:
            return whole
        _, ended_at, took_s, wait_s, service_us, snapshot, body_bytes, place, *more = self._packed(number)
        ahead, batch, behind = more
        kind = self._kinds[place]
        return RequestRecord(
            request_id,
            kind.endpoint,
            kind.backend,
            kind.replica,
            kind.method,
            kind.route,
            kind.status,
            took_s,
            ended_at + self.epoch_s,
            body_bytes,
            route=kind.route,
            error=kind.error,
            sent_s=wait_s if wait_s >= 0 else -1.0,
            began_s=took_s if service_us >= 0 else -1.0,
            service_s=service_us / 1e6,
            sends=int(wait_s >= 0),
            ahead=ahead,
            snapshot=snapshot,
            batch_size=batch,
            steps=queued(kind.backend, behind),
        )

    def _packed(self, number: int) -> tuple[Any, ...]:
        return PACKED.unpack_from(self.memory, number % self.most * PACKED_BYTES)

"""The access log: one line for each request that has ended."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from servekit.interfaces import RequestRecord
from servekit.logs import as_json, stamp
from servekit.traces import trace_id_of

ACCESS = "ACCESS"
"""In the place of a level."""


class AccessLog:
    """Writes lines to standard error, as `servekit.logs` does; many at once, for there may be many."""

    def __init__(self, names: Mapping[str, str], format: str) -> None:
        self._names = names
        self._line = self._json if format == "json" else self._text

    def write(self, records: Sequence[RequestRecord]) -> None:
        sys.stderr.write("".join([f"{self._line(record)}\n" for record in records]))
        sys.stderr.flush()

    def _text(self, record: RequestRecord) -> str:
        trace = trace_id_of(record.trace)
        return (
            f"{stamp(record.ended_at)} {ACCESS} {' '.join(self._names.values())} [request {record.id}] "
            f"{record.method} {one_word(record.path)} {record.status} bytes={record.body_bytes} "
            f"ms={record.latency_s * 1000:.3f} client={one_word(record.client) or '-'} "
            f"endpoint={one_word(record.endpoint) or '-'} backend={one_word(record.backend) or '-'} "
            f"replica={record.replica or '-'}{trace and f' trace={trace}'}"
        )

    def _json(self, record: RequestRecord) -> str:
        return as_json(
            {
                "time": stamp(record.ended_at),
                "level": ACCESS,
                **self._names,
                "request_id": record.id,
                "endpoint": record.endpoint,
                "backend": record.backend,
                "replica": record.replica,
                "method": record.method,
                "path": record.path,
                "status": record.status,
                "body_bytes": record.body_bytes,
                "duration_ms": round(record.latency_s * 1000, 3),
                "client": record.client,
                **({"trace_id": trace_id_of(record.trace)} if record.trace else {}),
            }
        )


def one_word(text: str) -> str:
    """``text`` without what would end a word or a line: what a client sends must not make a line of its own."""
    if text.isascii() and text.isprintable() and " " not in text:
        return text
    return quote(text, safe="/:@!$&'()*+,;=~-._", errors="surrogateescape")

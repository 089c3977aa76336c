"""The ``servekit_requests_finished`` hook: records kept and handed over about once a second, off the hot path."""

from __future__ import annotations

import asyncio
import logging

from servekit.factories import load_path
from servekit.interfaces import RequestRecord

_log = logging.getLogger("servekit.ingress")

HOOK = "servekit_requests_finished"
EVERY_S = 1.0
MOST_RECORDS = 50_000
"""Between two calls; what is beyond is dropped, and the drop is logged."""


class Observers:
    """Those who implement the hook, by import path. False when there are none: then nothing is kept at all."""

    def __init__(self, paths: list[str]) -> None:
        self._observers = [(load_path(path), path) for path in paths]
        self._records: list[RequestRecord] = []
        self._dropped = 0

    def __bool__(self) -> bool:
        return bool(self._observers)

    def add(self, record: RequestRecord) -> None:
        if len(self._records) < MOST_RECORDS:
            self._records.append(record)
        else:
            self._dropped += 1

    async def run(self) -> None:
        """Until cancelled."""
        while self._observers:
            await asyncio.sleep(EVERY_S)
            # In a thread: an observer may write to a file or a socket, and requests must not wait for it.
            await asyncio.to_thread(self.flush)

    def flush(self) -> None:
        records, self._records = self._records, []
        dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.warning("%d request records were dropped: observers are too slow", dropped)
        if records:
            from servekit.plugins import notify_observers  # Only those with observers pay for what it imports.

            notify_observers(self._observers, HOOK, records=records)

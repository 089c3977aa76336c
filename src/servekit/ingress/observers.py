"""The ``servekit_requests_finished`` hook, and the access log: records of requests that have ended, handed over about
once a second."""

from __future__ import annotations

import asyncio
import logging

from servekit.factories import load_path
from servekit.ingress.access_log import AccessLog
from servekit.interfaces import RequestRecord

_log = logging.getLogger("servekit.ingress")

HOOK = "servekit_requests_finished"
EVERY_S = 1.0
MOST_RECORDS = 50_000
"""Records that are kept between two calls of the hook; those beyond are dropped, and the drop is logged."""


class Observers:
    """The implementations of the hook, by import path, and the access log. False when there are none: then no record is
    kept."""

    def __init__(self, paths: list[str], access_log: AccessLog | None = None) -> None:
        self._observers = [(load_path(path), path) for path in paths]
        self._access_log = access_log
        self._records: list[RequestRecord] = []
        self._dropped = 0

    def __bool__(self) -> bool:
        return bool(self._observers) or self._access_log is not None

    def add(self, record: RequestRecord) -> None:
        if len(self._records) < MOST_RECORDS:
            self._records.append(record)
        else:
            self._dropped += 1

    async def run(self) -> None:
        """Call the hook about once a second, until cancelled."""
        while self:
            await asyncio.sleep(EVERY_S)
            # In a thread: an observer may write to a file or a socket, and requests must not wait for it.
            await asyncio.to_thread(self.flush)

    def flush(self) -> None:
        """Call the hook with the records that there are."""
        records, self._records = self._records, []
        dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.warning("%d request records were dropped: observers, or the access log, are too slow", dropped)
        if records and self._access_log is not None:
            self._access_log.write(records)
        if records and self._observers:
            from servekit.plugins import notify_observers  # Only workers with observers pay for what it imports.

            notify_observers(self._observers, HOOK, records=records)

"""Who is told of requests that have ended: the access log, the request observers, and the hook
``servekit_requests_finished``. They get records, about once a second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Sequence

from servekit.factories import Kind, at_path, build, load_path
from servekit.ingress.access_log import AccessLog
from servekit.interfaces import RequestObserver, RequestRecord
from servekit.wire.control_frames import PluginRef

_log = logging.getLogger("servekit.ingress")

HOOK = "servekit_requests_finished"
EVERY_S = 1.0
MOST_RECORDS = 50_000
"""Records that are kept between two calls of the hook; those beyond are dropped, and the drop is logged."""
CLOSE_TIMEOUT_S = 2.0
"""For the last records to be taken; what is left then is lost."""


def build_observer(ref: PluginRef) -> RequestObserver:
    """The observer that ``ref`` names, by its import path."""
    observer = build(at_path(Kind.OBSERVER, ref.path), ref.options)
    assert isinstance(observer, RequestObserver)
    return observer


class Observers:
    """All of them in one ingress worker. False when there are none: then no record is kept."""

    def __init__(
        self, hooks: list[str], access_log: AccessLog | None = None, observers: Sequence[RequestObserver] = ()
    ) -> None:
        """``hooks``: the import paths of the hook's implementations."""
        self._observers = observers
        self._told = [(load_path(path), path) for path in hooks]
        self._told += [(each.requests_finished, _name_of(each)) for each in observers]
        self._access_log = access_log
        self._records: list[RequestRecord] = []
        self._dropped = 0
        self._flushing = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._told) or self._access_log is not None

    @property
    def trace_share(self) -> float:
        """Of the traces that begin here, how many are sampled."""
        return max((each.trace_share for each in self._observers), default=0.0)

    def add(self, record: RequestRecord) -> None:
        if len(self._records) < MOST_RECORDS:
            self._records.append(record)
        else:
            self._dropped += 1

    async def run(self) -> None:
        """Hand the records over about once a second, until cancelled."""
        while self:
            await asyncio.sleep(EVERY_S)
            # In a thread: an observer may write to a file or a socket, and requests must not wait for it.
            await asyncio.to_thread(self.flush)

    def flush(self) -> None:
        """Hand over the records that there are."""
        with self._flushing:  # Observers are told by one thread at a time.
            self._flush()

    def _flush(self) -> None:
        records, self._records = self._records, []
        dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.warning("%d request records were dropped: observers, or the access log, are too slow", dropped)
        if records and self._access_log is not None:
            self._access_log.write(records)
        if records and self._told:
            from servekit.plugins import notify_observers  # Only workers with observers pay for what it imports.

            notify_observers(self._told, HOOK, records=records)

    async def close(self) -> None:
        """Hand over the last records, and close the observers. One that hangs is not waited for."""
        if not self:
            return
        loop, closed = asyncio.get_running_loop(), asyncio.Event()

        def close() -> None:
            self.flush()
            self._close()
            with contextlib.suppress(RuntimeError):  # The loop, which waits no longer, may be closed.
                loop.call_soon_threadsafe(closed.set)

        # A daemon, so that one that hangs does not keep the process.
        threading.Thread(target=close, name="observers-close", daemon=True).start()
        try:
            await asyncio.wait_for(closed.wait(), CLOSE_TIMEOUT_S)
        except asyncio.TimeoutError:
            _log.warning("the last request records may be lost: observers took more than %g s", CLOSE_TIMEOUT_S)

    def _close(self) -> None:
        for observer in self._observers:
            try:
                observer.close()
            except Exception:
                _log.exception("%s could not be closed", _name_of(observer))


def _name_of(observer: RequestObserver) -> str:
    return f"request observer {type(observer).__qualname__}"

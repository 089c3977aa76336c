"""Busy polling: after work, an event loop looks for more for a moment before it sleeps.

To wake a sleeping process costs tens of microseconds, on a virtual machine more than the work itself; and a request
crosses four of them. Linux does the same below a socket (``SO_BUSY_POLL``) and before it halts a CPU (``haltpoll``).
"""

from __future__ import annotations

import asyncio
from time import perf_counter

_MOST_TRUST = 16
_PROBE_EVERY = 32


class BusyPoll:
    """Keeps one event loop from sleeping for ``span_s`` seconds after each `touch`.

    Only while that pays: where nothing came in time again and again, or another process was given the CPU meanwhile,
    it is tried once in 32 times.
    """

    __slots__ = ("_last", "_loop", "_polling", "_skipped", "_span_s", "_touched", "_trust", "_until")

    def __init__(self, loop: asyncio.AbstractEventLoop, span_s: float) -> None:
        self._loop = loop
        self._span_s = span_s
        self._polling = False
        self._touched = False
        self._until = self._last = 0.0
        self._trust = _MOST_TRUST
        self._skipped = 0

    @classmethod
    def on(cls, loop: asyncio.AbstractEventLoop, span_s: float) -> BusyPoll | None:
        """Return one for ``loop``; or None where ``span_s`` is 0, and the loop sleeps whenever it can."""
        return cls(loop, span_s) if span_s else None

    def touch(self) -> None:
        """Something was read, or something was written that will be answered."""
        self._touched = True
        if not self._polling:
            if self._trust <= 0 and self._skipped < _PROBE_EVERY:
                self._skipped += 1
                return
            self._skipped = 0
            self._polling = True
            self._until = 0.0
            self._loop.call_soon(self._poll)

    def _poll(self) -> None:
        """Run once in every turn of the loop, which does not sleep while this is planned."""
        now = perf_counter()
        if self._touched:
            self._touched = False
            if self._until and self._trust < _MOST_TRUST:  # Something came while it polled: a sleep that was saved.
                self._trust += 1
            self._until = now + self._span_s
        elif now >= self._until:
            self._polling = False
            # A turn in which nothing happened takes microseconds, unless the CPU went to somebody else in it.
            lost_cpu = now - self._last > self._span_s
            self._trust = max(self._trust - (_MOST_TRUST if lost_cpu else 1), -_MOST_TRUST)
            return
        self._last = now
        self._loop.call_soon(self._poll)

"""What the shadows of an instance have shown: pairs of answers come from the ingress workers, are compared in a thread,
and added up.

A report begins with its shadow, or with the controller: pairs are in no store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from servekit.control.event_ring import clock
from servekit.control.shadow_compare import Comparison, problem_of
from servekit.control.shadow_tally import ShadowExample, ShadowTally
from servekit.control.state import Desired
from servekit.control.totals import Sums
from servekit.errors import InvalidInputError
from servekit.tallies import COUNT
from servekit.wire.control_frames import ShadowEntry, ShadowPair

_log = logging.getLogger("servekit.control")

MOST_WAITING = 500
"""Pairs that wait to be compared; what is beyond is dropped, and counted."""
AT_A_TIME = 20
"""Pairs that are compared in one step of the thread."""
DROPPED = "dropped_"
"""So begin the words under which ingress workers count copies that were not sent, or not compared, and why."""


class ShadowReport:
    """What one shadow has shown."""

    def __init__(self, entry: ShadowEntry, counted: Counter[tuple[str, str]]) -> None:
        """``counted``: what the ingress workers had counted before; see `counts_of`."""
        self.entry = entry
        self.since = time.time()
        self.tally = ShadowTally()
        self.dropped = 0
        """Pairs that came while too many waited."""
        self.problems = 0
        """Pairs that could not be compared."""
        self.last_problem = ""
        self._counted = counted
        self._comparison: Comparison | None = None

    def compare(self, pairs: Iterable[ShadowPair]) -> list[tuple[ShadowPair, dict[tuple[str, str], ShadowExample]]]:
        """What each pair differs in. In a thread: nothing else here is touched but the problems."""
        found = []
        for pair in pairs:
            try:
                if self._comparison is None:
                    self._comparison = Comparison(self.entry)
                found.append((pair, self._comparison.of(pair)))
            except Exception as error:
                if not self.problems:
                    _log.warning("shadow of endpoint %s: answers cannot be compared", pair.endpoint, exc_info=True)
                self.problems += 1
                self.last_problem = problem_of(error)
        return found

    def told(self, counted: Counter[tuple[str, str]]) -> dict[str, Any]:
        """For people and programs. ``counted``: what the ingress workers have counted by now."""
        own, repeats, dropped = Counter[str](), Counter[str](), Counter[str]()
        for (backend, what), count in (counted - self._counted).items():
            if what.startswith(DROPPED):
                dropped[what.removeprefix(DROPPED)] += count
            else:
                (own if backend == self.entry.backend else repeats)[what] += count
        if self.dropped:
            dropped["compare_queue_full"] = self.dropped
        return {
            **entry_told(self.entry),
            "since": clock(self.since),
            **{what: own[what] for what in ("sent", "answered", "failed", "late")},
            "repeats_sent": repeats["sent"],
            "dropped": dict(dropped),
            **self.tally.told(),
            "not_compared": self.problems,
            "compare_error": self.last_problem,
        }


def entry_told(entry: ShadowEntry) -> dict[str, Any]:
    """What was asked for, for people and programs."""
    return {
        "backend": entry.backend,
        "share": entry.share,
        "compare": entry.compare or None,
        "include_unsafe": entry.include_unsafe,
        "timeout_s": entry.timeout_s,
        "noise": entry.noise,
        "tolerance": entry.tolerance,
        "ignore": list(entry.ignore),
        "redact": entry.redact or None,
        "began": clock(entry.at),
    }


def counts_of(sums: Sums, endpoint: str) -> Counter[tuple[str, str]]:
    """How often what has become of copies of the endpoint's requests, by the backend that they were for."""
    found: Counter[tuple[str, str]] = Counter()
    for key, slots in sums.items():
        if key[:2] == ("shadow", endpoint):
            found[str(key[2]), str(key[3])] += slots[COUNT]
    return found


class ShadowReports:
    """The reports of all shadows that there are. On the controller's loop."""

    def __init__(self, sums: Callable[[], Sums]) -> None:
        """``sums``: all that the processes of the instance have counted."""
        self._sums = sums
        self._reports: dict[str, ShadowReport] = {}
        """By endpoint."""
        self._endpoints: object = None
        """The endpoints that it has looked at last."""
        self._waiting: deque[ShadowPair] = deque()
        self._came = asyncio.Event()

    def follow(self, desired: Desired) -> None:
        """Begin the reports of shadows that are new, and forget those that have ended."""
        if desired.endpoints is self._endpoints:
            return
        self._endpoints = desired.endpoints
        for name in [name for name in self._reports if name not in desired.endpoints]:
            del self._reports[name]
        for name, record in desired.endpoints.items():
            report = self._reports.get(name)
            if record.shadow is None:
                self._reports.pop(name, None)
            elif report is None or report.entry != record.shadow:
                self._reports[name] = ShadowReport(record.shadow, counts_of(self._sums(), name))

    def told(self, endpoint: str) -> dict[str, Any] | None:
        """The report of an endpoint's shadow; None: it has none."""
        report = self._reports.get(endpoint)
        return None if report is None else report.told(counts_of(self._sums(), endpoint))

    def sample(self, endpoint: str, backend: str) -> tuple[int, int]:
        """For a judge: how many pairs were compared of the endpoint's shadow at this backend, and how many of them
        differ beyond noise. Both are 0 where it has none there, and begin again with a controller that is started
        again."""
        report = self._reports.get(endpoint)
        if report is None or report.entry.backend != backend:
            return 0, 0
        return report.tally.pairs, report.tally.differing()

    def take(self, pair: ShadowPair) -> None:
        """A pair has come from an ingress worker; one of an earlier shadow is of no use."""
        report = self._reports.get(pair.endpoint)
        if report is None or report.entry.number != pair.number:
            return
        if len(self._waiting) >= MOST_WAITING:
            report.dropped += 1
            return
        self._waiting.append(pair)
        self._came.set()

    async def run(self) -> None:
        """Compare what comes, until cancelled."""
        while True:
            await self._came.wait()
            pairs = [self._waiting.popleft() for _ in range(min(AT_A_TIME, len(self._waiting)))]
            if not self._waiting:
                self._came.clear()
            for endpoint in dict.fromkeys(pair.endpoint for pair in pairs):
                report = self._reports.get(endpoint)
                if report is not None:
                    await self._compare(report, [pair for pair in pairs if pair.endpoint == endpoint])

    async def _compare(self, report: ShadowReport, pairs: list[ShadowPair]) -> None:
        own = [pair for pair in pairs if pair.number == report.entry.number]
        for pair, found in await asyncio.to_thread(report.compare, own):
            report.tally.add(found, repeat=pair.repeat)


async def check_loads(entry: ShadowEntry) -> None:
    """Raise `InvalidInputError` where a function that the shadow names cannot be loaded here."""
    if entry.compare.startswith("__main__:") or entry.redact.startswith("__main__:"):
        raise InvalidInputError("compare, redact: the controller cannot import __main__; move the function to a module")
    await asyncio.to_thread(Comparison, entry)

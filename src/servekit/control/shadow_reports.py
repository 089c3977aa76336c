"""What the shadows of an instance have shown: pairs of answers come from the ingress workers, are compared in threads,
and added up.

A report begins with its shadow, or with the controller: pairs are in no store. Functions of the user's compare pairs,
and may raise whatever they like, or never return: so each report has a thread of its own at a time, no report waits for
another one's, and what is compared late is not counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from servekit.control.event_ring import clock
from servekit.control.shadow_compare import Comparison, problem_of
from servekit.control.shadow_tally import ShadowExample, ShadowTally
from servekit.control.state import Desired
from servekit.control.totals import Sums
from servekit.errors import InvalidInputError
from servekit.tallies import COUNT
from servekit.tasks import TaskSet, in_thread
from servekit.wire.control_frames import ShadowEntry, ShadowPair

_log = logging.getLogger("servekit.control")

MOST_WAITING = 500
"""Pairs that wait to be compared, of all shadows; what is beyond is dropped, and counted."""
AT_A_TIME = 20
"""Pairs that are compared in one step, where no function of the user's is asked; otherwise one is."""
STEP_S = 5.0
"""A step that takes longer hangs: what waits meanwhile is not compared."""
LOADING_S = 60.0
"""So long the import of a user's function may take, when a shadow begins."""
DROPPED = "dropped_"
"""So begin the words under which ingress workers count copies that were not sent, or not compared, and why."""

Compared = tuple[list[tuple[ShadowPair, dict[tuple[str, str], ShadowExample]]], list[str]]
"""Of one step: pairs with what they differ in, and the problems of the others."""


class ShadowReport:
    """What one shadow has shown."""

    def __init__(self, entry: ShadowEntry, counted: Counter[tuple[str, str]]) -> None:
        """``counted``: what the ingress workers had counted before; see `counts_of`."""
        self.entry = entry
        self.since = time.time()
        self.tally = ShadowTally()
        self.waiting: deque[ShadowPair] = deque()
        """Pairs that are to be compared."""
        self.dropped = 0
        """Pairs that were left out as too many waited."""
        self.hung = 0
        """Pairs that were left out as a function of the user's had not returned."""
        self.hangs = False
        """A step has not returned in time."""
        self.problems = 0
        """Pairs that could not be compared."""
        self.last_problem = ""
        self._counted = counted
        self._comparison: Comparison | None = None

    @property
    def at_a_time(self) -> int:
        """How many pairs are compared in one step."""
        return 1 if ":" in self.entry.compare or self.entry.redact else AT_A_TIME

    def hang(self, left_out: int) -> None:
        """A step with so many pairs has not returned in time."""
        self.hangs = True
        self.hung += left_out + len(self.waiting)
        self.waiting.clear()
        self.last_problem = f"a function of the shadow ({self._functions}) has not returned within {STEP_S:g} s"

    @property
    def _functions(self) -> str:
        return ", ".join(each for each in (self.entry.compare, self.entry.redact) if each)

    def compare(self, pairs: Sequence[ShadowPair]) -> Compared:
        """What each pair differs in, and why the others could not be compared. In a thread: nothing that others read is
        touched."""
        found, problems = [], []
        for pair in pairs:
            try:
                if self._comparison is None:
                    self._comparison = Comparison(self.entry)
                found.append((pair, self._comparison.of(pair)))
            except BaseException as error:  # The user's code may exit, too.
                problems.append(problem_of(error))
        return found, problems

    def add(self, compared: Compared) -> None:
        """Count what a step has found."""
        found, problems = compared
        for pair, what in found:
            self.tally.add(what, repeat=pair.repeat)
        if problems:
            if not self.problems:
                _log.warning("shadow at backend %s: answers cannot be compared: %s", self.entry.backend, problems[0])
            self.problems += len(problems)
            self.last_problem = problems[-1]

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
        if self.hung:
            dropped["compare_hangs"] = self.hung
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
        self._steps: dict[ShadowReport, asyncio.Task[None]] = {}
        """The reports whose pairs are being compared."""
        self._tasks = TaskSet()
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
        if report.hangs:
            report.hung += 1
            return
        if sum(len(each.waiting) for each in self._reports.values()) >= MOST_WAITING:
            longest = max(self._reports.values(), key=lambda each: len(each.waiting))
            if len(longest.waiting) <= len(report.waiting) + 1:
                report.dropped += 1
                return
            longest.waiting.pop()  # One that is slow leaves room for the others.
            longest.dropped += 1
        report.waiting.append(pair)
        self._came.set()

    async def run(self) -> None:
        """Compare what comes, until cancelled."""
        try:
            while True:
                await self._came.wait()
                self._came.clear()
                for report in self._reports.values():
                    if report.waiting and report not in self._steps:
                        self._steps[report] = self._tasks.spawn(self._compare(report))
        finally:
            await self._tasks.close()

    async def _compare(self, report: ShadowReport) -> None:
        """Compare what waits, step by step."""
        try:
            while report.waiting:
                await _step(report)
        finally:
            del self._steps[report]


async def _step(report: ShadowReport) -> None:
    """Compare some of the pairs that wait. Where that hangs, return only when it has ended: no more is asked of a
    function that has not returned."""
    pairs = [report.waiting.popleft() for _ in range(min(report.at_a_time, len(report.waiting)))]
    asked = in_thread(partial(report.compare, pairs))
    done, _ = await asyncio.wait([asked], timeout=STEP_S)
    if done:
        report.add(asked.result())
        return
    report.hang(len(pairs))
    _log.warning("shadow at backend %s: %s", report.entry.backend, report.last_problem)
    await asyncio.wait([asked])
    report.hangs = False


async def check_loads(entry: ShadowEntry) -> None:
    """Raise `InvalidInputError` where a function that the shadow names cannot be loaded here."""
    if entry.compare.startswith("__main__:") or entry.redact.startswith("__main__:"):
        raise InvalidInputError("compare, redact: the controller cannot import __main__; move the function to a module")
    loading = in_thread(partial(Comparison, entry))
    done, _ = await asyncio.wait([loading], timeout=LOADING_S)
    if not done:
        loading.cancel()
        raise InvalidInputError(
            f"compare, redact: the import has not ended within {LOADING_S:g} s; have the module do less"
        )
    loading.result()

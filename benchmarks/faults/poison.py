"""Requests that kill, and a replica that fails where its siblings succeed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from benchmarks.faults.load import ask
from benchmarks.faults.row import Row
from benchmarks.faults.scene import POSTS_INSIDE, Scene, Watch, failures_at_first, posts_inside, scene, watched
from servekit.errors import ServekitError

REPLICAS = 8
POISONS = 20
"""How many requests one client sends, one a second, each of which kills its replica."""
PATIENCE_S = 10.0
"""How long it waits for an answer."""
SPOILT_S = 10.0


class Sampler:
    """Looks how many replicas are ready, again and again."""

    PERIOD_S = 0.1

    def __init__(self, at: Scene, of: int) -> None:
        self._at, self._of = at, of
        self._seen: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(self.PERIOD_S):
            try:
                self._seen.append(len(self._at.replicas()))
            except ServekitError:
                self._seen.append(0)

    def note(self) -> str:
        some = sum(ready < self._of for ready in self._seen) / len(self._seen)
        mean = 1 - sum(self._seen) / len(self._seen) / self._of
        return f"one or more of {self._of} replicas down for {some:.0%} of the time, {mean:.0%} of them on the average"


def poisoned(watch: Watch, send: Callable[[], str]) -> list[str]:
    """``send`` once a second, whatever became of those before; the answers."""
    answers: list[str] = []

    def one() -> None:
        with watch.fault():
            answers.append(send())

    threads = []
    begins_s = time.monotonic()
    for number in range(POISONS):
        time.sleep(max(0.0, begins_s + number - time.monotonic()))
        threads.append(threading.Thread(target=one))
        threads[-1].start()
    time.sleep(1)
    watch.began_s = time.monotonic()
    for thread in threads:
        thread.join()
    return answers


def poison(runtime: str) -> Row:
    with scene(runtime, replicas=REPLICAS) as at:
        with watched(at) as watch:
            with Sampler(at, REPLICAS) as sampler:
                answers = poisoned(watch, lambda: ask(at.instance.url, "die", id="poison", timeout_s=PATIENCE_S))
            watch.until_whole(lambda: len(at.replicas()) == REPLICAS)
            watch.notes += [sampler.note(), told(answers), "the last column is from the last of them on"]
        return watch.row(f"a GET a second that kills its replica, {POISONS} s", posts_inside, POSTS_INSIDE)


def told(answers: list[str]) -> str:
    kinds = Counter(answer.replace(":", " ").split()[0] for answer in answers)
    return f"its own answers: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}"


def spoilt(runtime: str) -> Row:
    with scene(runtime) as at:
        with watched(at) as watch:
            with watch.fault():
                ask(at.instance.url, "spoil")
            time.sleep(SPOILT_S)
        row = watch.row("a replica that only fails", failures_at_first, "what it got before it was left out")
        later = [one for one in watch.load.outcomes if one.sent_s > watch.spans[0][1] + 1]
        failed = sum(bool(one.kind) for one in later)
        row.notes.append(f"from the second second on {failed} of {len(later):,} requests failed")
        return row


FAULTS = {"poison": poison, "spoilt": spoilt}

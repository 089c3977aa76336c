"""The replicas of one backend that get no requests for a while, for they fail where their siblings do not. See
`servekit.ingress.outliers`, which decides."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Generic, Protocol, TypeVar

from servekit.ingress.outliers import LEAST_STREAK, ejection_s, is_outlier, may_eject, too_many
from servekit.ingress.shared import Shared

_log = logging.getLogger("servekit.ingress")


class Record:
    """How one replica has answered."""

    __slots__ = ("back_at", "ejected_s", "ejections", "failures", "siblings", "streak")

    def __init__(self) -> None:
        self.failures = 0
        """All answers that were a 5xx."""
        self.streak = 0
        """Those since the last other one. Whoever takes an answer sets it back."""
        self.siblings: dict[str, tuple[int, int]] = {}
        """The `tally` of every sibling when the streak began."""
        self.ejections = 0
        self.ejected_s = 0.0
        """For how long the last time."""
        self.back_at = 0.0
        """When the last ejection ended."""


class EjectedReplica(Protocol):
    """A `Replica`, as ejections use it."""

    id: str
    record: Record

    @property
    def tally(self) -> tuple[int, int]:
        """How many calls are over, and how many of them were failures."""

    def begin_anew(self) -> None:
        """Have the replica get one request first, and then one more with every answer."""


R = TypeVar("R", bound=EjectedReplica)


class Ejections(Generic[R]):
    """Takes replicas out of the list of those that are ready, and puts them back."""

    def __init__(
        self, backend: str, ready: list[R], shared: Shared, left: Callable[[R], None], changed: Callable[[], None]
    ) -> None:
        """``left`` is called with a replica that is ready no longer, ``changed`` when ``ready`` has changed."""
        self._backend = backend
        self._ready = ready
        self._shared = shared
        self._left = left
        self._changed = changed
        self._out: dict[R, asyncio.TimerHandle] = {}

    @property
    def out(self) -> Collection[R]:
        """The replicas that get no requests."""
        return self._out.keys()

    def failed(self, replica: R) -> None:
        """The replica has given one more answer that is a failure."""
        record = replica.record
        record.failures += 1
        record.streak += 1
        if record.streak == 1:
            record.siblings = {each.id: each.tally for each in self._ready if each is not replica}
        elif record.streak % LEAST_STREAK == 0 and replica not in self._out:
            self._judge(replica)

    def gone(self, replica: R) -> None:
        """The replica is not there any more, and those that are out may be too many now."""
        timer = self._out.pop(replica, None)
        if timer is not None:
            timer.cancel()
        if self._out and too_many(len(self._out), len(self._ready) + len(self._out)):
            self._back(next(iter(self._out)))

    def close(self) -> None:
        """Forget all."""
        while self._out:
            self._out.popitem()[1].cancel()

    def _judge(self, replica: R) -> None:
        if replica not in self._ready:  # It leaves, and answers what it still has.
            return
        record, answers, failures = replica.record, 0, 0
        for each in self._ready:
            if each is not replica:
                (answers_now, failures_now), (answers_then, failures_then) = (
                    each.tally,
                    record.siblings.get(each.id, (0, 0)),
                )
                answers += answers_now - answers_then
                failures += failures_now - failures_then
        if not is_outlier(record.streak, answers, failures):
            return
        if may_eject(len(self._out), len(self._ready) + len(self._out)):
            self._eject(replica, f"{failures} of {answers}")

    def _eject(self, replica: R, of_siblings: str) -> None:
        record, now = replica.record, self._shared.now()
        # One that was well for as long as it had been out begins anew.
        is_relapse = record.ejections and now - record.back_at < record.ejected_s
        record.ejections = record.ejections + 1 if is_relapse else 1
        record.ejected_s = ejection_s(record.ejections)
        why = (
            f"gets no requests for {record.ejected_s:g} s: its last {record.streak} answers were 5xx, of its siblings' "
            f"{of_siblings}"
        )
        _log.warning("replica %s %s %s", self._backend, replica.id, why)
        self._shared.ejected.append((self._backend, replica.id, why))
        self._ready.remove(replica)
        self._out[replica] = self._shared.later(record.ejected_s, self._back, replica)
        self._left(replica)
        self._changed()

    def _back(self, replica: R) -> None:
        self._out.pop(replica).cancel()
        record = replica.record
        record.back_at = self._shared.now()
        record.streak = max(0, record.streak - 1)  # Another failure, and it is judged again.
        replica.begin_anew()
        self._ready.append(replica)
        self._changed()

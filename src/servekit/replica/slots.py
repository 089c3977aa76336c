"""Which calls hold a replica's slots, and how many calls are here in all."""

from __future__ import annotations

from servekit.replica.call import Batch, Job
from servekit.replica.load import Load


class Slots:
    """Of one replica. A call holds one slot while its handler runs; a batch one for all of its calls."""

    __slots__ = ("_count", "_load", "_running", "inline_since", "outstanding")

    def __init__(self, count: int, load: Load) -> None:
        self._count = count
        self._load = load
        self._running: set[Job | Batch] = set()
        self.inline_since = 0.0
        """When the call began that runs on the data loop itself, and so needs no slot; 0.0 when none does."""
        self.outstanding = 0
        """Calls that have come and whose handlers have not ended."""

    @property
    def is_free(self) -> bool:
        """There is one for another call."""
        return len(self._running) < self._count

    @property
    def busy_since(self) -> float:
        """When the oldest call that runs now began (perf_counter); 0.0 when none runs. Safe in other threads."""
        return self.inline_since or min((holder.started for holder in list(self._running)), default=0.0)

    def hold(self, holder: Job | Batch) -> None:
        """It takes a slot."""
        self._running.add(holder)
        self._load.changed(self.outstanding)

    def hold_inline(self, since: float) -> None:
        """A call begins that the data loop itself makes."""
        self.inline_since = since
        self._load.changed(self.outstanding)

    def pass_on(self, batch: Batch, successor: Batch) -> None:
        """The handler of a batch has ended, and its thread has begun the next."""
        self._running.discard(batch)
        self.hold(successor)

    def over(self, job: Job) -> None:
        """A call's handler has ended, or it will not begin: its slot is free, or its part of one."""
        self.outstanding -= 1
        if self._running:
            self._release(job)
        if job.batch is None or not job.batch.left:
            self._load.changed(self.outstanding)

    def _release(self, job: Job) -> None:
        if job.body is not None:
            job.body.end("its call is over")  # The handler may have left a thread behind that reads it.
            job.body = None
        if job.batch is None:
            self._running.discard(job)
        else:
            job.batch.left -= 1
            if not job.batch.left:
                self._running.discard(job.batch)

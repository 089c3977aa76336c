"""The calls that wait to share a batch, each with those that it may share one with."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Iterator

from servekit.loopless import call_loopless
from servekit.replica import invoke
from servekit.replica.batching import BatchPlan
from servekit.replica.call import Batch, Job
from servekit.replica.target import Entry

KINDS = 64
"""Groups that are remembered while no call is in them: one for each method and each set of a handle's arguments."""


class Group:
    """Calls that may share a batch, in the order in which they came."""

    __slots__ = ("entry", "in_queue", "jobs", "plan", "running", "timer")

    def __init__(self, entry: Entry, plan: BatchPlan) -> None:
        self.entry = entry
        self.plan = plan
        self.jobs: deque[Job] = deque()
        self.running = 0
        """Calls in batches that run."""
        self.in_queue = False
        """It waits for a slot, or to be asked whether it waits for more calls."""
        self.timer: asyncio.TimerHandle | None = None

    def take(self, now: float) -> Batch:
        """A batch of the first of them."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        jobs = [self.jobs.popleft() for _ in range(min(len(self.jobs), self.plan.max_size))]
        batch = Batch(self, jobs)
        for job in jobs:
            job.batch, job.group = batch, None
        batch.begin(now)  # Again when its handler is called; from now on none of it is refused.
        self.running += len(jobs)
        self.plan.began(len(jobs))
        return batch


class Groups:
    """All of them: only calls of one kind share a batch."""

    def __init__(self, max_size: int, wait_s: float) -> None:
        self._max_size = max_size
        self._wait_s = wait_s
        self._groups: dict[Hashable, Group] = {}

    def join(self, job: Job) -> Group:
        """Have ``job`` wait among its kind. Raises what unpickling a handle's arguments raises."""
        kind = self._kind(job)
        group = self._groups.get(kind)
        if group is None:
            self._forget_one()
            group = self._groups[kind] = Group(job.entry, BatchPlan(self._max_size, self._wait_s))
        group.jobs.append(job)
        job.group = group
        group.plan.came(len(group.jobs), group.running)
        return group

    def __iter__(self) -> Iterator[Job]:
        """Every call that waits."""
        for group in self._groups.values():
            yield from group.jobs

    def _kind(self, job: Job) -> Hashable:
        name = job.entry.name
        if job.request.chain is None:
            return name
        # Unpickling may import modules of the user's, and runs what they say.
        loop = asyncio.get_running_loop()
        job.arguments = args, kwargs = call_loopless(loop, invoke.arguments, job.request)
        return name, len(args), *sorted(kwargs)

    def _forget_one(self) -> None:
        if len(self._groups) >= KINDS:
            for kind, group in self._groups.items():
                if not group.jobs and not group.running:
                    del self._groups[kind]
                    return

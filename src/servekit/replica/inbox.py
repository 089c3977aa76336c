"""Calls before they begin: their bodies arrive, they gather in batches, they wait for a slot."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from servekit.interfaces import RequestAdapter
from servekit.replica.call import Job
from servekit.replica.groups import Group, Groups
from servekit.replica.incoming import IncomingPieces, IncomingStream
from servekit.wire.data_frames import Chunk, Credit, End
from servekit.wire.link import Link


class Inbox:
    """Lives on the data loop, as all but the handlers does."""

    def __init__(
        self,
        adapter: RequestAdapter,
        groups: Groups,
        *,
        post: Callable[[Callable[[], None]], None],
        unreadable: Callable[[Job, BaseException], None],
    ) -> None:
        """
        Args:
            post: has a call made on the data loop, from any thread.
            unreadable: told of a call by a handle whose arguments cannot be unpickled.
        """
        self._adapter = adapter
        self._groups = groups
        self._post = post
        self._unreadable = unreadable
        self.waiting: deque[Job | Group] = deque()
        """For a slot, in the order in which they came; a group stands here for the next of its batches."""
        self.open: dict[tuple[Link, int], Job] = {}
        """Those that frames may still come for: whose bodies are on their way, and those that run, but not inline."""

    def __iter__(self) -> Iterator[Job]:
        """Every call, each once: what waits for a slot while its body still arrives is in both."""
        waiting = [job for job in self.waiting if isinstance(job, Job)]
        yield from dict.fromkeys([*waiting, *self._groups, *self.open.values()])

    def find(self, link: Link, call_id: int) -> Job | None:
        found = self.open.get((link, call_id))
        if found is None:
            found = next((job for job in self if job.link is link and job.id == call_id), None)
        return found

    def remove(self, job: Job) -> None:
        """It is not to begin any more."""
        if job.group is not None:
            job.group.jobs.remove(job)
        elif job in self.waiting:
            self.waiting.remove(job)

    def add(self, job: Job) -> None:
        """A call that is here whole."""
        if not job.entry.batches:
            self.waiting.append(job)
            return
        try:
            group = self._groups.join(job)
        except BaseException as error:
            self._unreadable(job, error)
        else:
            self.queue(group)

    def queue(self, group: Group) -> None:
        """Have it asked for a batch when its turn comes."""
        if not group.in_queue:
            group.in_queue = True
            self.waiting.append(group)

    # -- bodies --------------------------------------------------------------------------------------------------

    def add_begun(self, job: Job) -> None:
        """A call of whose body more is to come."""
        request = job.request
        if self._adapter.is_async:
            job.body = IncomingPieces(request.body, lambda size: grant(job, size))
        elif request.upgrade:
            self.add(job)  # To a handler that speaks HTTP alone, this is a request without a body.
            return
        else:
            job.body = IncomingStream(request.body, lambda size: self._post(lambda: grant(job, size)))
        self.open[job.link, job.id] = job
        if request.upgrade:
            self.waiting.append(job)

    def receive(self, link: Link, chunk: Chunk) -> None:
        """More of a call's body."""
        job = self.open.get((link, chunk.id))
        if job is None or job.body is None or job.body.ended:
            return
        job.body.feed(chunk.data)
        if not self._streams(job):
            grant(job, len(chunk.data))
        elif job.body.window_is_full and not job.started and job not in self.waiting:
            self.waiting.append(job)

    def received(self, link: Link, end: End) -> None:
        """A call's body is over."""
        job = self.open.get((link, end.id))
        if job is None or job.body is None or job.body.ended:
            return
        job.body.end(None if end.complete else "the client is gone")
        if not job.started and job not in self.waiting:
            # All of it is here before the handler was called: a call like any other.
            job.request.body, job.body = job.body.whole(), None
            del self.open[link, end.id]
            self.add(job)

    def _streams(self, job: Job) -> bool:
        """Its handler may begin while its body is still arriving."""
        if self._adapter.is_async:
            return True
        return self._adapter.streams_body and not job.entry.on_loop and not job.entry.batches


def grant(job: Job, size_bytes: int) -> None:
    """Let the ingress send so much more of a call's body."""
    job.has_credit = True
    job.link.send(Credit(job.id, size_bytes))

"""One call in a replica, from its frame to the end of its answer; and calls that share a batch."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from servekit.interfaces import Request
from servekit.replica.incoming import IncomingPieces, IncomingStream
from servekit.replica.outgoing import AsyncPieceSender, LongBody, PieceSender
from servekit.replica.target import Entry
from servekit.wire.link import Link

if TYPE_CHECKING:
    from servekit.replica.groups import Group


class Job:
    """A call, with what only some calls have: a body that is still arriving, an answer that is going out, a batch."""

    __slots__ = (
        "arguments",
        "batch",
        "body",
        "entry",
        "expires",
        "group",
        "has_credit",
        "id",
        "link",
        "request",
        "sender",
        "started",
        "stopped",
        "task",
    )

    def __init__(self, link: Link, call_id: int, request: Request, entry: Entry, expires: float) -> None:
        self.link = link
        self.id = call_id
        self.request = request
        self.entry = entry
        self.expires = expires
        """By ``time.perf_counter``."""
        self.body: IncomingStream | IncomingPieces | None = None
        self.sender: LongBody | PieceSender | AsyncPieceSender | None = None
        self.task: asyncio.Task[None] | None = None
        """In which it runs, where it runs on the loop, or in which its pieces are made."""
        self.group: Group | None = None
        """Where it waits for others to share a batch with."""
        self.batch: Batch | None = None
        self.arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        """Of a call by a handle that shares a batch."""
        self.started = 0.0
        """When its handler was called; 0.0 before that."""
        self.has_credit = False
        """Some of its body was let go of by the ingress: it cannot be sent elsewhere any more."""
        self.stopped = ""
        """Why it is to end early."""

    def stop(self, reason: str) -> None:
        """Nobody waits for it: wake what waits for its body or its reader, and cancel its task."""
        first, self.stopped = not self.stopped, reason
        if self.body is not None:
            self.body.end(reason)
        if self.sender is not None:
            self.sender.stop()
        if not first:
            return  # What ends a task may take its time; it is not disturbed in that.
        if self.task is not None:
            self.task.cancel()
        elif self.batch is not None:
            self.batch.check_wanted()


class Batch:
    """Calls that one call of the handler answers. Together they hold one slot, until the last of them is over."""

    __slots__ = ("entry", "group", "jobs", "left", "started", "task")

    def __init__(self, group: Group, jobs: list[Job]) -> None:
        self.group = group
        self.jobs = jobs
        self.entry = jobs[0].entry
        self.started = 0.0
        self.left = len(jobs)
        """Those that are not over."""
        self.task: asyncio.Task[None] | None = None
        """In which the handler runs, where it runs on the loop."""

    def begin(self, now: float) -> None:
        """Its handler is called."""
        self.started = now
        for job in self.jobs:
            job.started = now

    def check_wanted(self) -> None:
        """Cancel the handler once nobody waits for any of its answers."""
        if self.task is not None and all(job.stopped for job in self.jobs):
            self.task.cancel()

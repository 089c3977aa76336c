"""One call in a replica, from its frame to the end of its answer."""

from __future__ import annotations

from servekit.interfaces import Request
from servekit.replica.incoming import IncomingStream
from servekit.replica.outgoing import LongBody, PieceSender
from servekit.wire.link import Link


class Job:
    """A call, with what only some calls have: a body that is still arriving, an answer that is going out."""

    __slots__ = ("body", "expires", "has_credit", "id", "link", "request", "sender", "started", "stopped")

    def __init__(self, link: Link, call_id: int, request: Request, expires: float) -> None:
        self.link = link
        self.id = call_id
        self.request = request
        self.expires = expires
        """By ``time.perf_counter``."""
        self.body: IncomingStream | None = None
        self.sender: LongBody | PieceSender | None = None
        self.started = 0.0
        """When its handler was called; 0.0 before that."""
        self.has_credit = False
        """Some of its body was let go of by the ingress: it cannot be sent elsewhere any more."""

        self.stopped = ""
        """Why it is to end early."""

    def stop(self, reason: str) -> None:
        """Nobody waits for it: wake what waits for its body or its reader."""
        self.stopped = reason
        if self.body is not None:
            self.body.end(reason)
        if self.sender is not None:
            self.sender.stop()

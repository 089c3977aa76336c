"""Sends the answers of calls: whole, in pieces as they are read, or as a refusal."""

from __future__ import annotations

from collections.abc import Callable

from servekit.replica.call import Job
from servekit.replica.load import Load
from servekit.replica.outgoing import LongBody
from servekit.replica.render import Rendered
from servekit.replica.slots import Slots
from servekit.wire.data_frames import PIECE_BYTES, Answer, Credit, End, Refusal
from servekit.wire.link import Link

UNSENT_BYTES = 64 * 1024 * 1024
"""No call begins while the bodies of ended calls that their readers have not taken are longer than this together."""


class Replies:
    """Lives on the data loop. A handler that has ended gives its slot back here, before its answer is read."""

    def __init__(
        self, slots: Slots, load: Load, opened: dict[tuple[Link, int], Job], stream: Callable[[Job, Rendered], None]
    ) -> None:
        """
        Args:
            opened: the calls that frames may still come for.
            stream: makes and sends an answer's pieces, elsewhere; `streamed` is to be called in the end.
        """
        self._slots = slots
        self._load = load
        self._open = opened
        self._stream = stream
        self._unsent_bytes = 0

    @property
    def is_behind(self) -> bool:
        """Readers leave so much untaken that no more is to be made."""
        return self._unsent_bytes > UNSENT_BYTES

    def hold(self, job: Job) -> None:
        """A call takes a slot, and from now on frames may come for it."""
        self._open[job.link, job.id] = job
        self._slots.hold(job)

    def send(self, job: Job, rendered: Rendered, failed: bool, ended: float) -> None:
        """Send an answer that is there; one that is yet to be made goes on in this context, elsewhere."""
        status, head, body, _ = rendered
        if type(body) is not bytes:
            if job.batch is None:
                self.hold(job)
            self._stream(job, rendered)
            return
        service_us = self._handler_over(job, ended)
        if len(body) <= PIECE_BYTES:
            job.link.send(Answer(job.id, status, head, body, self._slots.outstanding, service_us, failed))
            return
        sender = job.sender = LongBody(job.link, job.id, body if job.request.method != "HEAD" else b"")
        rest = len(body) - len(sender.first)
        job.link.send(Answer(job.id, status, head, sender.first, self._slots.outstanding, service_us, failed, rest))
        self._open[job.link, job.id] = job
        self._unsent_bytes += sender.unsent_bytes
        self._push(job, sender)

    def streamed(self, job: Job, complete: bool, ended: float) -> None:
        """An answer that was made piece by piece has begun, and is over."""
        service_us = self._handler_over(job, ended)
        job.link.send(End(job.id, complete, self._slots.outstanding, service_us))

    def refuse(self, job: Job, reason: str) -> None:
        """Say that it will not be called."""
        self._over(job)
        job.link.send(Refusal(job.id, reason))

    def grant(self, job: Job, credit: Credit) -> None:
        """The reader of an answer's body has room for more."""
        if job.sender is not None:
            job.sender.grant(credit.size_bytes)
            self.push(job)

    def push(self, job: Job) -> None:
        """Send what of a long body there is credit for; its end, where it was stopped."""
        if isinstance(job.sender, LongBody):
            self._push(job, job.sender)

    def _push(self, job: Job, sender: LongBody) -> None:
        self._unsent_bytes -= sender.push()
        if not sender.unsent_bytes:
            del self._open[job.link, job.id]
            job.link.send(End(job.id, not job.stopped))

    def _handler_over(self, job: Job, ended: float) -> int:
        """Its slot is free; returns how long it took, in microseconds."""
        self._over(job)
        service_us = int((ended - job.started) * 1e6)
        self._load.served(service_us)
        return service_us

    def _over(self, job: Job) -> None:
        self._slots.over(job)
        if self._open:
            self._open.pop((job.link, job.id), None)

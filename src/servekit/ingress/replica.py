"""One replica, as an ingress worker sees it: the calls that it has, and its room for more.

Late binding by time: what a replica will not get to within about a millisecond waits in the ingress instead, where
whichever replica is free first can take it. A wide window is what makes fast handlers fast (one write carries many
calls); a wide window on slow handlers ruins balance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from servekit.wire.control_frames import ReplicaEntry
from servekit.wire.data_frames import Answer, Call, End
from servekit.wire.outgoing_calls import OutgoingCalls

if TYPE_CHECKING:
    from servekit.ingress.backend import Backend
    from servekit.ingress.exchange import Exchange
    from servekit.ingress.router import Router


AHEAD_US = 1000.0
"""Work to be handed over beyond the slots."""
SLOW_US = 20_000.0
"""Above this mean service time nothing is handed over beyond the slots."""
WIDEST = 64


class Window:
    """The window of one replica: starts at one call beyond the slots, falls at once, rises slowly.

    Where calls are answered in batches, a full batch is to it what a call is elsewhere.
    """

    __slots__ = ("_batch", "_mean_us", "_slots", "size")

    def __init__(self, slots: int, batch: int = 1) -> None:
        self._slots = slots
        self._batch = batch
        self._mean_us = AHEAD_US
        self.size = (slots + 1) * batch

    def observe(self, service_us: int) -> None:
        """An answer reported how long its call took in the handler."""
        mean = self._mean_us
        if service_us > mean:
            # Slower than thought: believe it soon, for calls already handed over cannot be taken back.
            self._mean_us = mean + (service_us - mean) * 0.5
        else:
            self._mean_us = mean + (service_us - mean) * 0.05
        mean = self._mean_us
        if mean >= SLOW_US:
            self.size = self._slots * self._batch
            return
        target = min(max(1, WIDEST // self._batch), int(AHEAD_US / mean) if mean > 1 else WIDEST) or 1
        ahead = self.size // self._batch - self._slots
        self.size = (self._slots + (target if target <= ahead else ahead + 1)) * self._batch


class Replica:
    """Its room is the window beyond the calls that it has. It is the `ReplicaView` of policies."""

    __slots__ = (
        "_load",
        "_window",
        "addresses",
        "backend",
        "calls",
        "id",
        "node",
        "outstanding",
        "queue_length",
        "retired",
        "router",
        "slots",
        "streams_bodies",
    )

    def __init__(self, entry: ReplicaEntry, backend: Backend, router: Router) -> None:
        self.id = entry.id
        self.node = entry.node
        self.addresses = entry.addresses
        self.backend = backend
        self.router = router
        self.calls: OutgoingCalls[Exchange] = OutgoingCalls(self)
        self.outstanding = 0
        """Calls whose handlers have not ended."""
        self.queue_length = 0
        self._load = 0
        """Calls that it holds from all ingress workers, while it tells; see `Load`."""
        self.retired = False
        """Absent from the snapshot: it gets no more calls, and keeps its link until its last answer."""
        self.slots = entry.capabilities.slots
        self.streams_bodies = entry.capabilities.streams_bodies
        self._window = Window(self.slots, backend.config.max_batch_size or 1)

    @property
    def limit(self) -> int:
        """How many calls it is handed ahead of their answers."""
        return self._window.size

    @property
    def has_room(self) -> bool:
        limit, link = self._window.size, self.calls.link
        return self.outstanding < limit and self._load < limit and link is not None and link.writable

    def send(self, exchange: Exchange, now: float) -> bool:
        """Hand over a call, if there is room for one. Only while the replica is ready."""
        if not self.has_room:
            return False
        self.outstanding += 1
        exchange.replica = self
        exchange.handler_over = False
        exchange.tries += 1
        call = Call(0, int((exchange.expires - now) * 1000) + 1, exchange.request())
        rest = exchange.body_rest
        if rest is None:
            self.calls.begin(exchange, call)
        else:
            call.more, call.request.upgrade = True, exchange.upgrade
            self.calls.begin(exchange, call)
            rest.start(self.calls.upload(exchange))
        return True

    def cancel(self, exchange: Exchange) -> None:
        """Nobody waits for this call; it holds its place until the replica says that it is over."""
        self.calls.cancel(exchange)

    def retire(self) -> None:
        """The snapshot has it no longer: say that no call will follow; what it has, it will answer."""
        self.retired = True
        self.backend.remove_ready(self)
        self.calls.leave()

    # -- CallsOwner --------------------------------------------------------------------------------------------------

    def link_opened(self) -> None:
        if self.retired:
            self.calls.leave()
        else:
            self.backend.add_ready(self)
            self.router.dispatcher.replica_ready(self.backend)

    def answered(self, call: Exchange, answer: Answer) -> None:
        self._handler_over(call, answer)
        call.answered(answer)

    def begun(self, call: Exchange, answer: Answer) -> None:
        if not answer.running:
            self._handler_over(call, answer)
        call.begun(answer)

    def ended(self, call: Exchange, end: End) -> None:
        if not call.handler_over:
            self._handler_over(call, end)
        call.ended(complete=end.complete)

    def _handler_over(self, call: Exchange, frame: Answer | End) -> None:
        call.handler_over = True
        self.outstanding -= 1
        self.queue_length = frame.queue_length
        self._window.observe(frame.service_us)

    def refused(self, call: Exchange, reason: str) -> None:
        self.outstanding -= 1
        call.refused(reason)

    def answers_done(self) -> None:
        if self.backend.waiting:
            self.router.dispatcher.pump(self.backend)

    def link_writable(self) -> None:
        self.router.dispatcher.pump(self.backend)

    def load_told(self, queue_length: int) -> None:
        self._load = self.queue_length = queue_length

    def peer_leaves(self) -> None:
        """It leaves on its own, by a SIGTERM say."""
        self.backend.remove_ready(self)
        self.calls.leave()
        self.router.dispatcher.replica_lost(self.backend)

    def lost(self, calls: Sequence[tuple[Exchange, bool]]) -> None:
        self.outstanding = self._load = 0
        self.backend.remove_ready(self)
        # Readiness first: what is sent again must not be sent here.
        self.router.dispatcher.replica_lost(self.backend)
        for call, sent in calls:
            call.lost(sent=sent)

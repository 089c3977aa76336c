"""One replica, as an ingress worker sees it: the link to it, and the calls that it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from servekit.ingress.window import Window
from servekit.wire.control_frames import ReplicaEntry
from servekit.wire.data_frames import Answer, Bye, Call, Cancel, Chunk, Credit, End, Load, Refusal
from servekit.wire.link import Link

if TYPE_CHECKING:
    from servekit.ingress.backend import Backend
    from servekit.ingress.exchange import Exchange
    from servekit.ingress.router import Router


class Replica:
    """Owns the link and the calls on it; tells the router what comes back. It is the `ReplicaView` of policies."""

    __slots__ = (
        "_load",
        "_next_number",
        "_over",
        "_window",
        "addresses",
        "backend",
        "calls",
        "id",
        "limit",
        "link",
        "node",
        "outstanding",
        "queue_length",
        "retired",
        "router",
        "slots",
    )

    def __init__(self, entry: ReplicaEntry, backend: Backend, router: Router) -> None:
        self.id = entry.id
        self.node = entry.node
        self.addresses = entry.addresses
        self.backend = backend
        self.router = router
        self.link: Link | None = None
        self.calls: dict[int, Exchange] = {}
        self._over: set[int] = set()
        """Those whose handlers have ended: only the rest of their answers is still to come."""
        self.outstanding = 0
        self.queue_length = 0
        self._load = 0
        """Calls that it holds from all ingress workers, while it tells; see `Load`."""
        self.retired = False
        """Absent from the snapshot: it gets no more calls, and keeps its link until its last answer."""
        self.slots = entry.slots
        self._window = Window(entry.slots, backend.config.max_batch_size or 1)
        self.limit = self._window.size
        """How many calls it is handed ahead of their answers."""
        self._next_number = 0

    @property
    def has_room(self) -> bool:
        return self.outstanding < self.limit and self._load < self.limit and cast(Link, self.link).writable

    def send(self, exchange: Exchange, now: float) -> None:
        """Hand over a call. Only while the replica is ready."""
        self._next_number = number = self._next_number + 1
        self.outstanding += 1
        self.calls[number] = exchange
        exchange.replica = self
        exchange.number = number
        exchange.tries += 1
        left_ms = int((exchange.expires - now) * 1000) + 1
        link = cast(Link, self.link)
        upload = exchange.upload
        if upload is None:
            link.send(Call(number, left_ms, exchange.request()))
        else:
            request = exchange.request()
            request.upgrade = exchange.upgrade
            link.send(Call(number, left_ms, request, True))
            upload.start(link, number)

    def cancel(self, exchange: Exchange) -> None:
        """Nobody waits for this call; it holds its place until the replica says that it is over."""
        if self.link is not None:
            self.link.send(Cancel(exchange.number))

    def retire(self) -> None:
        """The snapshot has it no longer: say that no call will follow; what it has, it will answer."""
        self.retired = True
        self._leave()

    def _leave(self) -> None:
        self.backend.remove_ready(self)
        if self.link is not None:
            self.link.send(Bye())

    # -- LinkOwner --------------------------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        self.link = link
        if self.retired:
            link.send(Bye())
        else:
            self.backend.add_ready(self)
            self.router.dispatcher.replica_ready(self.backend)

    def frame_received(self, link: Link, frame: Any) -> None:
        kind = type(frame)
        if kind is Load:
            self._load = self.queue_length = frame.queue_length
        elif kind is Bye:
            # It leaves on its own, by a SIGTERM say.
            self._leave()
            self.router.dispatcher.replica_lost(self.backend)
        else:
            exchange = self.calls.get(frame.id)
            if exchange is None:
                return
            if kind is Answer and not frame.rest and not frame.running:
                self._handler_over(frame)
                del self.calls[frame.id]
                self.router.answered(exchange, frame)
            else:
                self._uncommon_received(link, exchange, frame)

    def _uncommon_received(self, link: Link, exchange: Exchange, frame: Any) -> None:
        kind = type(frame)
        if kind is Answer:
            if not frame.running:
                self._handler_over(frame)
                self._over.add(frame.id)
            self.router.begun(exchange, frame, link)
        elif kind is Chunk:
            self.router.continued(exchange, frame.data)
        elif kind is End:
            del self.calls[frame.id]
            if frame.id in self._over:
                self._over.discard(frame.id)
            else:
                self._handler_over(frame)
            self.router.ended(exchange, complete=frame.complete)
        elif kind is Credit:
            if exchange.upload is not None:
                exchange.upload.grant(frame.size_bytes)
        elif kind is Refusal:
            del self.calls[frame.id]
            self.outstanding -= 1
            self.router.refused(exchange, frame.reason)

    def _handler_over(self, frame: Answer | End) -> None:
        self.outstanding -= 1
        self.queue_length = frame.queue_length
        self._window.observe(frame.service_us)
        self.limit = self._window.size

    def frames_done(self, link: Link) -> None:
        if self.backend.waiting:
            self.router.dispatcher.pump(self.backend)

    def link_writable(self, link: Link) -> None:
        self.router.dispatcher.pump(self.backend)

    def link_lost(self, link: Link, error: Exception | None) -> None:
        self.link = None
        self.backend.remove_ready(self)
        calls, self.calls, self.outstanding, self._load = self.calls, {}, 0, 0
        self._over.clear()
        # Readiness first: what is sent again must not be sent here.
        self.router.dispatcher.replica_lost(self.backend)
        unsent = {frame.id for frame in link.unsent() if type(frame) is Call}
        for number, exchange in calls.items():
            self.router.lost(exchange, sent=number not in unsent)

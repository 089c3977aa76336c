"""One backend, as an ingress worker sees it: its replicas with their room, and the requests that wait for room."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from time import monotonic
from typing import Protocol

from servekit.config import BackendConfig
from servekit.ingress import refusals
from servekit.ingress.admission import Pace, retry_after_s
from servekit.ingress.bodies import WholeUpload
from servekit.ingress.ejections import Ejections, Record
from servekit.ingress.exchange import Exchange, redispatch
from servekit.ingress.quarantine import Quarantine
from servekit.ingress.shared import Shared
from servekit.ingress.steps import MOST_LOADS, note
from servekit.wire.control_frames import ReplicaEntry
from servekit.wire.data_frames import Answer, Call, End
from servekit.wire.outgoing_calls import OutgoingCalls

AHEAD_US = 1000.0
"""Work to be handed over beyond the slots."""
SLOW_US = 20_000.0
"""Above this mean service time nothing is handed over beyond the slots."""
WIDEST = 64
"""The most calls beyond the slots."""


class Window:
    """How many calls a replica is handed ahead of their answers: at first one beyond its slots. The window falls at
    once, and rises slowly.

    A call that a replica will not get to within about a millisecond waits in the ingress instead, where whichever
    replica is free first can take it. A wide window is what makes fast handlers fast (one write carries many calls); a
    wide window on slow handlers ruins balance.

    Where calls are answered in batches, a full batch counts as a call counts elsewhere.
    """

    __slots__ = ("_batch", "_mean_us", "_slots", "size")

    def __init__(self, slots: int, batch: int = 1) -> None:
        self._slots = slots
        self._batch = batch
        self._mean_us = AHEAD_US
        self.size = (slots + 1) * batch
        """In calls, those in the slots included."""

    def observe(self, service_us: int) -> None:
        """An answer reported how long its call took in the handler."""
        mean = self._mean_us
        # A call that took longer counts at once, for calls already handed over cannot be taken back.
        self._mean_us = mean = mean + (service_us - mean) * (0.5 if service_us > mean else 0.05)
        if mean >= SLOW_US:
            self.size = self._slots * self._batch
            return
        target = min(max(1, WIDEST // self._batch), int(AHEAD_US / mean) if mean > 1 else WIDEST) or 1
        ahead = self.size // self._batch - self._slots
        self.size = (self._slots + (target if target <= ahead else ahead + 1)) * self._batch

    @property
    def service_s(self) -> float:
        """How long a call takes in the handler: a mean that is rather too high."""
        return self._mean_us / 1e6


class Replica:
    """A replica has room while it has fewer calls than its window. It is the `ReplicaView` of policies."""

    def __init__(self, entry: ReplicaEntry, backend: Backend) -> None:
        self.id = entry.id
        self.node = entry.node
        self.addresses = entry.addresses
        self.companions = entry.companions
        self.backend = backend
        self.calls: OutgoingCalls[Exchange] = OutgoingCalls(self)
        self.outstanding = 0
        """Calls whose handlers have not ended."""
        self.queue_length = 0
        self._load = 0
        """Calls that the replica holds from all ingress workers, as far as it tells: see `Load`."""
        self.retired = False
        """Absent from the snapshot: the replica gets no more calls, and keeps its link until its last answer."""
        self._leaves = False
        """The replica is to go, or has asked for no more calls: its end is nobody's fault."""
        self.reserved = False
        self.suspect: Exchange | None = None
        self.record = Record()
        self.slots = entry.capabilities.slots
        self.streams_bodies = entry.capabilities.streams_bodies
        self.window = Window(self.slots, backend.config.max_batch_size or 1)

    @property
    def has_room(self) -> bool:
        limit, link = self.window.size, self.calls.link
        return (
            not self.reserved and self.outstanding < limit and self._load < limit and link is not None and link.writable
        )

    @property
    def load(self) -> tuple[int, int]:
        """How many calls the replica has, and how many it may have; 0 of these where it is given none now."""
        given = not self.reserved and self in self.backend.ready
        return max(self.outstanding, self._load), self.window.size if given else 0

    @property
    def overdue_s(self) -> float:
        """How far a call of which nothing has come back is beyond its deadline, at most."""
        calls = [call for call in self.calls.pending.values() if call.download is None]
        return self.backend.shared.now() - min(call.expires for call in calls) if calls else 0.0

    @property
    def is_empty(self) -> bool:
        link = self.calls.link
        return not self.calls.pending and link is not None and link.writable

    @property
    def tally(self) -> tuple[int, int]:
        return self.calls.made - len(self.calls.pending), self.record.failures

    def send(self, exchange: Exchange, *, alone: bool = False) -> bool:
        """Hand over a call; False: there is no room for one. Only while the replica is ready. ``alone``: a suspect, for
        which there is room: see `Quarantine`."""
        if not alone and not self.has_room:
            return False
        exchange.ahead = self.outstanding
        self.outstanding += 1
        exchange.replica = self
        exchange.handler_over = False
        exchange.tries += 1
        exchange.sent_at = monotonic()
        call = Call(0, int((exchange.expires - exchange.shared.now()) * 1000) + 1, exchange.request())
        rest = exchange.body_rest
        if rest is None:
            self.calls.begin(exchange, call)
        else:
            call.more, call.request.upgrade = True, exchange.upgrade
            self.calls.begin(exchange, call)
            rest.start(self.calls.upload(exchange))
        return True

    def begin_anew(self) -> None:
        self.window.size = 1

    def retire(self, *, leaves: bool) -> None:
        """The snapshot has the replica no longer: no call will follow. ``leaves``: it was told to go, and answers those
        that it has; else its process has ended by itself, and its link will, see `ReplicaLinks.keep_only`."""
        self.retired = True
        self._leaves |= leaves
        self.calls.leave()

    # -- CallsOwner --------------------------------------------------------------------------------------------------

    def link_opened(self) -> None:
        if self.retired:
            self.calls.leave()
        else:
            self.backend.replica_ready(self)

    def answered(self, call: Exchange, answer: Answer) -> None:
        self._handler_over(call, answer)
        call.answered(answer)
        if answer.status >= 500 or self.record.streak:
            self._judge(call, answer)

    def begun(self, call: Exchange, answer: Answer) -> None:
        if not answer.running:
            self._handler_over(call, answer)
        elif call.deaths:
            self.backend.suspects.let_in(self, call)
        call.begun(answer)
        if answer.status >= 500 or self.record.streak:
            self._judge(call, answer)

    def ended(self, call: Exchange, end: End) -> None:
        if not call.handler_over:
            self._handler_over(call, end)
        call.ended(complete=end.complete)

    def _handler_over(self, call: Exchange, frame: Answer | End) -> None:
        call.handler_over = True
        call.service_us = frame.service_us
        self.outstanding -= 1
        self.queue_length = frame.queue_length
        self.window.observe(frame.service_us)
        if call.deaths:
            call.acquit()
            self.backend.suspects.left(self, call)

    def _judge(self, call: Exchange, answer: Answer) -> None:
        if not call.counts:
            return
        if answer.status >= 500:
            self.backend.ejections.failed(self)
        else:
            self.record.streak = 0

    def refused(self, call: Exchange, reason: str) -> None:
        self.outstanding -= 1
        self.backend.suspects.left(self, call)
        call.refused(reason)

    def answers_done(self) -> None:
        backend = self.backend
        suspects = backend.suspects
        if backend.waiting or (suspects.waiting and (suspects.one_left or not self.calls.pending)):
            backend.pump()

    def link_writable(self) -> None:
        self.backend.pump()

    def load_told(self, queue_length: int) -> None:
        self._load = self.queue_length = queue_length

    def peer_leaves(self) -> None:
        """The replica leaves on its own, by a SIGTERM say."""
        self._leaves = True
        self.calls.leave()
        self.backend.replica_lost(self)

    def lost(self, calls: Sequence[tuple[Exchange, bool]]) -> None:
        self.outstanding = self._load = 0
        self.reserved, self.suspect = False, None
        calls = [(call, sent and not self._cannot_have_begun(call)) for call, sent in calls]
        if not self._leaves:
            self._died(calls)
        # Readiness first: calls that are sent again must not be sent here.
        self.backend.replica_lost(self)
        for call, sent in calls:
            call.lost(sent=sent)

    def _cannot_have_begun(self, call: Exchange) -> bool:
        """A body that was to be there whole was not all sent.

        Nothing else that was sent is certain. Calls begin in order, but the answers of one turn leave together: the
        call behind those whose answers are missing may have begun, too.
        """
        return not self.streams_bodies and isinstance(call.body_rest, WholeUpload) and call.body_rest.size > 0

    def _died(self, calls: Sequence[tuple[Exchange, bool]]) -> None:
        """Nobody had asked for the end. Every call whose handler may have been running is a suspect: all that were
        sent, which are those in the slots and about a millisecond of work, see `Window`. That a machine is silent is
        evidence against none of them."""
        for call, sent in calls:
            if sent and not call.handler_over and not self.calls.peer_silent:
                call.suspect()
        if self.calls.made > len(calls):
            self.backend.shared.served[self.id] = self.backend.name
        self.backend.shared.replica_wanted()


class BackendUser(Protocol):
    """An `Endpoint` that sends traffic to a backend, as the backend uses it."""

    def refresh(self) -> None:
        """The backend's readiness has changed, or its config."""

    def unpark(self) -> None:
        """All endpoints have been told of the change: requests that wait may go on."""


class Backend:
    """State of one backend, shared by the endpoints that send traffic to it."""

    def __init__(self, name: str, config: BackendConfig, shared: Shared) -> None:
        self.name = name
        self.config = config
        self.types = b""
        """What its handler takes and gives, for the OpenAPI document."""
        self.failing = False
        """Its replicas fail to start."""
        self.replicas: dict[str, Replica] = {}
        """Every replica of the snapshot, ready or not."""
        self.ready: list[Replica] = []
        """Those with an open link. Changed in place: the targets of endpoints hold this very list."""
        self.waiting: OrderedDict[Exchange, None] = OrderedDict()
        """In the order in which they came; at most ``max_queued_requests``."""
        self.refused = 0
        """Requests that were refused since `take_refused`, for too many were before them."""
        self._pace = Pace()
        self._followed: tuple[Exchange, float] | None = None
        """One of the calls that were sent from the queue, and when."""
        self._places = 0
        """Those of the replicas that are ready, or coming."""
        self.endpoints: set[BackendUser] = set()
        """Those whose traffic gives the backend weight."""
        self.suspects: Quarantine[Replica] = Quarantine(self.replicas, self.ready, shared, self.pump)
        self.ejections: Ejections[Replica] = Ejections(name, self.ready, shared, self.suspects.gone, self._changed)
        self.shared = shared
        self._deaths = shared.suspects.deaths
        self._out = self.ejections.out

    @property
    def coming(self) -> bool:
        """Whether there is, or will be, a replica."""
        return self.config.num_replicas > 0 or self.config.autoscaling is not None

    @property
    def missing(self) -> str:
        """Why it cannot serve, for people; empty: it has a ready replica, or will have one when a request comes."""
        scaling = self.config.autoscaling
        if self.ready or (scaling is not None and scaling.min_replicas == 0 and not self.failing):
            return ""
        why = " (its replicas fail to start)" if self.failing else "" if self.coming else " (none is coming)"
        return f"backend {self.name!r} has no ready replica{why}"

    # -- requests ----------------------------------------------------------------------------------------------------

    def send(self, exchange: Exchange) -> bool:
        """Hand a request to a replica with room. True: one has it now, or it has been refused, or is a suspect that
        waits where suspects do."""
        ready, endpoint = self.ready, exchange.owner
        if self._out and exchange.queue is None:
            note(exchange, "ejected", text=", ".join(replica.id for replica in islice(self._out, MOST_LOADS)))
        if exchange.chain:
            ready = self.open_to(exchange.chain)
            if not ready:
                endpoint.refuse_cycle(exchange)
                return True
            own = self.waits_for(exchange)
            if own is not None and not any(replica.has_room for replica in ready):
                return own.send(exchange, alone=True)
        if self._deaths:
            if exchange.is_deadly():
                return True
            if exchange.deaths and self.suspects.is_open_to(exchange):
                self.suspects.admit(exchange, self.config.max_queued_requests)
                return True
        if len(ready) == 1 and not endpoint.picks_replica:
            return ready[0].send(exchange)
        free = [replica for replica in ready if replica.has_room]
        if not free:
            return False
        replica = exchange.choose(endpoint.policy.choose_replica, free)
        return replica is None or replica.send(exchange)

    def open_to(self, chain: Sequence[str]) -> list[Replica]:
        """The replicas that can answer a call with this chain: an ejected one where no other can, for its answer may be
        a 5xx, and nothing that is no circle is refused as one."""
        return open_to(chain, self.ready) or open_to(chain, self.ejections.out)

    def waits_for(self, exchange: Exchange) -> Replica | None:
        """A replica that keeps others out until what is inside is answered, and this very call is a part of that."""
        chain = exchange.chain or ()
        return next((each for each in self.open_to(chain) if each.reserved and each.id in chain), None)

    def enqueue(self, exchange: Exchange) -> bool:
        """Have a request wait for room in one of the replicas. False: too many wait, and it has been refused."""
        ahead, pace, now = len(self.waiting), self._pace, self.shared.now()
        wait_s = pace.wait_s(ahead, self._places)
        left_s = exchange.expires - now
        if ahead >= self.config.max_queued_requests:
            self._note_full(exchange, "queue_full")
            exchange.refuse(refusals.queue_full(f"backend {self.name!r}"))
        elif wait_s and left_s < wait_s + pace.enough_s and not pace.ends_in_time(left_s, exchange.timeout_s, wait_s):
            self._note_full(exchange, "overloaded")
            exchange.refuse(refusals.overloaded(self.name, retry_after_s(wait_s)))
        else:
            if not ahead:
                pace.begin(now)
                self._followed = None
            if exchange.unusual:
                note(exchange, "queued", number=ahead)
            else:
                exchange.queued = ahead + 1
            exchange.wait_in(self.waiting)
            return True
        self.refused += 1
        return False

    def _note_full(self, exchange: Exchange, what: str) -> None:
        loads = {replica.id: replica.load for replica in islice(self.replicas.values(), MOST_LOADS)}
        note(exchange, what, number=len(self.waiting), loads=loads)

    def pump(self) -> None:
        """Room has come: send the requests that wait, in order, without those that it comes too late for."""
        if self.suspects.waiting and self.ready:
            self._pump_suspects()
        waiting, ready, pace, sent = self.waiting, self.ready, self._pace, 0
        if not waiting or not ready:
            return
        now = self.shared.now()
        if self._followed is not None:
            followed, sent_at = self._followed
            if followed.done or followed.answer_rest is not None:
                pace.answered(now - sent_at)
                self._followed = None
        while waiting and ready:
            exchange = next(iter(waiting))
            if exchange.expires < now + pace.enough_s and self._drop_late(exchange, now):
                continue
            if not self.send(exchange):
                if exchange.chain:
                    sent += self._pump_past_chains(now)
                break
            if self._has_left(exchange):
                sent += 1
                if self._followed is None:
                    self._followed = exchange, now
        pace.moved(now, sent, self._places_of(len(ready)))

    def _has_left(self, exchange: Exchange) -> bool:
        """Take a request out of the queue for which `send` was true. Returns whether a replica has it now: it may have
        been refused, or be a suspect by now and wait elsewhere."""
        if exchange.queue is self.waiting:
            exchange.unqueue()
        return exchange.queue is None and not exchange.done

    def _pump_suspects(self) -> None:
        """Admit the suspects that wait once more. Some are none any more."""
        held: set[bytes] = set()
        for exchange in list(self.suspects.waiting):
            if exchange.queue is not self.suspects.waiting:
                continue
            if exchange.digest in held:
                self.suspects.waiting.move_to_end(exchange)  # Behind the first of its kind, as it was.
                continue
            exchange.unqueue()
            if not self.send(exchange):
                self.enqueue(exchange)
            if exchange.queue is self.suspects.waiting:
                held.add(exchange.digest)
        self.suspects.settle()

    def _pump_past_chains(self, now: float) -> int:
        """The first call in the queue may not have the room there is, for the room is in its own chain: others may.
        Returns how many were sent."""
        sent = 0
        for exchange in list(self.waiting):
            if self._drop_late(exchange, now):
                continue
            if self.send(exchange):
                sent += self._has_left(exchange)
            elif not exchange.chain or len(open_to(exchange.chain, self.ready)) == len(self.ready):
                break
        return sent

    def _drop_late(self, exchange: Exchange, now: float) -> bool:
        """Refuse a request that waits, and is not left the time that a replica would need: what the replica made of it
        would be thrown away. That is a 503, for no replica has it and it may be sent again; a 504 if its time is over.
        """
        left_s = exchange.expires - now
        if self._pace.ends_in_time(left_s, exchange.timeout_s):
            return False
        exchange.unqueue()
        if left_s > 0:
            wait_s = self._pace.wait_s(len(self.waiting), self._places)
            self._note_full(exchange, "overloaded")
            exchange.refuse(refusals.overloaded(self.name, retry_after_s(wait_s)))
        else:
            exchange.expired()
        return True

    def _places_of(self, replicas: int) -> int:
        """How many calls so many replicas answer at a time."""
        return replicas * self.ready[0].slots * (self.config.max_batch_size or 1) if self.ready else 0

    def take_refused(self, past_s: float) -> int:
        """The load that was refused in the last so many seconds: the calls that replicas would have had at a time, to
        answer all of it (Little's law)."""
        refused, self.refused, ready = self.refused, 0, self.ready
        if not ready or past_s <= 0:
            return 0
        return math.ceil(refused * sum(replica.window.service_s for replica in ready) / len(ready) / past_s)

    # -- replicas ----------------------------------------------------------------------------------------------------

    def add(self, entries: Iterable[ReplicaEntry]) -> list[Replica]:
        """Take over the replicas of a snapshot; return those that are new."""
        fresh = [Replica(entry, self) for entry in entries if entry.id not in self.replicas]
        self.replicas.update((replica.id, replica) for replica in fresh)
        return fresh

    def keep_only(self, replica_ids: Collection[str], leaving: Collection[str] | None) -> None:
        """Let go of all other replicas. Those that are not ``leaving`` have ended by themselves; None: who knows."""
        for replica in [replica for replica in self.replicas.values() if replica.id not in replica_ids]:
            del self.replicas[replica.id]
            self._not_ready(replica)
            replica.retire(leaves=leaving is None or replica.id in leaving)
        self._changed()

    def replica_ready(self, replica: Replica) -> None:
        if not self.ready:  # What waits from before has waited for this, and not for the handler.
            self._pace.begin(self.shared.now())
        if replica not in self.ready:
            self.ready.append(replica)
        self._changed()

    def replica_lost(self, replica: Replica) -> None:
        self._not_ready(replica)
        self._changed()

    def close(self) -> None:
        """The ingress worker ends."""
        self.suspects.stop()
        self.ejections.close()

    def _not_ready(self, replica: Replica) -> None:
        if replica in self.ready:
            self.ready.remove(replica)
        self.suspects.gone(replica)
        self.ejections.gone(replica)

    def _changed(self) -> None:
        """Where a replica is ready, send the requests that wait; where none is, have their endpoints choose again."""
        ready = self.ready
        # What is coming counts as if it were there: the requests that wait for it are not too late for it.
        coming = 0 if self.failing else self.config.num_replicas - len(self.ejections.out)
        self._places = self._places_of(max(len(ready), coming))
        if not ready:
            self._pace.forget()
        for endpoint in self.endpoints:
            endpoint.refresh()
        for endpoint in self.endpoints:
            endpoint.unpark()
        if ready:
            self.pump()
        else:
            redispatch(self.waiting)
            redispatch(self.suspects.waiting)


def open_to(chain: Sequence[str], replicas: Iterable[Replica]) -> list[Replica]:
    """Those of ``replicas`` that have a slot beside the ones that the chain itself occupies until the call ends."""
    return [replica for replica in replicas if chain.count(replica.id) < replica.slots]

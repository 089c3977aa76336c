"""The suspects of one backend on their way to its replicas: each goes alone. See `servekit.ingress.suspects`."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from servekit.ingress import refusals
from servekit.ingress.exchange import Exchange, ExchangeReplica
from servekit.ingress.shared import Shared
from servekit.ingress.steps import note

CLEARED_WITHIN_S = 1.0
"""How long a replica keeps others out for a suspect before it is empty. Beyond, the suspect goes there all the same:
behind a call that takes long, or beside a WebSocket, nobody is to wait for ever."""
ALONE_S = 10.0
"""How long a suspect is alone, at most: others wait no longer for a handler that hangs. If its answer has begun by
then, and goes on in pieces, the suspect is cleared."""


class QuarantineReplica(ExchangeReplica, Protocol):
    """The `Replica` that suspects are sent to, as the quarantine uses it."""

    reserved: bool
    """The replica has no room for anybody but a suspect."""
    suspect: Exchange | None
    """The call that went alone into the replica, and is inside. The replica is reserved for it until its answer has
    begun, for `ALONE_S` at most."""
    outstanding: int

    @property
    def is_empty(self) -> bool:
        """The replica has a link, and no call of this ingress worker's, answers on their way included."""

    def send(self, exchange: Exchange, *, alone: bool = False) -> bool:
        """Hand over a call, ``alone`` whether there is room or not."""


R = TypeVar("R", bound=QuarantineReplica)


class Quarantine(Generic[R]):
    """Holds the suspects that wait, and at most one replica that is to become empty for the first of them."""

    def __init__(self, replicas: Mapping[str, R], ready: Sequence[R], shared: Shared, pump: Callable[[], None]) -> None:
        """``replicas``: those that there are; ``ready``: those of them that get requests. Both change. ``pump`` has
        every suspect that waits admitted again, and then the other requests."""
        self.waiting: OrderedDict[Exchange, None] = OrderedDict()
        self.one_left = False
        """A suspect is inside no longer since those that wait were admitted: another may be."""
        self._replicas = replicas
        self._ready = ready
        self._shared = shared
        self._pump = pump
        self._clearing: R | None = None
        """The replica that gets nothing more until it is empty."""
        self._is_late = False
        """`CLEARED_WITHIN_S` have passed meanwhile."""
        self._timer: asyncio.TimerHandle | None = None

    def is_open_to(self, exchange: Exchange) -> bool:
        """Whether a replica can be empty for the call: one that waits for it in its own chain cannot."""
        return exchange.chain is None or bool(self._others(exchange))

    def admit(self, exchange: Exchange, most_waiting: int) -> None:
        """Hand over a suspect where it is alone, have it wait for that, or refuse it where too many wait.

        Of requests with one digest there is one in the replicas at a time.
        """
        exchange.unqueue()
        kind_is_inside = any(
            each.suspect is not None and each.suspect.digest == exchange.digest for each in self._replicas.values()
        )
        empty = [] if kind_is_inside else [each for each in self._others(exchange) if self._may_be_entered(each)]
        if empty:
            replica = exchange.choose(exchange.owner.policy.choose_replica, empty)
            if replica is not None:
                self._enter(exchange, replica)
        elif len(self.waiting) >= most_waiting:
            note(exchange, "queue_full", number=len(self.waiting))
            exchange.refuse(refusals.queue_full("requests that a replica has died with"))
        else:
            note(exchange, "held", number=len(self.waiting), text=_died(exchange.deaths))
            exchange.wait_in(self.waiting)
            if not kind_is_inside and self._clearing is None:
                self._clear(exchange)

    def settle(self) -> None:
        """All that wait have been admitted again: have no replica kept for nobody."""
        self.one_left = False
        if self._is_late or not self.waiting:
            self.stop()

    def let_in(self, replica: R, exchange: Exchange) -> None:
        """Others may come to the replica, if they were kept out for this call."""
        if replica.suspect is exchange:
            replica.reserved = replica is self._clearing

    def left(self, replica: R, exchange: Exchange) -> None:
        """The replica is done with a call, or the call is inside for so long that it need not be alone."""
        if replica.suspect is exchange:
            self.let_in(replica, exchange)
            replica.suspect = None
            self.one_left = True

    def gone(self, replica: R) -> None:
        """The replica gets no more requests."""
        if replica is self._clearing:
            self.stop()

    def stop(self) -> None:
        """Keep nobody out any longer of a replica that is not empty."""
        if self._timer is not None:
            self._timer.cancel()
        if self._clearing is not None:
            self._clearing.reserved = False
        self._clearing = self._timer = None
        self._is_late = False

    # -- inside ----------------------------------------------------------------------------------------------------

    def _others(self, exchange: Exchange) -> list[R]:
        """The replicas that have no part in the call's own chain."""
        return [each for each in self._ready if each.id not in (exchange.chain or ())]

    def _may_be_entered(self, replica: R) -> bool:
        return replica.is_empty or (self._is_late and replica is self._clearing)

    def _enter(self, exchange: Exchange, replica: R) -> None:
        if replica is self._clearing:
            self.stop()
        note(exchange, "alone", replica.id, text=_died(exchange.deaths))
        replica.send(exchange, alone=True)
        replica.suspect, replica.reserved = exchange, True
        self._shared.later(ALONE_S, self._outstays, replica, exchange)

    def _outstays(self, replica: R, exchange: Exchange) -> None:
        if replica.suspect is not exchange:
            return
        if exchange.download is not None:
            exchange.acquit()
            self.left(replica, exchange)
        elif exchange.done:
            self.left(replica, exchange)  # Nobody waits for it, and it may hang: its like may try elsewhere.
        else:
            self.let_in(replica, exchange)
            self._shared.later(ALONE_S, self._outstays, replica, exchange)
        self._pump()

    def _clear(self, exchange: Exchange) -> None:
        others = [each for each in self._others(exchange) if not each.reserved]
        if others:
            self._clearing = replica = min(others, key=lambda each: each.outstanding)
            replica.reserved = True
            self._timer = self._shared.later(CLEARED_WITHIN_S, self._late)

    def _late(self) -> None:
        self._is_late = True
        if not self.waiting:
            self.stop()
        self._pump()


def _died(times: int) -> str:
    return f"replicas have died {times} times with its like" if times > 1 else "a replica has died with its like"

"""What has happened to an instance: the kinds of events, and the last events, in a bounded number. No I/O, no clock."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec

MOST_EVENTS = 2000
"""The oldest go."""
NEAR, NEAR_S = 32, 600.0
"""Two that are alike may be one with a count where so many others are between them at most, and so many seconds."""
APART = 3
"""So many that are alike but for the replica stay apart; those after them are counted in the last."""
LONGEST_TEXT, LONGEST_DETAIL = 500, 2000

KINDS: Mapping[str, str] = {
    "instance_started": "The instance was started.",
    "instance_ended": "The instance was told to end.",
    "controller_restarted": "The controller had ended, and was started again; what served has gone on.",
    "endpoint_created": "An endpoint was created.",
    "endpoint_changed": "Options of an endpoint were changed.",
    "endpoint_deleted": "An endpoint was deleted.",
    "traffic_set": "An endpoint's traffic was set.",
    "shadow_started": "Copies of an endpoint's requests go to a shadow from now on.",
    "shadow_stopped": "An endpoint's requests are copied no more.",
    "backend_created": "A backend was created.",
    "backend_changed": "A backend's code or config was changed.",
    "backend_scaled": "A backend is to have another number of replicas, by a change or by its autoscaling.",
    "backend_restarted": "Every replica of a backend is to be replaced.",
    "backend_deleted": "A backend was deleted.",
    "backend_put_back": "A change of a backend has failed, and what there was before is back.",
    "deploy_began": "A deploy was begun.",
    "deploy_done": "All that a deploy asked for serves.",
    "deploy_failed": "A deploy has failed, or was cancelled, and what there was before is back.",
    "rollback_began": "A rollback was begun.",
    "rollback_done": "What a rollback asked for serves.",
    "rollback_failed": "A rollback has failed, or was cancelled, and what there was before is back.",
    "rollout_began": "A roll-out of an endpoint was begun.",
    "rollout_advanced": "The candidate of a roll-out has the share of the next step, or it goes on at its step.",
    "rollout_paused": "A roll-out is paused: by somebody, at a gate, or because its candidate is worse.",
    "rollout_resumed": "A roll-out that was paused before its first step goes on.",
    "rollout_inconclusive": "A roll-out has held its step for as long as it may, and somebody has to decide.",
    "rollout_promoted": "The candidate of a roll-out has all requests.",
    "rollout_rolled_back": "The candidate of a roll-out has no requests any more.",
    "replica_started": "A replica was started.",
    "replica_ready": "A replica is ready, or was taken over by a controller that was started again.",
    "replica_ended": "A replica has ended that was to end.",
    "replica_failed": "A replica has ended by itself, could not be built, or was lost; another follows.",
    "replica_unhealthy": "A replica's health check has failed, and another takes its place.",
    "replica_replaced": "A replica is replaced: a call hangs in it, or its runtime says that it will end.",
    "replica_recycled": "A replica is worn (`max_requests`, `max_memory_bytes`), and another takes its place.",
    "replica_ejected": "A replica gets no requests for a while, for it fails where its siblings do not.",
    "ingress_ended": "An ingress worker has ended by itself, or had while there was no controller; another follows.",
    "ingress_killed": "An ingress worker was killed, for it was stopped or silent; another follows.",
    "refusals_began": "An endpoint began to refuse requests with an error of this type.",
    "refusals_ended": "For ten seconds no request was refused so.",
}
"""What each kind means. Kinds are for programs, and stay; texts are for people."""
_MANY = ("replica_", "ingress_", "refusals_")
"""So begin the kinds that come by themselves, and may come often. Each change of people is an event of its own."""

_is_number = re.compile(r"\b(?:0x[0-9a-f]+|\d+(?:\.\d+)?)")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that has happened, and how often."""

    number: int = 0
    """Greater than that of each event before it; also of one that was counted again."""
    at: float
    """The last time, in seconds since 1970."""
    kind: str
    text: str
    """A sentence for people."""
    who: str = ""
    """Who has made a change."""
    endpoint: str = ""
    backend: str = ""
    replica: str = ""
    detail: str = ""
    count: int = 1
    first_at: float = 0.0
    alike: str = ""
    """What this event has in common with others of its like."""

    def told(self) -> dict[str, Any]:
        """For people and programs."""
        told = msgspec.structs.asdict(self)
        del told["alike"]
        return {**told, "time": clock(self.at), "first_time": clock(self.first_at)}

    def is_like(self, other: Event) -> bool:
        """Whether the two differ in no more than their replicas and times."""
        return (
            self.kind == other.kind
            and self.alike == other.alike
            and (self.endpoint, self.backend, self.who) == (other.endpoint, other.backend, other.who)
        )

    def concerns(self, endpoint: str | None, backend: str | None, kind: str | None) -> bool:
        """Whether it is about these; None: about any."""
        wanted = ((endpoint, self.endpoint), (backend, self.backend), (kind, self.kind))
        return all(each in (None, own) for each, own in wanted)


class EventRing:
    """The last `MOST_EVENTS`, the oldest first. Many that are alike, one soon after the other, are one with a count."""

    def __init__(self, events: Iterable[Event] = (), most: int = MOST_EVENTS) -> None:
        """``events``: those of an earlier controller."""
        self._most = most
        self._events = OrderedDict((event.number, event) for event in events)
        self._number = max(self._events, default=0)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events.values())

    def since(self, number: int) -> list[Event]:
        """Those of a greater number."""
        found: list[Event] = []
        for event in reversed(self._events.values()):
            if event.number <= number:
                break
            found.append(event)
        return found[::-1]

    def add(self, event: Event) -> tuple[Event, list[int]]:
        """Take in an event; returns it as it is kept, and the numbers of those that are not kept any more."""
        self._number += 1
        gone = []
        before = self._same(event) if event.kind.startswith(_MANY) else None
        if before is not None:
            gone.append(before.number)
            del self._events[before.number]
        event = msgspec.structs.replace(
            event,
            number=self._number,
            count=1 if before is None else before.count + 1,
            first_at=event.at if before is None else before.first_at,
        )
        self._events[event.number] = event
        while len(self._events) > self._most:
            gone.append(self._events.popitem(last=False)[0])
        return event, gone

    def _same(self, event: Event) -> Event | None:
        """The one in which this one is counted."""
        near = islice(reversed(self._events.values()), NEAR)
        like = [each for each in near if each.is_like(event) and event.at - each.at <= NEAR_S]
        if like and (like[0].replica == event.replica or like[0].count > 1 or len(like) >= APART):
            return like[0]
        return None


def alike(text: str, replica: str) -> str:
    """The text without what differs from one time to the next: the replica's id, and numbers that stand by themselves,
    as that of ``ingress1`` does not."""
    return _is_number.sub("#", text.replace(replica, "") if replica else text)


def clock(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))

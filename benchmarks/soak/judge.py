"""Which failures were to be expected, and which nobody may expect: pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.faults.outcomes import Outcome

SLACK_S = 0.5
"""For so long after all is whole again a client may not have heard of the end of its connection."""
SENT_AGAIN = ("GET", "down", "stream", "slow")
"""Kinds of load that may be sent to a replica twice."""
IN_PIECES = ("down", "stream", "slow", "socket")
"""Kinds whose answers may have begun, and are cut then."""
NEVER = ("wrong", "unanswered", "TimeoutError", "DeadlineError")
"""Whatever was done meanwhile."""

NOBODY, A_REPLICA, AN_INGRESS = "nothing", "a replica died", "an ingress worker died"
ONE_LEAVES = "a replica or an ingress worker left"
"""What an act does to those whose requests it meets."""


@dataclass(frozen=True)
class Span:
    """A step: when it began, when all was whole again, and the effects of its acts."""

    began_s: float
    whole_s: float
    effects: tuple[str, ...]

    def met(self, one: Outcome) -> bool:
        return one.sent_s <= self.whole_s + SLACK_S and one.ended_s >= self.began_s


def unexpected(failed: Iterable[Outcome], spans: Iterable[Span]) -> list[Outcome]:
    every = list(spans)
    return [one for one in failed if not may_fail(one, [span for span in every if span.met(one)])]


def may_fail(one: Outcome, met: Iterable[Span]) -> bool:
    """``met``: the steps during which the request was under way."""
    effects = [effect for span in met for effect in span.effects]
    if one.kind in NEVER:
        return False
    if one.kind == "1012":
        return ONE_LEAVES in effects or A_REPLICA in effects
    cut = not one.kind.isdigit() and one.kind != "ReplicaDiedError"
    if cut:
        return AN_INGRESS in effects or (A_REPLICA in effects and one.method in IN_PIECES)
    if one.kind in ("502", "ReplicaDiedError"):
        return effects.count(A_REPLICA) >= (2 if one.method in SENT_AGAIN else 1)
    return False

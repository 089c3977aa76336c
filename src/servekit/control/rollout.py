"""A roll-out of one endpoint: what was asked for, how far it is, and what becomes of it next. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import msgspec

from servekit.config import DEFAULT_JUDGE, DEFAULT_STEPS, sendable
from servekit.errors import InvalidInputError
from servekit.interfaces import DrawnUnit, Reported, RolloutJudge, Ruling, Verdict
from servekit.wire.control_frames import RolloutEntry

GATE = "gate"
MOST_STEPS = 100
LONGEST_LINE = 1000
MOST_S = 366 * 86_400.0

State: TypeAlias = Literal["waiting", "advancing", "holding", "paused", "inconclusive", "promoted", "rolled_back"]
ENDED = frozenset({"promoted", "rolled_back"})
"""Of these nothing follows."""
MOVING = frozenset({"waiting", "advancing", "holding"})
"""Of these something follows by itself; `paused` and `inconclusive` wait for somebody to decide."""


class RolloutKeys(msgspec.Struct, frozen=True, kw_only=True):
    """How an endpoint is to go from one backend to another."""

    steps: tuple[float | str, ...] = DEFAULT_STEPS
    hold_s: float = 60.0
    warmup_s: float = 10.0
    max_duration_s: float = 3600.0
    keep_warm_s: float = 300.0
    judge: str = DEFAULT_JUDGE
    judge_options: dict[str, Any] = {}
    on_failure: str = "rollback"
    header: bool = False
    propagate: bool = False
    notify: str | list[str] | None = None
    seed: int = 0

    @property
    def judged_steps(self) -> int:
        """How many steps have a judge: those at which both versions have a share."""
        return sum(not isinstance(step, str) and step < 1 for step in self.steps)


class RolloutOptions(RolloutKeys, frozen=True, kw_only=True):
    """What was asked for."""

    to: str


class Counted(msgspec.Struct, frozen=True):
    """What had been counted of a version at some moment, which is subtracted later."""

    durations: tuple[int, ...] = ()
    """Of all requests, by `FINE_BOUNDS`."""
    errors: int = 0
    reports: dict[str, Reported] = {}
    shadow_pairs: int = 0
    shadow_differing: int = 0


class Unjudged(msgspec.Struct, frozen=True):
    """What is not judged: all that there was before ``at``."""

    at: float
    baseline: Counted
    candidate: Counted


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """A roll-out, with all that a controller has to know to go on with it."""

    number: int
    endpoint: str
    baseline: str
    options: RolloutOptions
    began_at: float
    """Times are of the instance's clock, in seconds."""
    state: State = "waiting"
    reason: str = ""
    """For people."""
    step: int = -1
    """The place in ``options.steps``; -1: before the first."""
    step_at: float = 0.0
    """When the step's share was in force; 0: it is not yet."""
    first_at: float = 0.0
    """When the candidate had its first share."""
    ended_at: float = 0.0
    base: Unjudged | None = None
    """Of the whole; None: nothing is judged yet."""
    step_base: Unjudged | None = None
    """Of the present step."""
    bad_looks: int = 0
    """How often in a row the judge has said that the candidate is worse."""
    unit: DrawnUnit = DrawnUnit.NONE
    """What the endpoint's policy draws a version for."""
    seen: dict[str, Any] = {}
    """What each version had done when it ended, or was paused: for people and programs."""
    warm_replicas: int = 0
    """How many replicas the baseline had when the candidate was promoted."""
    who: str = ""

    @property
    def candidate(self) -> str:
        return self.options.to

    @property
    def is_over(self) -> bool:
        return self.state in ENDED

    @property
    def share(self) -> float:
        """The candidate's part of the requests."""
        if self.state == "rolled_back":
            return 0.0
        if self.state == "promoted":
            return 1.0
        shares = [step for step in self.options.steps[: self.step + 1] if not isinstance(step, str)]
        return shares[-1] if shares else 0.0

    @property
    def traffic(self) -> dict[str, float]:
        """The endpoint's, in this state. What has no share is not in it."""
        share = self.share
        weights = {self.baseline: 1.0 - share, self.candidate: share}
        return {name: weight for name, weight in weights.items() if weight > 0}

    @property
    def entry(self) -> RolloutEntry | None:
        """What ingress workers are told; None: there is nothing to be judged."""
        if self.is_over or not self.share:
            return None
        o = self.options
        return RolloutEntry(self.number, self.baseline, self.candidate, o.seed, o.header, o.propagate)


class Facts(NamedTuple):
    """What a decision is made from."""

    now: float
    is_ready: bool
    """The candidate has a replica that is ready."""
    verdict: Verdict | None = None
    """None: the judge was not asked."""
    patience: int = 1
    """Of the judge."""


def check_options(options: RolloutOptions) -> None:
    """Raise `InvalidInputError` where no roll-out can be made so."""
    _check_steps(options.steps)
    for name in ("hold_s", "warmup_s", "max_duration_s", "keep_warm_s"):
        value = getattr(options, name)
        if not 0 <= value <= MOST_S:
            raise InvalidInputError(f"rollout: {name} is {value:g}: give seconds from 0 to {MOST_S:g}")
    if options.max_duration_s < options.hold_s + options.warmup_s:
        raise InvalidInputError(
            f"rollout: max_duration_s is {options.max_duration_s:g}, which is over before the first step could be: "
            f"warmup_s and hold_s are {options.warmup_s + options.hold_s:g} together"
        )
    if options.on_failure not in ("rollback", "pause"):
        raise InvalidInputError(f"rollout: on_failure is {options.on_failure!r}: give 'rollback' or 'pause'")
    notify = options.notify
    if notify is not None and not _can_be_notified(notify):
        raise InvalidInputError(
            f"rollout: notify is {notify!r}: give the URL of a webhook, or a command as a list, as in ['notify', 'me']"
        )


def _can_be_notified(whom: str | list[str]) -> bool:
    if not isinstance(whom, str):
        return whom[:1] not in ([], [""])
    try:
        url = urlsplit(whom)
    except ValueError:
        return False
    return url.scheme in ("http", "https") and bool(url.hostname) and whom.split() == [whom]


def check_judge(name: str, judge: RolloutJudge) -> None:
    """Raise `InvalidInputError` where what a judge says of itself is of no use."""
    reports, every_s, patience = judge.reports, judge.look_every_s, judge.patience
    is_listed = isinstance(reports, Collection) and not isinstance(reports, str)
    problems = {
        "reports": not is_listed or not all(isinstance(each, str) for each in reports),
        "look_every_s": not isinstance(every_s, (int, float)) or not 0 < every_s < MOST_S,
        "patience": not isinstance(patience, int) or patience < 1,
        "claim": not isinstance(judge.claim, str),
        "per_step": not isinstance(judge.per_step, bool),
    }
    for attribute, is_bad in problems.items():
        if is_bad:
            raise InvalidInputError(
                f"rollout: judge {name!r} has {attribute} = {line(repr(getattr(judge, attribute)))}: give it what "
                "servekit.interfaces.RolloutJudge says"
            )


def claim_of(judge: RolloutJudge, unit: DrawnUnit) -> str:
    """What a judge guarantees, which takes chance."""
    claim = line(judge.claim)
    if claim and unit is not DrawnUnit.REQUEST:
        what = "keeps each key at one version" if unit is DrawnUnit.KEY else "does not draw versions by chance"
        return f"none, for the endpoint's policy {what}; else: {claim}"
    return claim


def line(text: str) -> str:
    """What others have said, as one line of a bounded length that can be sent."""
    return sendable(" ".join(text.split()), LONGEST_LINE)


def _check_steps(steps: Sequence[float | str]) -> None:
    shares = [step for step in steps if not isinstance(step, str)]
    example = "as in [0.01, 0.1, 'gate', 0.5, 1.0]"
    if not 1 <= len(steps) <= MOST_STEPS or any(isinstance(step, str) and step != GATE for step in steps):
        raise InvalidInputError(f"rollout: steps are 1 to {MOST_STEPS} shares, or 'gate', {example}")
    if not shares or any(not 0 < share <= 1 or math.isnan(share) for share in shares):
        percent = "; 10 % is 0.1" if any(1 < share <= 100 for share in shares) else ""
        raise InvalidInputError(f"rollout: a step is a share above 0 and up to 1, {example}{percent}")
    if any(later <= earlier for earlier, later in pairwise(shares)):
        raise InvalidInputError(f"rollout: each step is a larger share than the one before, {example}")
    if shares[-1] != 1 or steps[-1] == GATE:
        raise InvalidInputError(
            f"rollout: the last step is 1.0, at which the candidate has all requests, {example}; with a 'gate' before "
            "it, somebody has to say so"
        )
    if len(shares) == 1:
        raise InvalidInputError(
            "rollout: with 1.0 alone there is nothing to compare with: begin with less, or use set_traffic"
        )


def next_state(rollout: Rollout, facts: Facts) -> Rollout:
    """What becomes of a roll-out. The same object where nothing does but its reason: see `why_held`."""
    if rollout.state not in MOVING:
        return rollout
    late = facts.now - (rollout.step_at or rollout.began_at) >= rollout.options.max_duration_s
    if rollout.state == "waiting":
        if facts.is_ready:
            return _advanced(rollout, facts.now, "its first step")
        if late:
            return _asks(rollout, f"{_candidate(rollout)} was not ready within {rollout.options.max_duration_s:g} s")
        return rollout
    if rollout.state == "advancing" or facts.verdict is None:
        return rollout
    ruling, reason = facts.verdict.ruling, facts.verdict.reason
    if ruling is Ruling.WORSE:
        if rollout.bad_looks + 1 >= facts.patience:
            return failed(rollout, facts.now, reason)
        return msgspec.structs.replace(rollout, bad_looks=rollout.bad_looks + 1)
    if ruling is Ruling.NO_WORSE and facts.now - rollout.step_at >= rollout.options.hold_s:
        return _advanced(rollout, facts.now, reason)
    if late:
        return _asks(rollout, f"not certain after {rollout.options.max_duration_s:g} s at this step: {reason}")
    return msgspec.structs.replace(rollout, bad_looks=0) if rollout.bad_looks else rollout


def why_held(rollout: Rollout, facts: Facts) -> str:
    """Why a roll-out is where it is, for people."""
    if rollout.state == "waiting":
        return _waits(rollout)
    if rollout.state != "holding":
        return rollout.reason
    if rollout.base is None and facts.verdict is None:
        left_s = max(0.0, rollout.first_at + rollout.options.warmup_s - facts.now)
        return f"{_candidate(rollout)} warms up for {left_s:.0f} s more, and is not judged"
    if facts.verdict is None:
        return "the judge is about to look"
    held = facts.now - rollout.step_at
    if facts.verdict.ruling is Ruling.WORSE:
        return f"{facts.verdict.reason} ({rollout.bad_looks} of {facts.patience} looks in a row)"
    if facts.verdict.ruling is Ruling.UNSURE:
        return (
            f"{facts.verdict.reason}; {held:.0f} s at this step, inconclusive after {rollout.options.max_duration_s:g}"
        )
    return f"{facts.verdict.reason}; {held:.0f} of {rollout.options.hold_s:g} s"


def in_force(rollout: Rollout, now: float) -> Rollout:
    """The roll-out once every ingress worker splits by its step."""
    if rollout.state != "advancing":
        return rollout
    return msgspec.structs.replace(
        rollout, state="holding", step_at=now, first_at=rollout.first_at or now, step_base=None, bad_looks=0
    )


def counted_anew(rollout: Rollout) -> Rollout:
    """The roll-out where all counts have begun at 0 again: what was counted before is not known any more. What handlers
    have reported is."""

    def anew(base: Unjudged | None) -> Unjudged | None:
        if base is None:
            return None
        return Unjudged(base.at, Counted(reports=base.baseline.reports), Counted(reports=base.candidate.reports))

    return msgspec.structs.replace(rollout, base=anew(rollout.base), step_base=anew(rollout.step_base))


def failed(rollout: Rollout, now: float, reason: str) -> Rollout:
    """The roll-out whose candidate is worse."""
    if rollout.options.on_failure == "pause":
        return paused(rollout, f"it is worse: resume, promote or abort it; {reason}")
    return rolled_back(rollout, now, reason)


def rolled_back(rollout: Rollout, now: float, reason: str) -> Rollout:
    return msgspec.structs.replace(rollout, state="rolled_back", reason=reason, ended_at=now)


def promoted(rollout: Rollout, now: float, reason: str) -> Rollout:
    return msgspec.structs.replace(rollout, state="promoted", reason=reason, ended_at=now)


def paused(rollout: Rollout, reason: str) -> Rollout:
    return msgspec.structs.replace(rollout, state="paused", reason=reason)


def resumed(rollout: Rollout, now: float) -> Rollout:
    """The roll-out goes on, where somebody had to decide: past a gate, or at its step, whose time begins anew."""
    steps, step = rollout.options.steps, rollout.step
    if 0 <= step < len(steps) and steps[step] == GATE:
        return _advanced(rollout, now, "it was let through the gate")
    if step < 0:
        return msgspec.structs.replace(rollout, state="waiting", reason=_waits(rollout), began_at=now, seen={})
    # It is judged anew: what somebody has seen and let pass is not to be found again.
    return msgspec.structs.replace(rollout, state="advancing", reason="it was resumed", base=None, seen={})


def _advanced(rollout: Rollout, now: float, reason: str) -> Rollout:
    step = rollout.step + 1
    share = rollout.options.steps[step]
    moved = msgspec.structs.replace(rollout, step=step, reason=reason, bad_looks=0, seen={})
    if share == GATE:
        return paused(moved, f"a gate: resume, promote or abort it; so far {reason}")
    if share == 1:
        return promoted(moved, now, reason)
    return msgspec.structs.replace(moved, state="advancing")


def _asks(rollout: Rollout, reason: str) -> Rollout:
    return msgspec.structs.replace(rollout, state="inconclusive", reason=reason)


def _waits(rollout: Rollout) -> str:
    return f"until {_candidate(rollout)} has a replica that is ready"


def _candidate(rollout: Rollout) -> str:
    return f"backend {rollout.candidate!r}"

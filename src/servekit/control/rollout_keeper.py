"""Moves roll-outs on: looks at what their versions did, asks their judges, and makes the change that follows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from msgspec import structs

from servekit.control import rollout_samples
from servekit.control.controller import Controller
from servekit.control.history import Author, author, before_rollout
from servekit.control.plan import ReplicaState
from servekit.control.rollout import (
    MOVING,
    Counted,
    Facts,
    Rollout,
    RolloutOptions,
    Unjudged,
    check_judge,
    claim_of,
    counted_anew,
    in_force,
    line,
    next_state,
    why_held,
)
from servekit.control.rollout_changes import move_rollout
from servekit.control.totals import Sums
from servekit.errors import DeadlineError, InUseError, NotFoundError, ServekitError
from servekit.factories import describe
from servekit.interfaces import Reported, RolloutJudge, Ruling, Sample, Verdict
from servekit.metrics import REPORTED
from servekit.tasks import TaskSet, in_thread

_log = logging.getLogger("servekit.control")

LOOK_EVERY_S = 1.0
LOOK_AT_RESTING_EVERY_S = 10.0
"""Where all that are under way wait for somebody, who may want to know how it looks."""
JUDGE_TIMEOUT_S = 10.0
NOTIFY_TIMEOUT_S = 10.0
_TOLD = frozenset({"paused", "inconclusive", "promoted", "rolled_back"})
"""The states of which whoever is to be notified is told."""


class RolloutClock(Protocol):
    """Time, as a roll-out has it."""

    def time(self) -> float: ...

    def call_later(self, delay: float, call: Callable[[], object]) -> Any: ...


class WallClock:
    """The time of the day, which goes on while no controller runs."""

    def time(self) -> float:
        return time.time()

    def call_later(self, delay: float, call: Callable[[], object]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay, call)


class _Look(NamedTuple):
    """The last look at a roll-out."""

    number: int
    at: float
    verdict: Verdict | None
    reason: str
    baseline: Sample
    candidate: Sample


class RolloutKeeper:
    """One for a controller, on its loop. A roll-out's state is in the desired state; here is what was seen last."""

    def __init__(
        self,
        controller: Controller,
        build_judge: Callable[[RolloutOptions], RolloutJudge],
        clock: RolloutClock | None = None,
    ) -> None:
        """``build_judge``: makes the judge that a roll-out names."""
        self._controller = controller
        self._build_judge = build_judge
        self._clock = clock or WallClock()
        controller.rollout_time = self._clock.time
        self._judges: dict[tuple[str, int], RolloutJudge] = {}
        self._looks: dict[str, _Look] = {}
        self._questions: dict[str, asyncio.Future[Verdict]] = {}
        """By endpoint, the last question to its judge."""
        self._timer: Any = None
        self._looking: asyncio.Task[None] | None = None
        self._tasks = TaskSet()
        self._stopped = False

    def now(self) -> float:
        return self._clock.time()

    async def start(self, *, counts_go_on: bool = True) -> None:
        """Go on with what an earlier controller has left.

        ``counts_go_on``: False where the instance was ended between, and what was counted has begun at 0 again.
        """
        for rollout in list(self._controller.desired.rollouts.values()):
            if rollout.state == "promoted":
                self._let_cool(rollout)
            if not (counts_go_on or rollout.is_over):
                await self.move(rollout, counted_anew(rollout))
        self.wake()

    def wake(self) -> None:
        """Look soon: a roll-out may have begun, or go on."""
        under_way = self._under_way()
        if self._timer is None and self._looking is None and not self._stopped and under_way:
            is_moving = any(rollout.state in MOVING for rollout in under_way)
            self._timer = self._clock.call_later(LOOK_EVERY_S if is_moving else LOOK_AT_RESTING_EVERY_S, self._due)

    async def idle(self) -> None:
        """Return when no look is under way: for time that a test moves."""
        while self._looking is not None:
            await asyncio.wait([self._looking])

    async def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.close()

    def reported(self, backend: str) -> dict[str, Reported]:
        """What the backend's handlers have given to ``servekit.report``, by name."""
        return rollout_samples.reports_of(self._controller.replicas.metrics.of(backend, REPORTED))

    def told(self) -> dict[str, Any]:
        """Of each endpoint the last roll-out, for people and programs."""
        return {name: self._told(rollout) for name, rollout in self._controller.desired.rollouts.items()}

    # -- looking -------------------------------------------------------------------------------------------------------

    def _under_way(self) -> list[Rollout]:
        return [rollout for rollout in self._controller.desired.rollouts.values() if not rollout.is_over]

    def _due(self) -> None:
        self._timer = None
        self._looking = self._tasks.spawn(self._look_at_all())

    async def _look_at_all(self) -> None:
        try:
            sums = self._controller.ingresses.counts.totals.read()
            for rollout in self._under_way():
                author.set(Author("servekit"))
                try:
                    await self._look_at(rollout, sums)
                except ServekitError as error:
                    _log.error("the roll-out of endpoint %s could not go on: %s", rollout.endpoint, error)
                except Exception:
                    _log.exception("the roll-out of endpoint %s could not go on", rollout.endpoint)
        finally:
            self._looking = None
            self.wake()

    async def _look_at(self, rollout: Rollout, sums: Sums) -> None:
        now = self._clock.time()
        if rollout.state == "advancing":  # By a controller before this one, or by whoever resumed it.
            await self.move(rollout, in_force(rollout, now))
            return
        baseline, candidate = (self._counted(rollout, sums, name) for name in (rollout.baseline, rollout.candidate))
        if rollout.state == "holding" and now >= rollout.first_at + rollout.options.warmup_s:
            rollout = await self._based(rollout, Unjudged(now, baseline, candidate))
        facts = await self._asked(rollout, now, baseline, candidate)
        after = next_state(rollout, facts)
        if after is rollout:
            return
        await self.move(rollout, after)
        if after.state == "advancing":
            await self.move(after, in_force(after, self._clock.time()))

    async def _based(self, rollout: Rollout, base: Unjudged) -> Rollout:
        """The roll-out with what is not judged of it, which is saved once."""
        if rollout.base is not None and rollout.step_base is not None:
            return rollout
        after = structs.replace(rollout, base=rollout.base or base, step_base=rollout.step_base or base)
        await self.move(rollout, after)
        return after

    async def _asked(self, rollout: Rollout, now: float, baseline: Counted, candidate: Counted) -> Facts:
        """Ask the judge, unless it is not its time, and keep what it says to be shown."""
        last = self._looks.get(rollout.endpoint)
        look = _Look(rollout.number, now, None, "", Sample(), Sample())
        facts = Facts(now, self._is_ready(rollout))
        try:
            judge = await self._judge(rollout)
        except ServekitError as error:
            failed = Verdict(Ruling.UNSURE, f"the judge could not be made: {line(str(error))}")
            self._looks[rollout.endpoint] = look._replace(verdict=failed, reason=failed.reason)
            return facts._replace(verdict=failed)
        base, facts = rollout.step_base if judge.per_step else rollout.base, facts._replace(patience=judge.patience)
        if base is not None:
            if last is not None and last.verdict is not None and now - last.at < judge.look_every_s:
                look = last  # It is not asked, and so not believed once more.
            else:
                samples = (
                    rollout_samples.sample(baseline, base.baseline),
                    rollout_samples.sample(candidate, base.candidate),
                )
                verdict = await self._ask(rollout.endpoint, judge, *samples, now - base.at)
                look = _Look(rollout.number, now, verdict, "", *samples)
                facts = facts._replace(verdict=verdict)
        reason = why_held(next_state(rollout, facts), facts._replace(verdict=look.verdict))
        self._looks[rollout.endpoint] = look._replace(reason=reason)
        return facts

    async def _ask(
        self, endpoint: str, judge: RolloutJudge, baseline: Sample, candidate: Sample, elapsed_s: float
    ) -> Verdict:
        """The judge's verdict. One that fails, or takes too long, is unsure; it is not asked again meanwhile."""
        asked = self._questions.get(endpoint)
        if asked is None or asked.done():
            asked = self._questions[endpoint] = in_thread(lambda: judge.judge(baseline, candidate, elapsed_s))
            await asyncio.wait([asked], timeout=JUDGE_TIMEOUT_S)
        if not asked.done():
            return Verdict(Ruling.UNSURE, f"the judge has not answered within {JUDGE_TIMEOUT_S:g} s")
        error = asked.exception()
        if error is not None:
            reason, last = f"the judge failed: {describe(error)}", self._looks.get(endpoint)
            if last is None or last.verdict is None or last.verdict.reason != reason:  # Not at each look.
                _log.error("the judge of endpoint %s failed", endpoint, exc_info=error)
            return Verdict(Ruling.UNSURE, reason)
        verdict: Any = asked.result()
        if not isinstance(verdict, Verdict) or not isinstance(verdict.ruling, Ruling):
            what = line(repr(verdict))
            return Verdict(Ruling.UNSURE, f"the judge returned {what}, which is no servekit.interfaces.Verdict")
        return Verdict(verdict.ruling, line(str(verdict.reason)))

    async def move(self, before: Rollout, after: Rollout, *, must: bool = False) -> None:
        """Make the next state of a roll-out. Where somebody has moved it meanwhile, nothing is done; with ``must``,
        `InUseError` is raised."""
        back_to = before_rollout(self._controller.desired, after.endpoint) if after.state == "rolled_back" else {}
        if after.state in _TOLD:
            after = structs.replace(after, seen=self._seen(after))
        author.set(Author(author.get().who, _why(after), back_to, on_the_way=not after.is_over))
        if after.state == "promoted":
            serves = self._controller.desired.backends[before.baseline]
            after = structs.replace(after, warm_replicas=self._controller.autoscalers.replicas(serves))

        def moved(current: Rollout) -> Rollout:
            if current == before:
                return after
            raise InUseError(f"the roll-out of endpoint {before.endpoint!r} went on meanwhile: look again")

        try:
            await self._controller.change_rollout(move_rollout, before.endpoint, moved)
        except (InUseError, NotFoundError):  # Moved by somebody, or its endpoint was deleted.
            if must:
                raise
            return
        if after.state in ("waiting", "advancing"):
            self._looks.pop(before.endpoint, None)  # What was seen at another step is not of this one.
        if before.state != after.state and after.state in _TOLD and after.options.notify is not None:
            self._tasks.spawn(_notify(after.options.notify, self._told(after)))
        if after.state == "promoted":
            self._let_cool(after)

    def _let_cool(self, rollout: Rollout) -> None:
        """Have the replicas that are kept warm looked at when their time is over."""
        over_s = rollout.ended_at + rollout.options.keep_warm_s - self._clock.time()
        if over_s > 0:
            self._clock.call_later(over_s, self._controller.changed)

    # -- what is known -------------------------------------------------------------------------------------------------

    async def made(self, options: RolloutOptions) -> RolloutJudge:
        """The judge that the options name. Raises a `ServekitError`, also where that takes too long: its constructor is
        the user's."""
        making = in_thread(lambda: self._build_judge(options))
        await asyncio.wait([making], timeout=JUDGE_TIMEOUT_S)
        if not making.done():
            making.cancel()
            raise DeadlineError(f"rollout: judge {options.judge!r} was not made within {JUDGE_TIMEOUT_S:g} s")
        judge = making.result()
        check_judge(options.judge, judge)
        return judge

    async def _judge(self, rollout: Rollout) -> RolloutJudge:
        judge = self._judges.get((rollout.endpoint, rollout.number))
        if judge is None:
            judge = await self.made(rollout.options)
            self.take_judge(rollout, judge)
        return judge

    def take_judge(self, rollout: Rollout, judge: RolloutJudge) -> None:
        """Ask this judge, which was made for the roll-out."""
        self._judges = {key: each for key, each in self._judges.items() if key[0] != rollout.endpoint}
        self._judges[rollout.endpoint, rollout.number] = judge

    def _counted(self, rollout: Rollout, sums: Sums, version: str) -> Counted:
        shadow = self._controller.shadows.sample(rollout.endpoint, version)
        return rollout_samples.counted(sums, rollout.endpoint, version, self.reported(version), shadow)

    def _is_ready(self, rollout: Rollout) -> bool:
        record = self._controller.desired.backends[rollout.candidate]
        scaling = record.config.autoscaling
        if scaling is not None and scaling.min_replicas == 0:
            return True
        return any(replica.state is ReplicaState.READY for replica in self._controller.replicas.of(record.name))

    def _seen(self, rollout: Rollout) -> dict[str, Any]:
        """What each version did, as at the last look."""
        look = self._looks.get(rollout.endpoint)
        if look is None or look.number != rollout.number:
            return rollout.seen
        told = rollout_samples.told
        return {rollout.baseline: told(look.baseline), rollout.candidate: told(look.candidate)}

    def _told(self, rollout: Rollout) -> dict[str, Any]:
        look = self._looks.get(rollout.endpoint)
        if look is not None and look.number != rollout.number:
            look = None
        moving, judge = rollout.state in MOVING, self._judges.get((rollout.endpoint, rollout.number))
        return {
            "endpoint": rollout.endpoint,
            "state": rollout.state,
            "reason": look.reason if moving and look is not None else rollout.reason,
            "baseline": rollout.baseline,
            "candidate": rollout.candidate,
            "share": rollout.share,
            "step": rollout.step + 1,
            "steps": list(rollout.options.steps),
            "judge": rollout.options.judge,
            "claim": "" if judge is None else claim_of(judge, rollout.unit),
            "verdict": look.verdict.ruling.value if look is not None and look.verdict is not None else None,
            "seen": self._seen(rollout),
            "began_at": rollout.began_at,
            "step_at": rollout.step_at,
            "ended_at": rollout.ended_at,
            "who": rollout.who,
        }


async def _notify(where: str | list[str], told: dict[str, Any]) -> None:
    """Post what is told to a webhook, or hand it to a command's standard input, as JSON."""
    try:
        body = json.dumps(told).encode()
        await in_thread(lambda: _post(where, body) if isinstance(where, str) else _run(where, body))
    except Exception as error:
        _log.error("roll-out of endpoint %s: %s could not be notified: %s", told["endpoint"], where, error)


def _why(rollout: Rollout) -> str:
    """What the history says of a move."""
    what = f"roll-out to {rollout.candidate}"
    if rollout.is_over:
        return f"{what}: {rollout.state.replace('_', ' ')}, {rollout.reason}"
    return f"{what}: {rollout.share:g}"


def _post(url: str, body: bytes) -> None:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=NOTIFY_TIMEOUT_S):
        pass


def _run(command: list[str], body: bytes) -> None:
    """Run a command in a group of its own, which is killed with all that is left of it. What it prints is not kept."""
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, start_new_session=True
    ) as process:
        try:
            process.communicate(body, NOTIFY_TIMEOUT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise ChildProcessError(f"it ended with exit code {process.returncode}")

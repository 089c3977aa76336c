"""The operations of the admin API that begin roll-outs, and decide on them."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from servekit.control import history
from servekit.control.controller import Controller
from servekit.control.rollout import Rollout, RolloutOptions, line, paused, promoted, resumed, rolled_back
from servekit.control.rollout_changes import begin_rollout, under_way
from servekit.control.rollout_keeper import RolloutKeeper
from servekit.control.state import Desired
from servekit.errors import InUseError, InvalidInputError
from servekit.interfaces import DrawnUnit, RolloutJudge
from servekit.wire.control_frames import PluginRef


class BeginRollout(RolloutOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str


class DecideRollout(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    why: str = ""


class RolloutOperations:
    """What operations on roll-outs do."""

    def __init__(
        self,
        controller: Controller,
        keeper: RolloutKeeper,
        drawn_unit: Callable[[PluginRef], DrawnUnit],
        refuse_beside: Callable[[], None],
    ) -> None:
        """
        Args:
            drawn_unit: says what a routing policy draws versions for.
            refuse_beside: raises while a deploy is under way.
        """
        self._controller = controller
        self._keeper = keeper
        self._drawn_unit = drawn_unit
        self._refuse_beside = refuse_beside
        self.table: dict[str, tuple[type[Any], Callable[[Any], Awaitable[Any]]]] = {
            "rollout": (BeginRollout, self._begin),
            "pause_rollout": (DecideRollout, self._pause),
            "resume_rollout": (DecideRollout, self._resume),
            "promote_rollout": (DecideRollout, self._promote),
            "abort_rollout": (DecideRollout, self._abort),
        }

    async def _begin(self, a: BeginRollout) -> None:
        self._refuse_beside()
        options = msgspec.convert(a, RolloutOptions, from_attributes=True)
        judge = await self.check(self._controller.desired, a.name, options)
        history.author.set(history.Author(history.author.get().who, f"roll-out to {a.to}"))
        await self._controller.change_rollout(self.begun, a.name, options)
        begun = self._controller.desired.rollouts.get(a.name)
        if begun is not None:
            self._keeper.take_judge(begun, judge)
        self._keeper.wake()

    def begun(self, desired: Desired, endpoint: str, options: RolloutOptions) -> Desired:
        """`begin_rollout`, by whoever calls the operation, now."""
        options = msgspec.structs.replace(options, seed=options.seed or random.getrandbits(48))
        unit = self._drawn_unit(desired.endpoint(endpoint).policy_ref)
        return begin_rollout(desired, endpoint, options, self._keeper.now(), history.author.get().who, unit)

    async def check(self, desired: Desired, endpoint: str, options: RolloutOptions) -> RolloutJudge:
        """Raise where no such roll-out can begin; returns its judge. ``desired``: the state in which it is to."""
        judge = await self._keeper.made(options)
        # All that is wrong with the call is said before what its judge would lack.
        baseline = self.begun(desired, endpoint, options).rollouts[endpoint].baseline
        known = self._keeper.reported(baseline)
        missing = [name for name in judge.reports if name not in known]
        if missing:
            have = f"it has reported {', '.join(sorted(known))}" if known else "it has reported nothing"
            raise InvalidInputError(
                f"rollout: the judge looks at {missing[0]!r}, which backend {baseline!r} has not reported by "
                f"servekit.report: {have}. Correct the name, or send the endpoint some requests first"
            )
        return judge

    async def _pause(self, a: DecideRollout) -> None:
        def pause(rollout: Rollout) -> Rollout:
            if rollout.state in ("paused", "inconclusive"):
                raise InUseError(f"the roll-out of endpoint {a.name!r} is {rollout.state} already: {rollout.reason}")
            return paused(rollout, line(a.why) or "paused by hand")

        await self._move(a, pause)

    async def _resume(self, a: DecideRollout) -> None:
        def resume(rollout: Rollout) -> Rollout:
            if rollout.state not in ("paused", "inconclusive"):
                raise InUseError(
                    f"the roll-out of endpoint {a.name!r} is under way, and was not paused: {rollout.state}"
                )
            return resumed(rollout, self._keeper.now())

        await self._move(a, resume)

    async def _promote(self, a: DecideRollout) -> None:
        await self._move(a, lambda rollout: promoted(rollout, self._keeper.now(), line(a.why) or "promoted by hand"))

    async def _abort(self, a: DecideRollout) -> None:
        await self._move(a, lambda rollout: rolled_back(rollout, self._keeper.now(), line(a.why) or "aborted by hand"))

    async def _move(self, a: DecideRollout, move: Callable[[Rollout], Rollout]) -> None:
        """Move the endpoint's roll-out on, as somebody has decided. Raises `NotFoundError` where none is under way."""
        before = under_way(self._controller.desired, a.name)
        after = move(before)
        await self._keeper.move(before, after, must=True)
        self._keeper.wake()

"""The operations of the admin API that begin roll-outs, and decide on them."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from servekit.control import history
from servekit.control.controller import Controller
from servekit.control.rollout import Rollout, RolloutOptions, paused, promoted, resumed, rolled_back
from servekit.control.rollout_changes import begin_rollout, under_way
from servekit.control.rollout_keeper import RolloutKeeper
from servekit.errors import InUseError, InvalidInputError
from servekit.interfaces import DrawnUnit, RolloutJudge
from servekit.wire.control_frames import PluginRef


class BeginRollout(RolloutOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str


class OfEndpoint(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    why: str = ""


class RolloutResolver(Protocol):
    """The `Resolver` of an instance, as roll-outs use it."""

    def judge(self, name: str, options: Mapping[str, Any]) -> RolloutJudge: ...

    def drawn_unit(self, ref: PluginRef) -> DrawnUnit: ...


class RolloutOperations:
    """What operations on roll-outs do."""

    def __init__(
        self,
        controller: Controller,
        keeper: RolloutKeeper,
        resolver: RolloutResolver,
        refuse_beside: Callable[[], None],
    ) -> None:
        """``refuse_beside``: raises while a deploy is under way."""
        self._controller = controller
        self._keeper = keeper
        self._resolver = resolver
        self._refuse_beside = refuse_beside
        self.table: dict[str, tuple[type[Any], Callable[[Any], Awaitable[Any]]]] = {
            "rollout": (BeginRollout, self._begin),
            "pause_rollout": (OfEndpoint, self._pause),
            "resume_rollout": (OfEndpoint, self._resume),
            "promote_rollout": (OfEndpoint, self._promote),
            "abort_rollout": (OfEndpoint, self._abort),
        }

    async def _begin(self, a: BeginRollout) -> None:
        self._refuse_beside()
        judge = self._resolver.judge(a.judge, a.judge_options)
        options = msgspec.convert(a, RolloutOptions, from_attributes=True)
        options = msgspec.structs.replace(options, seed=options.seed or random.getrandbits(48))
        who = history.author.get().who
        # All that is wrong with the call is said before what its judge would lack.
        begun = begin_rollout(self._controller.desired, a.name, options, self._keeper.now(), who)
        self._check_reports(begun.rollouts[a.name].baseline, judge)
        history.author.set(history.Author(who, f"roll-out to {a.to}"))
        unit = self._resolver.drawn_unit(self._controller.desired.endpoints[a.name].policy_ref)
        await self._controller.change_rollout(begin_rollout, a.name, options, self._keeper.now(), who, unit)
        self._keeper.wake()

    def _check_reports(self, baseline: str, judge: RolloutJudge) -> None:
        known = self._keeper.reported(baseline)
        missing = [name for name in judge.reports if name not in known]
        if missing:
            have = f"it has reported {', '.join(sorted(known))}" if known else "it has reported nothing"
            raise InvalidInputError(
                f"rollout: the judge looks at {missing[0]!r}, which backend {baseline!r} has not reported by "
                f"servekit.report: {have}. Correct the name, or send the endpoint some requests first"
            )

    async def _pause(self, a: OfEndpoint) -> None:
        def pause(rollout: Rollout) -> Rollout:
            if rollout.state in ("paused", "inconclusive"):
                raise InUseError(f"the roll-out of endpoint {a.name!r} is {rollout.state} already: {rollout.reason}")
            return paused(rollout, a.why or _by("paused"))

        await self._move(a, pause)

    async def _resume(self, a: OfEndpoint) -> None:
        def resume(rollout: Rollout) -> Rollout:
            if rollout.state not in ("paused", "inconclusive"):
                raise InUseError(
                    f"the roll-out of endpoint {a.name!r} is under way, and was not paused: {rollout.state}"
                )
            return resumed(rollout, self._keeper.now())

        await self._move(a, resume)

    async def _promote(self, a: OfEndpoint) -> None:
        await self._move(a, lambda rollout: promoted(rollout, self._keeper.now(), a.why or _by("promoted")))

    async def _abort(self, a: OfEndpoint) -> None:
        await self._move(a, lambda rollout: rolled_back(rollout, self._keeper.now(), a.why or _by("aborted")))

    async def _move(self, a: OfEndpoint, move: Callable[[Rollout], Rollout]) -> None:
        """Move the endpoint's roll-out on, as somebody has decided. Raises `NotFoundError` where none is under way."""
        before = under_way(self._controller.desired, a.name)
        after = move(before)
        await self._keeper.move(before, after, must=True)
        self._keeper.wake()


def _by(what: str) -> str:
    who = history.author.get().who
    return f"{what} by {who}" if who else what

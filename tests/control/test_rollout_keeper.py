"""The keeper of roll-outs with a controller that is none: what it makes of a state that was left, and of a judge."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from servekit.config import Autoscaling
from servekit.control import rollout_keeper
from servekit.control.rollout import Rollout, RolloutOptions
from servekit.control.rollout_changes import begin_rollout, put_rollout
from servekit.control.rollout_keeper import RolloutKeeper
from servekit.control.state import Desired
from servekit.errors import InUseError, UnknownPluginError
from servekit.interfaces import RolloutJudge, Ruling, Sample, Verdict
from servekit.tallies import FINE_BUCKETS, SLOTS
from servekit.testing.clock import StandingTime


class World:
    """A controller, as the keeper uses it, and time."""

    def __init__(self, desired: Desired, judge: RolloutJudge) -> None:
        self.desired = desired
        self.sums: dict[Any, Any] = {}
        self.reconciled = 0
        totals = SimpleNamespace(read=lambda: self.sums)
        self.ingresses = SimpleNamespace(counts=SimpleNamespace(totals=totals))
        self.replicas = SimpleNamespace(of=lambda name: [], metrics=SimpleNamespace(of=lambda backend, metric: []))
        self.autoscalers = SimpleNamespace(replicas=lambda record: 3)
        self.shadows = SimpleNamespace(sample=lambda endpoint, backend: (0, 0))
        self.rollout_time: Callable[[], float] = lambda: 0.0
        self.time = StandingTime()
        self.keeper = RolloutKeeper(self, lambda options: judge, self.time)  # type: ignore[arg-type]

    async def change_rollout(self, change: Any, *arguments: Any) -> None:
        self.desired = change(self.desired, *arguments)

    def changed(self) -> None:
        self.reconciled += 1

    def count(self, version: str, requests: int, errors: int = 0) -> None:
        for how, number in (("ok", requests - errors), ("error", errors)):
            slots = self.sums.setdefault(("judged", "e", version, how), [0] * SLOTS)
            slots[FINE_BUCKETS // 2] += number

    async def advance(self, seconds: float) -> Rollout:
        ends_s = self.time.time() + seconds
        while self.time.step(ends_s):
            await self.keeper.idle()
        return self.rollout

    @property
    def rollout(self) -> Rollout:
        return self.desired.rollouts["e"]


class Errors(RolloutJudge):
    look_every_s = 5.0

    def __init__(self) -> None:
        self.asked: list[tuple[Sample, Sample]] = []

    def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
        self.asked.append((baseline, candidate))
        worse = candidate.errors > 0
        return Verdict(Ruling.WORSE if worse else Ruling.NO_WORSE, f"{candidate.errors} of {candidate.requests}")


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


@pytest.fixture
def desired(make: Any) -> Desired:
    """A roll-out that has just begun, to a backend that may scale from zero."""
    candidate = make.backend("b", config={"autoscaling": Autoscaling(min_replicas=0, max_replicas=2)})
    served = make.desired(make.endpoint(traffic={"a": 1.0}), make.backend("a"), candidate)
    options = RolloutOptions(to="b", steps=(0.5, 1.0), hold_s=20.0, warmup_s=10.0, keep_warm_s=30.0)
    return begin_rollout(served, "e", options, 0.0)


def test_a_step_that_another_controller_has_made_is_held(desired: Desired) -> None:
    advancing = msgspec.structs.replace(desired.rollouts["e"], state="advancing", step=0)
    world = World(put_rollout(desired, advancing), Errors())

    async def test() -> None:
        await world.keeper.start()
        rollout = await world.advance(1.0)
        assert (rollout.state, rollout.step_at, rollout.first_at) == ("holding", 1.0, 1.0)
        assert world.desired.endpoints["e"].traffic == {"a": 0.5, "b": 0.5}
        await world.keeper.stop()

    run(test)


def test_what_was_counted_before_and_in_the_warm_up_is_not_judged(desired: Desired) -> None:
    judge = Errors()
    world = World(desired, judge)
    world.count("b", 100, errors=100)

    async def test() -> None:
        await world.keeper.start()
        await world.advance(1.0)
        world.count("b", 10, errors=10)
        await world.advance(9.0)
        assert judge.asked == []
        await world.advance(1.0)
        world.count("a", 7)
        world.count("b", 5)
        assert (await world.advance(9.0)).state == "holding"
        baseline, candidate = judge.asked[-1]
        assert (baseline.requests, candidate.requests, candidate.errors) == (7, 5, 0)
        assert len(judge.asked) == 2, "once in five seconds"
        assert (await world.advance(10.0)).state == "promoted"
        assert world.rollout.warm_replicas == 3
        assert not world.reconciled
        await world.advance(31.0)
        assert world.reconciled == 1, "what was kept warm may cool"
        await world.keeper.stop()

    run(test)


def test_a_decision_of_somebody_is_not_undone(desired: Desired) -> None:
    world = World(desired, Errors())

    async def test() -> None:
        before = world.rollout
        world.desired = put_rollout(world.desired, msgspec.structs.replace(before, state="paused", reason="by me"))
        await world.keeper.move(before, msgspec.structs.replace(before, state="holding"))
        assert world.rollout.reason == "by me"
        with pytest.raises(InUseError, match="went on meanwhile"):
            await world.keeper.move(before, before, must=True)
        await world.keeper.stop()

    run(test)


def test_a_judge_that_hangs_is_asked_once(desired: Desired, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_keeper, "JUDGE_TIMEOUT_S", 0.01)
    goes_on = threading.Event()

    class Hangs(Errors):
        def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
            verdict = super().judge(baseline, candidate, elapsed_s)
            goes_on.wait(60)
            return verdict

    judge = Hangs()
    world = World(desired, judge)

    async def test() -> None:
        await world.keeper.start()
        await world.advance(40.0)
        assert len(judge.asked) == 1
        assert world.rollout.state == "holding"
        assert world.keeper.told()["e"]["reason"].startswith("the judge has not answered within")
        goes_on.set()
        await world.keeper.stop()

    run(test)


def test_where_counts_begin_anew_nothing_is_subtracted(desired: Desired) -> None:
    judge = Errors()
    world = World(desired, judge)
    world.count("a", 500)
    world.count("b", 500)

    async def test() -> None:
        await world.keeper.start()
        await world.advance(12.0)
        await world.keeper.stop()
        world.sums.clear()  # The instance was ended, and is there again.
        again = World(world.desired, judge)
        again.count("b", 3)
        await again.keeper.start(counts_go_on=False)
        await again.advance(13.0)
        assert [sample.requests for sample in judge.asked[-1]] == [0, 3]
        await again.keeper.stop()

    run(test)


def test_a_judge_that_cannot_be_made_again_holds_the_roll_out(desired: Desired) -> None:
    world = World(desired, Errors())

    def gone(options: RolloutOptions) -> RolloutJudge:
        raise UnknownPluginError("no module named 'judges'\nat all")

    world.keeper = RolloutKeeper(world, gone, world.time)  # type: ignore[arg-type]

    async def test() -> None:
        await world.keeper.start()
        rollout = await world.advance(50.0)
        assert rollout.state == "holding"
        told = world.keeper.told()["e"]
        assert told["reason"] == "the judge could not be made: no module named 'judges' at all"
        assert told["claim"] == ""
        await world.keeper.stop()

    run(test)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (Verdict("worse", "so"), "which is no servekit.interfaces.Verdict"),  # type: ignore[arg-type]
        (Verdict(Ruling.UNSURE, "a\nb \udc80" + 3000 * "x"), "a b \\udc80xxx"),
    ],
)
def test_whatever_a_judge_says_can_be_shown(desired: Desired, said: Any, shown: str) -> None:
    class Says(RolloutJudge):
        def judge(self, baseline: Sample, candidate: Sample, elapsed_s: float) -> Verdict:
            found: Verdict = said
            return found

    world = World(desired, Says())

    async def test() -> None:
        await world.keeper.start()
        await world.advance(15.0)
        reason = world.keeper.told()["e"]["reason"]
        assert shown in reason
        assert len(reason) < 1200
        assert "\n" not in reason
        msgspec.json.encode(reason)
        await world.keeper.stop()

    run(test)

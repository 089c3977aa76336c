"""The decision how many replicas there are to be, in virtual time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.config import Autoscaling
from servekit.control.scaling import TOLERANCE, Scaling, begin, decide

DAY_S = 86_400


@dataclass
class Run:
    """Decisions once a second, from the first second on."""

    config: Autoscaling
    state: Scaling
    now: float = 0.0
    counts: list[int] = field(default_factory=list)

    def see(self, loads: Iterable[int], **more: Any) -> Run:
        for load in loads:
            self.now += 1.0
            self.state = decide(self.config, self.state, load, self.now, **more)
            self.counts.append(self.state.replicas)
        return self

    @property
    def changes(self) -> int:
        return sum(one != other for one, other in zip(self.counts, self.counts[1:], strict=False))

    def forget(self) -> Run:
        self.counts = []
        return self


@pytest.fixture
def new_run() -> Callable[..., Run]:
    def new_run(replicas: int = 1, **config: Any) -> Run:
        settings = Autoscaling(**{"min_replicas": 0, "max_replicas": 50, **config})
        return Run(settings, begin(settings, replicas, 0.0))

    return new_run


def noisy(mean: float, seconds: int, seed: int, part: float = 0.25) -> Iterable[int]:
    chance = random.Random(seed)
    return [max(0, round(mean * chance.uniform(1 - part, 1 + part))) for _ in range(seconds)]


def poisson(mean: float, seconds: int, seed: int) -> Iterable[int]:
    """Requests that are there at a random moment, where they come independently of each other."""
    chance = random.Random(seed)

    def one() -> int:
        count, left = 0, chance.random()
        while left > math.exp(-mean):
            count, left = count + 1, left * chance.random()
        return count

    return [one() for _ in range(seconds)]


# -- steps -------------------------------------------------------------------------------------------------------


def test_more_only_when_the_load_has_asked_for_more_throughout(new_run: Any) -> None:
    run = new_run(2, upscale_delay_s=5.0)
    run.see([4] * 60)
    for _ in range(20):
        run.see([10] * 2).see([2] * 20)
    assert set(run.counts) == {2}
    run.see([40] * 30)
    assert run.counts[-1] in (19, 20)
    assert run.changes <= 4


def test_at_once_where_there_is_no_delay(new_run: Any) -> None:
    assert new_run(1, upscale_delay_s=0.0).see([40]).counts == [20]


def test_fewer_only_when_the_load_has_asked_for_fewer_throughout(new_run: Any) -> None:
    run = new_run(10, upscale_delay_s=0.0, downscale_delay_s=60.0)
    for _ in range(10):
        run.see([4] * 50).see([20])
    assert set(run.counts) == {10}
    run.see([4] * 59)
    assert run.counts[-1] == 10
    run.see([4] * 2)
    assert run.counts[-1] == 3  # Not 2: at the target exactly, the least noise would call for the third again.
    run.see([4] * DAY_S)
    assert run.counts[-1] == 3


def test_fewer_are_as_many_as_the_most_that_was_asked_for(new_run: Any) -> None:
    run = new_run(10, upscale_delay_s=0.0, downscale_delay_s=60.0)
    run.see([2] * 30).see([12]).see([2] * 31)
    assert run.counts[-1] == 7


@pytest.mark.parametrize("load", [1, 3, 10, 17, 60])
def test_a_step_is_followed_and_then_all_is_quiet(new_run: Any, load: int) -> None:
    run = new_run(1).see([2] * 300).see([load] * 60)
    needed = math.ceil(load / run.config.target_ongoing_requests)
    assert run.counts[-1] in (needed, needed - 1, needed + 1)
    assert run.counts[-1] * run.config.target_ongoing_requests * (1 + TOLERANCE) >= load
    run.see([load] * 600).forget().see([load] * 3000)
    assert run.changes == 0


# -- zero --------------------------------------------------------------------------------------------------------


def test_from_none_the_first_request_is_enough(new_run: Any) -> None:
    run = new_run(0, upscale_delay_s=30.0)
    assert run.see([0] * 100).see([1]).counts[-1] == 1
    assert new_run(0, upscale_delay_s=30.0).see([7]).counts == [4]


def test_to_none_only_without_any_request(new_run: Any) -> None:
    run = new_run(3, downscale_delay_s=60.0)
    for _ in range(10):
        run.see([0] * 59).see([1])
    assert run.counts[-1] == 1
    run.see([0] * 60)
    assert run.counts[-1] == 1
    run.see([0])
    assert run.counts[-1] == 0


def test_one_request_that_stays_keeps_one_replica(new_run: Any) -> None:
    run = new_run(1, target_ongoing_requests=100.0, downscale_delay_s=5.0).see([1] * 1000)
    assert set(run.counts) == {1}


def test_a_start_that_takes_longer_than_anyone_waits_is_not_given_up(new_run: Any) -> None:
    run = new_run(0, downscale_delay_s=10.0)
    run.see([1] * 5, starting=True).see([0] * 300, starting=True)
    assert run.counts[-1] == 1
    run.see([0] * 12)
    assert run.counts[-1] == 0


def test_the_bounds_of_another_config_hold_at_once(new_run: Any) -> None:
    run = new_run(4, max_replicas=8)
    run.config = Autoscaling(min_replicas=6, max_replicas=8)
    assert run.see([0]).counts == [6]
    run.config = Autoscaling(min_replicas=0, max_replicas=2)
    assert run.see([0]).counts[-1] == 2
    assert begin(run.config, 5, 0.0).replicas == 2


# -- a steady load, and a day ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [1, 2, 4, 9, 16, 40])
@pytest.mark.parametrize("seed", [1, 2])
def test_no_flapping_on_a_steady_load(new_run: Any, mean: int, seed: int) -> None:
    run = new_run(1).see(noisy(mean, 900, seed)).forget().see(noisy(mean, 6 * 3600, seed))
    assert run.changes <= 1
    assert run.counts[-1] * 2.0 * (1 + TOLERANCE) >= mean
    assert run.counts[-1] <= mean / 2.0 * 1.25 + 1


@pytest.mark.parametrize("mean", [1, 4, 8, 16])
def test_little_on_one_whose_noise_is_as_large_as_it_gets(new_run: Any, mean: int) -> None:
    """A Poisson load of 8 is half of that in one second and twice that in another."""
    run = new_run(1).see(poisson(mean, 900, 1)).forget().see(poisson(mean, 6 * 3600, 2))
    assert run.changes <= 24  # Four an hour; without any smoothing and delay there are ten thousand.
    assert sum(run.counts) / len(run.counts) <= mean / 2.0 * 1.5 + 1


def day(seed: int) -> list[int]:
    """A load that follows the sun, with noise and bursts, and nights of six hours without a request."""
    chance = random.Random(seed)
    loads = []
    burst = 0
    for second in range(DAY_S):
        hour = second / 3600
        if hour < 3 or hour >= 21:
            loads.append(0)
            continue
        mean = 20 - 18 * math.cos((hour - 3) / 18 * 2 * math.pi)
        if not burst and chance.random() < 1 / 3600:
            burst = chance.randint(2, 120)
        if burst:
            burst -= 1
            mean *= 2
        loads.append(max(0, round(mean * chance.uniform(0.8, 1.2))))
    return loads


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_day(new_run: Any, seed: int) -> None:
    loads = day(seed)
    run = new_run(0, max_replicas=32).see(loads)
    assert all(0 <= count <= 32 for count in run.counts)
    assert run.counts[2 * 3600] == 0
    assert run.counts[-1] == 0
    first = next(second for second, load in enumerate(loads) if load)
    assert run.counts[first] >= 1
    last = max(second for second, load in enumerate(loads) if load)
    assert 0 not in run.counts[first:last]
    # Up the hill and down again, and a burst each hour: some changes, and none for the noise of every second.
    assert run.changes <= 150
    short = sum(load > 2 * count * 1.5 for load, count in zip(loads, run.counts, strict=True))
    assert short / DAY_S < 0.01, "seconds in which replicas had half more than their target"
    assert sum(run.counts) <= 1.5 * sum(loads) / 2 + DAY_S / 4, "and yet not many more replicas than needed"


# -- invariants --------------------------------------------------------------------------------------------------

CONFIGS = st.builds(
    lambda low, more, target, up, down: Autoscaling(low, max(1, low + more), target, up, down),
    st.integers(0, 5),
    st.integers(0, 20),
    st.floats(0.5, 20),
    st.sampled_from([0.0, 0.5, 3.0, 30.0]),
    st.sampled_from([0.0, 1.0, 10.0, 60.0]),
)
LOADS = st.lists(
    st.tuples(st.integers(0, 200), st.floats(0.01, 5.0), st.booleans()),
    max_size=120,
)


@given(config=CONFIGS, replicas=st.integers(0, 30), loads=LOADS)
def test_whatever_comes(config: Autoscaling, replicas: int, loads: list[tuple[int, float, bool]]) -> None:
    now = 0.0
    state = begin(config, replicas, now)
    busy_at = now
    for load, pause_s, starting in loads:
        now += pause_s
        before, state = state, decide(config, state, load, now, starting=starting)
        if load or starting:
            busy_at = now
        assert config.min_replicas <= state.replicas <= config.max_replicas
        assert 0 <= state.load <= 200
        if load:
            assert state.replicas > 0
        if not state.replicas and before.replicas:
            assert now - busy_at >= config.downscale_delay_s - 1e-9
        if before.replicas and state.replicas > before.replicas:
            assert state.load > before.replicas * config.target_ongoing_requests


@given(config=CONFIGS, replicas=st.integers(0, 30), load=st.integers(0, 200))
def test_a_load_that_stays_is_settled_for_good(config: Autoscaling, replicas: int, load: int) -> None:
    run = Run(config, begin(config, replicas, 0.0))
    run.see([load] * 600).forget().see([load] * 200)
    assert run.changes == 0
    needed = math.ceil(load / config.target_ongoing_requests / (1 + TOLERANCE) - 1e-6)
    assert run.counts[-1] >= min(needed, config.max_replicas)
    enough = math.ceil(load / config.target_ongoing_requests / (1 - TOLERANCE) + 1e-6)
    assert run.counts[-1] <= max(enough, config.min_replicas, 1 if load else 0)

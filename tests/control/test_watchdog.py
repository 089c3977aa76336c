"""In which replica a call hangs, and which is worn: decisions alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.config import BackendConfig
from servekit.control.plan import ReplicaState
from servekit.control.watchdog import JITTER, Watchdog, WatchedReplica, most_requests
from servekit.wire.control_frames import Report

CONFIG = BackendConfig(hang_grace_s=10.0, startup_timeout_s=60.0)
READY, STARTING, DRAINING = ReplicaState.READY, ReplicaState.STARTING, ReplicaState.DRAINING


def replica(name: str, overdue_s: float = 0.0, state: ReplicaState = READY, **report: int) -> WatchedReplica:
    return WatchedReplica(name, state, Report(**report), overdue_s)


def well(count: int) -> list[WatchedReplica]:
    return [replica(f"well{number}") for number in range(count)]


# -- hangs ---------------------------------------------------------------------------------------------------------


def test_beyond_its_grace_a_replica_hangs() -> None:
    watchdog = Watchdog()
    assert watchdog.hung(0, CONFIG, 2, [replica("a", 9.9), *well(1)]) == ""
    assert watchdog.hung(1, CONFIG, 2, [replica("a", 10.9), *well(1)]) == "a"


def test_the_one_that_is_held_for_longest_goes_first() -> None:
    assert Watchdog().hung(0, CONFIG, 3, [replica("a", 11), replica("b", 13), replica("c", 12)]) == "b"


@pytest.mark.parametrize("state", [STARTING, DRAINING])
def test_only_replicas_that_serve_count(state: ReplicaState) -> None:
    assert Watchdog().hung(0, CONFIG, 2, [replica("a", 99, state), *well(1)]) == ""


def test_none_switches_it_off() -> None:
    config = BackendConfig(hang_grace_s=None)
    assert Watchdog().hung(0, config, 1, [replica("a", 1e6)]) == ""
    assert Watchdog().grace_s(config) == float("inf")


def test_the_next_does_not_hang_before_the_first_is_replaced() -> None:
    watchdog = Watchdog()
    assert watchdog.hung(0, CONFIG, 3, [replica("a", 30), replica("b", 30), *well(1)]) == "a"
    left = [replica("b", 35), *well(1)]
    assert watchdog.hung(5, CONFIG, 3, [*left, replica("new", state=STARTING)]) == ""
    assert watchdog.hung(6, CONFIG, 3, [*left, replica("new")]) == "b"


def test_a_replacement_that_does_not_come_is_not_waited_for_for_ever() -> None:
    watchdog = Watchdog()
    assert watchdog.hung(0, CONFIG, 2, [replica("a", 100), replica("b", 100)]) == "a"
    assert watchdog.hung(59, CONFIG, 2, [replica("b", 159)]) == ""
    assert watchdog.hung(60, CONFIG, 2, [replica("b", 160)]) == "b"


def test_the_grace_doubles_up_to_startup_timeout_s_and_comes_down_while_the_backend_is_well() -> None:
    watchdog, graces, now = Watchdog(), [], 0.0
    for _ in range(5):
        graces.append(watchdog.grace_s(CONFIG))
        assert watchdog.hung(now, CONFIG, 1, [replica("a", 1000)]) == "a"
        now += 100
    assert graces == [10, 20, 40, 60, 60]
    assert watchdog.hung(now, CONFIG, 1, well(1)) == ""
    assert watchdog.hung(now + 59, CONFIG, 1, well(1)) == ""
    assert watchdog.grace_s(CONFIG) == 60
    for after, grace_s in ((60, 40), (99, 40), (100, 20), (120, 10), (500, 10)):
        assert watchdog.hung(now + after, CONFIG, 1, well(1)) == ""
        assert watchdog.grace_s(CONFIG) == grace_s


def test_while_a_slot_is_held_for_longer_than_the_first_grace_the_backend_is_not_well() -> None:
    watchdog = Watchdog()
    assert watchdog.hung(0, CONFIG, 1, [replica("a", 11)]) == "a"
    for now in range(1, 100):
        assert watchdog.hung(now, CONFIG, 1, [replica("b", 15)]) == ""
    assert watchdog.grace_s(CONFIG) == 20


@given(st.lists(st.lists(st.floats(0, 1e4), min_size=4, max_size=4), max_size=200))
def test_at_most_one_at_a_time_and_never_within_the_grace(looks: list[list[float]]) -> None:
    """Four replicas, whose replacements never come."""
    watchdog, hung_at = Watchdog(), -1000.0
    for now, overdue in enumerate(looks):
        grace_s = watchdog.grace_s(CONFIG)
        assert CONFIG.hang_grace_s is not None
        assert CONFIG.hang_grace_s <= grace_s <= CONFIG.startup_timeout_s
        replicas = [replica(str(number), late_s) for number, late_s in enumerate(overdue)]
        hung = watchdog.hung(now, CONFIG, 5, replicas)
        if hung:
            assert overdue[int(hung)] >= grace_s
            assert now - hung_at >= CONFIG.startup_timeout_s
            hung_at = now


# -- wear ----------------------------------------------------------------------------------------------------------


def worn(config: BackendConfig, replicas: list[WatchedReplica], wanted: int = 2, now: float = 0.0) -> str:
    return Watchdog().worn(now, config, wanted, replicas)[0]


def test_a_replica_is_worn_by_its_requests() -> None:
    config = BackendConfig(max_requests=100)
    assert worn(config, [replica("a", requests=89), *well(1)]) == ""
    assert worn(config, [replica("a", requests=110), *well(1)]) == "a"
    assert worn(BackendConfig(), [replica("a", requests=10**9), *well(1)]) == ""


def test_a_replica_is_worn_by_its_memory() -> None:
    config = BackendConfig(max_memory_bytes=100)
    assert worn(config, [replica("a", memory_bytes=100), *well(1)]) == ""
    assert worn(config, [replica("a", memory_bytes=101), *well(1)]) == "a"


def test_replicas_that_need_too_much_from_their_start_are_not_replaced_again_and_again() -> None:
    config, watchdog, greedy = BackendConfig(max_memory_bytes=100), Watchdog(), [replica("a", memory_bytes=200)]
    times = [now for now in range(100) if watchdog.worn(10_000 + now, config, 1, greedy)[0]]
    assert times == [0, 1, 3, 7, 15, 31, 63]


@pytest.mark.parametrize("state", [STARTING, DRAINING])
def test_one_at_a_time_while_all_serve(state: ReplicaState) -> None:
    config, full = BackendConfig(max_requests=1), replica("a", requests=99)
    assert worn(config, [full, replica("b", state=state)]) == ""
    assert worn(config, [full, WatchedReplica("b", READY, Report(), worn=True)]) == ""
    assert worn(config, [full]) == ""


@given(st.integers(1, 10**9), st.text(max_size=20))
def test_replicas_differ_by_a_tenth_and_stay_as_they_are(most: int, name: str) -> None:
    limit = most_requests(most, name)
    assert most * (1 - JITTER) <= limit <= most * (1 + JITTER)
    assert limit == most_requests(most, name)
    assert len({most_requests(most, f"{name}{number}") for number in range(10)}) == 10

"""What a process says of itself."""

from __future__ import annotations

import asyncio
import os
import time

from servekit import vitals
from servekit.vitals import LoopLag, cpu_us, own_vitals


def test_a_loop_that_was_held_up_says_for_how_long(monkeypatch):
    monkeypatch.setattr(vitals, "LOOK_EVERY_S", 0.01)

    async def held_up():
        lag = LoopLag()
        time.sleep(0.2)  # noqa: ASYNC251  # as a handler would that holds up its loop
        seen = own_vitals(lag)
        await asyncio.sleep(0)
        lag.close()
        return seen

    seen = asyncio.run(held_up())
    assert seen.loop_lag_s >= 0.18
    assert seen.memory_bytes > 1_000_000
    assert 3 <= seen.descriptors <= len(os.listdir("/proc/self/fd")) + 10


def test_the_lag_is_of_the_time_since_it_was_asked_last(monkeypatch):
    monkeypatch.setattr(vitals, "LOOK_EVERY_S", 0.01)

    async def held_up_once():
        lag = LoopLag()
        time.sleep(0.3)  # noqa: ASYNC251
        await asyncio.sleep(0.02)  # It is seen by the loop's own timer.
        first = lag.take()
        second = lag.take()
        lag.close()
        return first, second

    first, second = asyncio.run(held_up_once())
    assert first >= 0.28 > second >= 0.0


def test_cpu_time_grows():
    before = cpu_us()
    while cpu_us() == before:
        pass
    assert cpu_us() > before

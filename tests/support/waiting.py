"""Waits for what another thread, task or process brings about: on a condition, with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE_S = 60.0
"""Long enough on a busy machine: only a test that fails waits as long."""
FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.02
"""Looks are close at first, and rarer where it takes long: what is waited for needs the core too."""


def until(found: Callable[[], T], timeout_s: float = DEADLINE_S) -> T:
    """Return what ``found`` returns, once that is true. Raises ``AssertionError`` after ``timeout_s``."""
    ends, pause_s = time.monotonic() + timeout_s, FIRST_PAUSE_S
    while not (value := found()):
        assert time.monotonic() < ends, f"it did not come about within {timeout_s:g} s; last seen: {value!r}"
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)
    return value


async def until_async(found: Callable[[], T], timeout_s: float = DEADLINE_S) -> T:
    """The same on an event loop, which goes on meanwhile."""
    ends, pause_s = time.monotonic() + timeout_s, FIRST_PAUSE_S
    while not (value := found()):
        assert time.monotonic() < ends, f"it did not come about within {timeout_s:g} s; last seen: {value!r}"
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)
    return value

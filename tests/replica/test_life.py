"""A handler's life beside its calls, without a replica around it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from servekit.config import BackendConfig, config_digest
from servekit.errors import InvalidInputError
from servekit.interfaces import Request, RequestAdapter, Response
from servekit.replica import life as module
from servekit.replica.life import Life
from servekit.replica.target import Handlers, Target


class Adapter(RequestAdapter):
    """Writes down when it starts and stops."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def decode(self, request: Request) -> Any: ...

    def encode(self, result: Any) -> Response:
        return Response(200, [])

    async def start(self, handler: Any) -> None:
        self.log.append("started")

    async def stop(self) -> None:
        self.log.append("stopped")


class Handler:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def __call__(self, value: object) -> None: ...

    def reconfigure(self, user_config: Any) -> None:
        self.log.append(f"config {user_config}")
        if user_config == "bad":
            raise ValueError("a bad one")

    def close(self) -> None:
        self.log.append("closed")


@pytest.fixture
def new_life() -> Callable[..., Life]:
    def new_life(target: Any, log: list[str], **config: Any) -> Life:
        return Life(Handlers(Target(target, (log,))), Adapter(log), BackendConfig(**config))

    return new_life


def test_the_order_of_a_life(new_life: Any) -> None:
    log: list[str] = []

    async def test() -> None:
        life = new_life(Handler, log, user_config=1)
        await life.begin()
        assert life.taken == config_digest(1)
        assert await life.reconfigure(2) == ""
        assert await life.reconfigure(2) == ""
        await life.end()

    asyncio.run(test())
    assert log == ["config 1", "started", "config 2", "stopped", "closed"]


def test_none_at_the_start_is_no_user_config(new_life: Any) -> None:
    log: list[str] = []

    async def test() -> None:
        life = new_life(Handler, log)
        await life.begin()
        assert await life.reconfigure(1) == ""
        assert await life.reconfigure(None) == ""

    asyncio.run(test())
    assert log == ["started", "config 1", "config None"]


def test_after_one_that_raised_the_old_one_is_handed_over_again(new_life: Any) -> None:
    log: list[str] = []

    async def test() -> None:
        life = new_life(Handler, log, user_config=1)
        await life.begin()
        assert "ValueError: a bad one" in await life.reconfigure("bad")
        assert life.taken == b""
        assert await life.reconfigure(1) == ""
        assert life.taken == config_digest(1)

    asyncio.run(test())
    assert log == ["config 1", "started", "config bad", "config 1"]


def test_changes_come_one_after_another(new_life: Any) -> None:
    log: list[str] = []

    class Slow(Handler):
        async def reconfigure(self, user_config: Any) -> None:  # type: ignore[override]
            log.append(f"begin {user_config}")
            await asyncio.sleep(0)
            log.append(f"end {user_config}")

    async def test() -> None:
        life = new_life(Slow, log)
        await life.begin()
        await asyncio.gather(life.reconfigure(1), life.reconfigure(2))

    asyncio.run(test())
    assert log == ["started", "begin 1", "end 1", "begin 2", "end 2"]


def test_a_start_that_fails_ends_all_the_same(new_life: Any) -> None:
    log: list[str] = []

    class Bare:
        def __init__(self, log: list[str]) -> None: ...

        def __call__(self, value: object) -> None: ...

        def close(self) -> None:
            log.append("closed")

    async def test() -> None:
        life = new_life(Bare, log, user_config={})
        with pytest.raises(InvalidInputError, match="reconfigure"):
            await life.begin()
        await life.end()

    asyncio.run(test())
    assert log == ["closed"]


def test_an_end_that_fails_or_hangs_is_logged(
    new_life: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAIN_TIMEOUT_S", 0.01)

    class Hangs(Handler):
        async def close(self) -> None:  # type: ignore[override]
            await asyncio.sleep(1000)

    class Fails(Handler):
        def close(self) -> None:
            raise ValueError("cannot")

    asyncio.run(new_life(Hangs, []).end())
    assert "close() took longer than 0.01 s" in caplog.text
    asyncio.run(new_life(Fails, []).end())
    assert "ValueError: cannot" in caplog.text


# -- health ------------------------------------------------------------------------------------------------------

CHECKS = {"health_check_period_s": 0.1, "health_check_timeout_s": 0.2}


def checked(check: Callable[..., Any]) -> type:
    class Checked(Handler):
        check_health = check

    return Checked


async def watch(life: Life, during: Callable[[], Any] | None = None) -> list[str]:
    """Until it is unhealthy; ``during`` runs beside it, and ends it where it returns."""
    reasons: list[str] = []
    told = asyncio.Event()
    watching = asyncio.ensure_future(life.watch(lambda reason: (reasons.append(reason), told.set())))  # type: ignore[arg-type, func-returns-value]
    beside = asyncio.ensure_future(told.wait() if during is None else during())
    await asyncio.wait_for(asyncio.wait([beside, watching], return_when=asyncio.FIRST_COMPLETED), 10)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return reasons


def test_a_check_that_raises_is_told_with_its_traceback(new_life: Any) -> None:
    def check(self: Any) -> None:
        raise ValueError("ill")

    (reason,) = asyncio.run(watch(new_life(checked(check), [], **CHECKS)))
    assert "check_health() failed" in reason
    assert "ValueError: ill" in reason


@pytest.mark.parametrize("is_async", [False, True])
def test_one_that_takes_too_long(new_life: Any, is_async: bool) -> None:
    def check(self: Any) -> None:
        time.sleep(0.3)

    async def check_async(self: Any) -> None:
        await asyncio.sleep(1000)

    (reason,) = asyncio.run(watch(new_life(checked(check_async if is_async else check), [], **CHECKS)))
    assert "took longer than health_check_timeout_s, which is 0.2 s" in reason


def test_one_without_a_check_is_well(new_life: Any) -> None:
    assert asyncio.run(watch(new_life(Handler, [], **CHECKS))) == []


def test_what_blocks_the_loop_is_no_part_of_an_async_check(new_life: Any) -> None:
    checks = 0

    async def check(self: Any) -> None:
        nonlocal checks
        await asyncio.sleep(0.01)
        checks += 1

    def call() -> None:
        time.sleep(0.3)  # Longer than a check may take.

    async def calls() -> None:
        while checks < 2:
            await asyncio.sleep(0)
            call()

    assert asyncio.run(watch(new_life(checked(check), [], **CHECKS), calls)) == []


def test_a_check_that_blocks_for_ever_is_seen_from_another_thread(
    new_life: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LATE_S", 0.0)
    go_on, seen = threading.Event(), threading.Event()

    def check(self: Any) -> None:
        assert go_on.wait(10)

    life = new_life(checked(check), [], **CHECKS)

    def look() -> None:
        ends = time.monotonic() + 10
        while time.monotonic() < ends and not life.is_hung:
            time.sleep(0.005)
        if life.is_hung:
            seen.set()
        go_on.set()

    assert not life.is_hung
    looking = threading.Thread(target=look)
    looking.start()
    asyncio.run(watch(life))
    looking.join()
    assert seen.is_set()
    assert not life.is_hung


def test_how_late_the_loop_comes_is_known_in_another_thread(new_life: Any) -> None:
    async def test() -> None:
        life = new_life(Handler, [])
        await life.begin()
        assert life.lag_s == 0.0
        life.look_at_loop(warns=False)  # The loop is busy with this very function.
        held = threading.Event()
        held.wait(0.01)
        assert life.lag_s >= 0.01
        life.look_at_loop(warns=False)
        assert life.lag_s >= 0.01
        await asyncio.sleep(0)
        lag_s = life.lag_s
        assert lag_s >= 0.01
        life.look_at_loop(warns=False)
        await asyncio.sleep(0)
        assert life.lag_s != lag_s

    asyncio.run(test())

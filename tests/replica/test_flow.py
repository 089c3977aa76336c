"""What stands once, for handlers that are called and for those that are awaited."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from servekit.replica.flow import Flow, run, run_async


def drive_async(flow: Flow[Any]) -> Any:
    return asyncio.run(run_async(flow))


drivers: Any = pytest.mark.parametrize("drive", [run, drive_async])


async def later(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


async def fail_later(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


def fail(error: BaseException) -> None:
    raise error


@drivers
def test_a_flow_is_given_what_its_steps_return(drive: Callable[[Flow[Any]], Any]) -> None:
    def flow() -> Flow[list[int]]:
        one = yield lambda: 1
        return [one, (yield lambda: one + 1)]

    def none() -> Flow[str]:
        return "at once"
        yield

    assert drive(flow()) == [1, 2]
    assert drive(none()) == "at once"


def test_what_can_be_awaited_is_awaited_on_the_loop_alone() -> None:
    def flow() -> Flow[Any]:
        return (yield partial(later, 3))

    assert drive_async(flow()) == 3
    coroutine = run(flow())
    assert asyncio.run(coroutine) == 3


@drivers
@pytest.mark.parametrize("error", [LookupError("l"), SystemExit(3), asyncio.CancelledError(), StopAsyncIteration()])
def test_what_a_step_raises_is_raised_where_the_flow_yielded(drive: Any, error: BaseException) -> None:
    def catches() -> Flow[Any]:
        try:
            yield partial(fail, error)
        except BaseException as caught:
            return [caught, (yield lambda: "goes on")]

    def passes() -> Flow[Any]:
        yield partial(fail, error)

    assert drive(catches()) == [error, "goes on"]
    with pytest.raises(type(error)):
        drive(passes())


def test_a_cancelled_driver_cancels_what_it_awaits() -> None:
    found: list[str] = []

    def flow() -> Flow[None]:
        try:
            yield partial(asyncio.sleep, 3600)
        except asyncio.CancelledError:
            found.append("cancelled")
            raise

    async def test() -> None:
        task = asyncio.ensure_future(run_async(flow()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(test())
    assert found == ["cancelled"]


@drivers
def test_an_error_that_was_caught_is_not_left_to_the_garbage_collector(drive: Any) -> None:
    class Held(Exception):
        pass

    left: list[weakref.ref[Any]] = []

    def raises() -> None:
        error = Held()
        left.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    def flow() -> Flow[str]:
        try:
            yield raises
        except Held:
            return "caught"
        return ""

    gc.collect()
    gc.disable()
    try:
        assert drive(flow()) == "caught"
        assert left[0]() is None
    finally:
        gc.enable()

from __future__ import annotations

import asyncio
import threading

import pytest

from servekit.tasks import TaskSet, came_within, in_thread


def test_tasks_are_waited_for_and_cancelled() -> None:
    async def test() -> None:
        tasks, event = TaskSet(), asyncio.Event()
        assert await tasks.wait(0.0)
        soon, never = tasks.spawn(event.wait()), tasks.spawn(asyncio.Event().wait())
        assert not await tasks.wait(0.001)
        event.set()
        await soon
        await tasks.close()
        assert never.cancelled()
        assert await tasks.wait(0.0)

    asyncio.run(test())


def test_an_event_comes_in_time_or_not() -> None:
    async def test() -> None:
        event = asyncio.Event()
        assert not await came_within(event, 0.001)
        asyncio.get_running_loop().call_soon(event.set)
        assert await came_within(event, None)
        assert await came_within(event, 0.0)

    asyncio.run(test())


def test_a_task_that_runs_already_is_held_like_any_other() -> None:
    async def test() -> None:
        tasks, event = TaskSet(), asyncio.Event()
        task = asyncio.get_running_loop().create_task(event.wait())
        tasks.hold(task)
        assert len(tasks) == 1
        assert not await tasks.wait(0.001)
        event.set()
        await task
        assert await tasks.wait(1.0)
        assert not len(tasks)

    asyncio.run(test())


def test_a_call_in_a_thread_of_its_own() -> None:
    def fails() -> None:
        raise StopIteration

    async def test() -> None:
        assert await in_thread(lambda: threading.current_thread().daemon)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await in_thread(fails)
        with pytest.raises(ZeroDivisionError):
            await in_thread(lambda: 1 / 0)

    asyncio.run(test())


def test_a_call_that_does_not_return_is_left_behind() -> None:
    goes_on = threading.Event()

    async def test() -> None:
        call = in_thread(lambda: goes_on.wait(60))
        assert not call.done()
        call.cancel()
        goes_on.set()  # What comes of it is nobody's.
        assert await in_thread(lambda: 1) == 1

    asyncio.run(test())

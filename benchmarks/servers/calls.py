"""What the handler ``compose`` does in every framework that has handles: call another one, over and over."""

import asyncio
import time


async def time_calls(call, count, at_once):
    """The seconds that ``count`` calls of one that doubles take, ``at_once`` of them under way at a time."""
    numbers = iter(range(count))

    async def caller():
        for number in numbers:
            if await call(number) != 2 * number:
                raise ValueError(f"{number} was not doubled")

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return time.perf_counter() - began

"""What the streaming handlers make: a chunk that says when it was made, then as many more as were asked for."""

import asyncio
import time

CHUNK = b"a chunk of twenty-four.~"


def first():
    """Read back by `benchmarks.streams`; the clock is the machine's, the same in every process."""
    return b"made at %d~" % time.monotonic_ns()


def chunks(count, pause_s):
    yield first()
    for _ in range(count - 1):
        if pause_s:
            time.sleep(pause_s)
        yield CHUNK


async def async_chunks(count, pause_s):
    yield first()
    for _ in range(count - 1):
        await asyncio.sleep(pause_s)  # of 0 too: each chunk has a turn of the event loop of its own
        yield CHUNK

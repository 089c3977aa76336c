"""Replicas that have done enough, or take too much memory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.faults.load import ask
from benchmarks.faults.row import Row, not_run
from benchmarks.faults.scene import POSTS_INSIDE, has, nothing, posts_inside, replaced, scene, watched

CGROUPS = Path("/sys/fs/cgroup")
MB = 1_000_000
MOST_MB = 400
"""``max_memory_bytes``; a replica that does nothing has about 50."""
JOINED_S = 2.5
"""After so long it is known which cgroup a replica is in: what starts in one does not change it."""
LIMIT_MB = 150
"""Of the memory cgroup: what a replica has already is not counted in it."""


def enough_requests(runtime: str) -> Row:
    fault = "max_requests: replicas are recycled"
    if not has("max_requests"):
        return not_run(fault, "there is no max_requests")
    with scene(runtime, max_requests=1000) as at:
        with watched(at) as watch:
            watch.load.wait(lambda: len({one.by for one in watch.load.outcomes}) > 12, 60.0)
        row = watch.row(fault, nothing, "")
        row.notes.append(f"{len({one.by for one in watch.load.outcomes})} replicas have answered, 4 at a time")
        return row


def too_much_memory(runtime: str) -> Row:
    fault = "max_memory_bytes: a replica is recycled"
    if not has("max_memory_bytes"):
        return not_run(fault, "there is no max_memory_bytes")
    with scene(runtime, max_memory_bytes=MOST_MB * MB) as at:
        with watched(at) as watch:
            before = set(at.replicas().values())
            with watch.fault():
                ask(at.instance.url, "grow", mb=MOST_MB)
            watch.until_whole(replaced(at, before))
        return watch.row(fault, nothing, "")


@contextlib.contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[Path]:
    """A memory cgroup of its own (cgroups(7), version 1 or 2). Raises ``OSError`` where none can be made."""
    one = (CGROUPS / "memory").is_dir()
    folder = (CGROUPS / "memory" if one else CGROUPS) / f"servekit-faults-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / ("memory.limit_in_bytes" if one else "memory.max")).write_text(str(limit_bytes))
        yield folder
    finally:
        (folder.parent / "cgroup.procs").write_text("0")  # this process, if it was in it
        with contextlib.suppress(OSError):  # someone is in it still
            folder.rmdir()


def out_of_memory(runtime: str) -> Row:
    """The kernel kills one replica, which alone is in a memory cgroup with a limit."""
    fault = "the kernel's OOM killer ends a replica"
    try:
        with memory_cgroup(LIMIT_MB * MB) as cgroup, scene(runtime) as at:
            before = set(at.replicas().values())
            for pid in before:
                (cgroup / "cgroup.procs").write_text(str(pid))
            time.sleep(JOINED_S)
            with watched(at) as watch:
                with watch.fault():
                    ask(at.instance.url, "grow", method="POST", mb=2 * LIMIT_MB)
                watch.until_whole(replaced(at, before))
                named = at.instance.status()["backends"]["echo"]["last_failure"]
            row = watch.row(fault, posts_inside, POSTS_INSIDE)
            row.notes.append(f"status() says: {named.partition(': its')[0]}")
            return row
    except OSError as error:
        return not_run(fault, f"no memory cgroup can be made: {error}")


FAULTS = {"max-requests": enough_requests, "max-memory": too_much_memory, "oom": out_of_memory}

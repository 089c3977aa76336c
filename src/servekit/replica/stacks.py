"""Where the threads and tasks of a replica are: for the log, when a call hangs."""

from __future__ import annotations

import asyncio
import faulthandler
import sys
import threading
import traceback
from collections.abc import Iterable
from itertools import islice
from typing import Any

from servekit.replica.open_call import OpenCall
from servekit.replica.threads import THREAD_NAME

MOST_CALLS = 10
"""So many are described."""
_STDERR = 2
_AWAITED = {"cr": "cr_await", "gi": "gi_yieldfrom", "ag": "ag_await"}


def describe(overdue: dict[OpenCall, float]) -> str:
    """The first of the calls that are beyond their deadlines, with how far, and the stack of each that runs in a
    task."""
    lines = [
        f"{late_s:.1f} s beyond its deadline: {call.request.method} {call.request.path} of endpoint "
        f"{call.request.endpoint!r} (request id {call.request.id})\n{_task_stack(call)}"
        for call, late_s in islice(overdue.items(), MOST_CALLS)
    ]
    return "".join(lines).rstrip()


def dump_threads() -> None:
    """Write where every thread of this process is to standard error. `faulthandler` takes no lock and reads no file,
    whatever the threads do."""
    faulthandler.dump_traceback(_STDERR, all_threads=True)


def threads_of(replica: int) -> str:
    """Where the thread of this number is, and those that run handlers: in process, the others are the test's."""
    frames, lines = sys._current_frames(), []
    for thread in threading.enumerate():
        if thread.ident in frames and (thread.ident == replica or thread.name.startswith(THREAD_NAME)):
            lines += [f"Thread {thread.name}:\n", *traceback.format_stack(frames[thread.ident])]
    return "".join(lines).rstrip()


def _task_stack(call: OpenCall) -> str:
    task = call.slot.task if call.slot is not None else getattr(call.interrupt, "__self__", None)
    if not isinstance(task, asyncio.Task):
        return ""
    return "".join(traceback.StackSummary.extract(_frames(task.get_coro())).format())


def _frames(awaited: Any) -> Iterable[tuple[Any, int]]:
    """The frames of a coroutine and of those that it awaits, outermost first: `asyncio.Task.get_stack` has the first
    alone."""
    while awaited is not None:
        kind = next((kind for kind in _AWAITED if hasattr(awaited, f"{kind}_frame")), "")
        frame = getattr(awaited, f"{kind}_frame", None)
        if frame is None:
            return
        yield frame, frame.f_lineno
        awaited = getattr(awaited, _AWAITED[kind])

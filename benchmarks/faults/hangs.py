"""Calls that never end, and processes that are stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.faults.handlers import AsyncEcho, Checked, Echo
from benchmarks.faults.load import ask
from benchmarks.faults.row import Row, seconds
from benchmarks.faults.scene import (
    Scene,
    create,
    cut_meanwhile,
    kill,
    nothing,
    others,
    posts_meanwhile,
    replaced,
    scene,
    watched,
)
from servekit.errors import ServekitError

TIMEOUT_S, GRACE_S = 2.0, 2.0
"""Of the endpoint, and ``hang_grace_s``: less than the defaults, so that a run is short."""
CHANGE_S = 15.0
"""How long a stopped ingress worker is waited for, and for how long clients wait for it."""


class Asker:
    """Asks for something that never ends, in a thread, and knows how it was answered."""

    def __init__(self, at: Scene, do: str, **options: Any) -> None:
        self.answer = ""
        began_s = time.monotonic()

        def run() -> None:
            answer = ask(at.instance.url, do, **options)
            self.answer = f"{answer[:3]} after {seconds(time.monotonic() - began_s)}"

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def note(self) -> str:
        return f"the call that hangs: {self.answer or 'not answered'}"


def hang(
    fault: str, handler: Any, do: str, slots: int | None = None, ends: bool = False, **options: Any
) -> Callable[[str], Row]:
    """``ends``: it does, when it is cancelled, so that no replica is to be replaced."""

    def run(runtime: str) -> Row:
        config: dict[str, Any] = {"hang_grace_s": GRACE_S, "max_concurrent_queries": slots}
        with scene(runtime, handler, timeout_s=TIMEOUT_S, **config) as at:
            with watched(at) as watch:
                before = set(at.replicas().values())
                with watch.fault():
                    asker = Asker(at, do, **options)
                if ends:
                    time.sleep(TIMEOUT_S + GRACE_S + 3)
                    watch.notes.append(f"{'a' if replaced(at, before)() else 'no'} replica was replaced")
                else:
                    watch.until_whole(replaced(at, before))
                watch.notes.append(asker.note())
            return watch.row(fault, nothing, "")

    return run


def health_check(runtime: str) -> Row:
    with scene(runtime, Checked, health_check_period_s=0.5, health_check_timeout_s=2.0) as at:
        with watched(at) as watch:
            before = set(at.replicas().values())
            with watch.fault():
                ask(at.instance.url, "sicken")
            watch.until_whole(replaced(at, before))
        return watch.row("a check_health that hangs", nothing, "")


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """It goes on at the end, where it is there still: nothing that is stopped ends by SIGTERM."""
    kill([pid], signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def stopped_replica(runtime: str) -> Row:
    with scene(runtime) as at:
        with watched(at, timeout_s=CHANGE_S) as watch:
            victim = min(at.replicas().values())
            with watch.fault(), stopped(victim):
                watch.until_whole(others(at, {victim}), CHANGE_S)
        return watch.row("SIGSTOP of a replica", posts_meanwhile, "POSTs that it had when it was killed for it")


def stopped_ingress(runtime: str) -> Row:
    """And a change meanwhile."""
    with scene(runtime, ingress_workers=2) as at:
        create(at.instance, runtime, "other", Echo, at.pause_s)
        with watched(at, timeout_s=CHANGE_S) as watch:
            victim = at.ingress()[0]
            with watch.fault(), stopped(victim):
                began_s = time.monotonic()
                try:
                    at.instance.set_traffic("echo", {"echo": 0.5, "other": 0.5})
                    came = "was done"
                except ServekitError as error:
                    came = f"failed ({type(error).__name__})"
                watch.notes.append(f"a change meanwhile {came} after {seconds(time.monotonic() - began_s)}")
                watch.until_whole(lambda: len(set(at.ingress()) - {victim}) == 2, CHANGE_S)
        return watch.row(
            "SIGSTOP of an ingress worker", cut_meanwhile, "what was on its connections when it was killed"
        )


FAULTS = {
    "hang": hang("a def that hangs", Echo, "hang"),
    "hang-c": hang("a def that hangs in C code, with the GIL", Echo, "gil"),
    "hang-thread": hang("a thread that hangs", Echo, "hang", slots=2),
    "hang-async": hang("an async def that waits for ever", AsyncEcho, "hang", slots=2, ends=True),
    "stubborn": hang("an async def that does so when it is cancelled too", AsyncEcho, "stubborn", slots=2),
    "block-async": hang("an async def that blocks its loop", AsyncEcho, "block", slots=2, for_s=3600),
    "health": health_check,
    "stop-replica": stopped_replica,
    "stop-ingress": stopped_ingress,
}

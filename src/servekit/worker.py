"""The entry point of every worker process: `main`, or `run` in a process that a runtime made."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import uvloop

from servekit import logs
from servekit.forks import forks
from servekit.output import gather_output
from servekit.processes import begin_process, read_told, set_title
from servekit.wire.bootstrap import unpack
from servekit.wire.loop_thread import LoopThread


def run(bootstrap: bytes) -> None:
    """Be the worker that ``bootstrap`` describes, until it ends. Call it on the process's main thread.

    Raises ``SystemExit`` on SIGTERM before the worker serves.
    """
    begin_process()
    forks.guard(worker=True)
    told = unpack(bootstrap)
    set_title(told.title)
    gathered = told.logs.directory
    if gathered and os.path.isdir(gathered):  # It is not on another machine.
        gather_output(gathered, told.names)
    logs.begin(told.names, told.logs)
    if told.kind == "ingress":
        from servekit.ingress.worker import IngressWorker

        with contextlib.closing(uvloop.new_event_loop()) as loop:
            loop.run_until_complete(IngressWorker(told).run())
        return
    from servekit.replica.worker import ReplicaWorker

    # Until the data loop takes the signal over, so that a handler's long __init__ can be interrupted.
    forks.handle_signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.closing(LoopThread("control")) as control:
        ReplicaWorker(told).run(control.loop)


def main() -> None:
    """Read the bootstrap from standard input, to its end, and be that worker."""
    run(read_told())


if __name__ == "__main__":
    main()

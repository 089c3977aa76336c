"""Where every worker process begins: `main`, or `run` in a process that a runtime made."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys

import uvloop

from servekit import logs
from servekit.forks import forks
from servekit.processes import begin_process
from servekit.wire.bootstrap import unpack
from servekit.wire.loop_thread import LoopThread
from servekit.wire.network import SocketNetwork


def run(bootstrap: bytes) -> None:
    """Be the worker that ``bootstrap`` describes, until it ends. Call it on the process's main thread.

    Raises ``SystemExit`` on SIGTERM before the worker serves.
    """
    begin_process()
    forks.guard(worker=True)
    told = unpack(bootstrap)
    logs.begin(told.worker_id, logging.WARNING)
    if told.kind == "ingress":
        from servekit.ingress.worker import IngressWorker

        with contextlib.closing(uvloop.new_event_loop()) as loop:
            loop.run_until_complete(IngressWorker(told, SocketNetwork()).run())
        return
    from servekit.replica.worker import ReplicaWorker

    # Until the data loop takes the signal over: a handler's long __init__ can be interrupted.
    forks.handle_signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.closing(LoopThread("control")) as control:
        ReplicaWorker(told, SocketNetwork()).run(control.loop)


def main() -> None:
    """Read the bootstrap from standard input, to its end, and be that worker."""
    run(sys.stdin.buffer.read())


if __name__ == "__main__":
    main()

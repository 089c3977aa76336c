"""The keeper: a process that starts a local Ray, holds it while the owner lives, and ends it.

A Ray that the owner itself starts would end with the thread that called ``ray.init()``, and a kill -9 of the owner
would leave some of Ray's processes behind. The keeper has a session of its own, so that a Ctrl-C does not reach it.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from servekit.processes import begin_process, set_title
from servekit_ray.asks import NAMESPACE

VITAL = ("gcs_server", "raylet")


def main() -> None:
    """Be the keeper. The argument is JSON: ``instance``, the name of its folder; ``report_fd``, a pipe for `report`;
    ``owner_pidfd``; ``owned``, false for a keeper that stays until SIGTERM; and ``ray_init``, the arguments of
    ``ray.init``.
    """
    begin_process()
    told = json.loads(sys.argv[1])
    set_title(f"Ray keeper of {told['instance']}")
    try:
        address = start_ray(told["ray_init"])
    except BaseException as error:
        report(told["report_fd"], {"error": f"{type(error).__name__}: {error}"})
        raise
    try:
        signal.signal(signal.SIGTERM, _end)
        if wait_for_end([told["owner_pidfd"]], timeout_s=0):
            return  # no process would ever know of this Ray
        report(told["report_fd"], {"address": address})
        # Replicas go on while the raylet does, which gives up on a GCS that has ended after about a minute.
        raylet = [os.pidfd_open(pid) for pid in vital_children("raylet")]
        wait_for_end([told["owner_pidfd"], *raylet] if told["owned"] else raylet)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        import ray

        ray.shutdown()


def start_ray(arguments: Mapping[str, Any]) -> str:
    """Start a local Ray; the address of its GCS."""
    import ray

    context = ray.init(
        address="local", namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **arguments
    )
    return str(context.address_info["gcs_address"])


def report(fd: int, message: Mapping[str, str]) -> None:
    """Send the owner its only message. An owner that has ended is no error: `wait_for_end` notices that next."""
    try:
        with open(fd, "w") as pipe:
            json.dump(message, pipe)
    except BrokenPipeError:
        print("keeper: nobody listens any more", file=sys.stderr)


def wait_for_end(pidfds: Sequence[int], timeout_s: float | None = None) -> bool:
    """True once one of these processes has ended, by its pidfd (pidfd_open(2)). False after ``timeout_s``."""
    poller = select.poll()
    for pidfd in pidfds:
        poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(None if timeout_s is None else timeout_s * 1000))


def vital_children(*names: str) -> list[int]:
    """The pids of the GCS and the raylet, or of the one that is named, among the children of this process: a Ray is of
    no use without them, and does not start them again. Empty where this process started no Ray, or where the kernel
    lacks CONFIG_PROC_CHILDREN.
    """
    children = [pid for file in Path("/proc/self/task").glob("*/children") for pid in _read(file).split()]
    return [int(pid) for pid in children if _read(Path(f"/proc/{pid}/comm")).strip() in (names or VITAL)]


def _read(file: Path) -> str:
    """The content of a file in /proc; empty where its thread or process has ended."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _end(*_: object) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()

"""The keeper's process: starts a local Ray, holds it while its owner lives, and takes it down.

A Ray that the owner started itself would end with the thread that called ``ray.init()``, and a kill -9 of the owner
would leave some of Ray's processes behind. The keeper has a session of its own, so a Ctrl-C in a terminal passes it by.
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

from servekit.processes import begin_process

NAMESPACE = "servekit"


def main() -> None:
    """Told in JSON: ``report_fd``; ``owner_pidfd``; ``owned``, false to stay until SIGTERM; ``ray_init``, arguments."""
    begin_process()
    told = json.loads(sys.argv[1])
    try:
        address = start_ray(told["ray_init"])
    except BaseException as error:
        report(told["report_fd"], {"error": f"{type(error).__name__}: {error}"})
        raise
    try:
        signal.signal(signal.SIGTERM, _end)
        if wait_for_end([told["owner_pidfd"]], timeout_s=0):
            return  # nobody would ever know of this Ray
        report(told["report_fd"], {"address": address})
        vital = [os.pidfd_open(pid) for pid in vital_children()]
        wait_for_end([told["owner_pidfd"], *vital] if told["owned"] else vital)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        import ray

        ray.shutdown()


def start_ray(arguments: Mapping[str, Any]) -> str:
    """Start it; its address."""
    import ray

    context = ray.init(
        address="local", namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **arguments
    )
    return str(context.address_info["gcs_address"])


def report(fd: int, message: Mapping[str, str]) -> None:
    """Tell the owner, once. One that is gone already is no error: `wait_for_end` says so next."""
    try:
        with open(fd, "w") as pipe:
            json.dump(message, pipe)
    except BrokenPipeError:
        print("keeper: nobody listens any more", file=sys.stderr)


def wait_for_end(pidfds: Sequence[int], timeout_s: float | None = None) -> bool:
    """Whether one of these processes ended in time: a pidfd is readable then, pidfd_open(2)."""
    poller = select.poll()
    for pidfd in pidfds:
        poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(None if timeout_s is None else timeout_s * 1000))


def vital_children() -> list[int]:
    """The children of this process without which its Ray is of no use, and which Ray does not start again: its GCS and
    its raylet. None where this process started no Ray, or where the kernel lacks CONFIG_PROC_CHILDREN.
    """
    children = [pid for file in Path("/proc/self/task").glob("*/children") for pid in _read(file).split()]
    return [int(pid) for pid in children if _read(Path(f"/proc/{pid}/comm")).strip() in ("gcs_server", "raylet")]


def _read(file: Path) -> str:
    """Nothing, where the thread or process that it tells of has ended meanwhile."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _end(*_: object) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()

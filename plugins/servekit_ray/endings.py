"""How a hosted process ends: Ray's account of it in words, and SIGTERM where it is within reach."""

from __future__ import annotations

import os
import re
import signal

from servekit.interfaces import Exit
from servekit_ray.actor import start_ticks


def exit_of(message: str) -> Exit:
    """How a process ended, from what Ray says of its dead actor."""
    if found := re.search(r"exit code (\d+)", message):
        code = int(found[1])
        return Exit(f"exit code {code}", code)
    if "killed by `ray.kill`" in message:
        return Exit("killed by ray.kill")
    if "connection error code 2" in message:
        return Exit("killed or crashed: its connection to Ray broke off")
    detail = re.search(r"(?:exit detail: |actor is dead because )(.*)", message)
    return Exit(detail[1] if detail else message)


def terminate(pid: int, started: int) -> None:
    """SIGTERM to that very process of this machine; none, if it is gone or in a container's own pid namespace."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if start_ticks(pid) == started:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    finally:
        os.close(pidfd)

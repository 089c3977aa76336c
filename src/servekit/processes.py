"""Processes that need not be children: told apart by pid and start time, signalled and awaited through a pidfd."""

from __future__ import annotations

import os
import select
import signal
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple


class ProcessIdentity(NamedTuple):
    """Names one process for as long as the machine is up: a pid is used again, but not with the same start."""

    pid: int
    start_ticks: int
    """Clock ticks from boot to the process's start: field 22 of ``/proc/PID/stat`` (proc_pid_stat(5))."""


class OpenProcess:
    """One process, held by a pidfd: a signal sent through it cannot hit another that took over the pid."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    def send(self, number: signal.Signals) -> None:
        """Send a signal; a process that has ended already is no error."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def wait(self, timeout_s: float) -> bool:
        """Whether the process ended within ``timeout_s``; a zombie counts as ended."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(max(0.0, timeout_s) * 1000))


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of the process that has ``pid`` now, zombies included; None when there is none."""
    fields = _stat_fields(pid)
    return None if fields is None else ProcessIdentity(pid, int(fields[19]))


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether that very process is there and has not ended (a zombie has)."""
    fields = _stat_fields(identity.pid)
    return fields is not None and int(fields[19]) == identity.start_ticks and fields[0] not in ("Z", "X")


@contextmanager
def opened(identity: ProcessIdentity) -> Iterator[OpenProcess | None]:
    """That very process, or None when it has ended."""
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Only after the pidfd is held does the check hold too.
        yield OpenProcess(identity.pid, pidfd) if is_alive(identity) else None
    finally:
        os.close(pidfd)


def _stat_fields(pid: int) -> list[str] | None:
    """``/proc/PID/stat`` from field 3, the state; the name before it may hold spaces and brackets."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def memory_file(data: bytes) -> int:
    """A descriptor of a file in memory, at its start: for a child's standard input.

    A pipe blocks at 64 KiB until the new interpreter reads, and breaks if that dies. The caller closes it.
    """
    descriptor = os.memfd_create("servekit")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def own_sys_path() -> list[str]:
    """Where this process finds modules beyond its interpreter's own folders, absolute: a worker is to find them too."""
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    installed |= {os.path.join(sysconfig.get_path("platstdlib"), "lib-dynload")}
    entries = (os.path.abspath(entry or os.getcwd()) for entry in sys.path)
    return [entry for entry in dict.fromkeys(entries) if entry not in installed and not entry.endswith(".zip")]


def extend_sys_path(entries: Iterable[str]) -> None:
    """Let this process find modules where another does: what its `own_sys_path` gave, before what is here."""
    sys.path[:0] = [entry for entry in entries if entry not in sys.path]

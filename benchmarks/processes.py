"""Starts, watches and ends one server at a time, with every process that comes of it.

This process is made a subreaper (``prctl(2)``): what a server's processes leave behind becomes its child. So, whatever
they do to daemonize, "every descendant of this process" is the server's whole tree.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.servers import FOLDER, Call, Peer

START_TIMEOUT_S = 90.0
STOP_GRACE_S = 5.0
POLL_S = 0.01
PR_SET_CHILD_SUBREAPER = 36


class ServerError(Exception):
    """A server did not start, or did not answer as it should; the message says why."""


def become_subreaper() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class Server:
    """A started server. ``start_s`` is the time from its start to its first answer."""

    def __init__(self, peer: Peer, python: str, handler: str, replicas: int, scratch: Path) -> None:
        """Start it, and return once it has answered. ``scratch`` is its home directory. Raises `ServerError`."""
        self.peer = peer
        self.handler = handler
        self.replicas = replicas
        self.port = free_port()
        self._log = scratch / f"{peer.name}.log"
        environment = {**os.environ, **peer.environment, "HOME": str(scratch), "PYTHONUNBUFFERED": "1"}
        began = time.monotonic()
        with self._log.open("wb") as log:
            self._leader = subprocess.Popen(
                peer.command(python, handler, self.port, replicas),
                cwd=FOLDER,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._await_answer(peer.call(handler, size=100))
        except BaseException:
            self.stop()
            raise
        self.start_s = time.monotonic() - began

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask the leader to end, then kill what is left of the tree; everything is gone when this returns."""
        self._leader.terminate()
        wait_until(lambda: self._leader.poll() is not None, STOP_GRACE_S)
        if not wait_until(kill_tree, STOP_GRACE_S):
            raise ServerError(f"processes {tree()} of {self.peer.name} do not end by SIGKILL")

    def memory_mb(self) -> float:
        """Proportional set size of the whole tree: shared pages count once, in parts."""
        return tree_memory_mb()

    def cpu_s(self) -> float:
        """CPU time that the whole tree has used so far."""
        return sum(cpu_s(pid) for pid in tree())

    def _await_answer(self, call: Call) -> None:
        """Poll until the call gets its 200."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            found = self._try(call)
            if found == "200":
                return
            if self._leader.poll() is not None:
                raise ServerError(f"it ended with exit code {self._leader.returncode}: {self.log_end()}")
            if time.monotonic() > deadline:
                raise ServerError(f"no 200 within {START_TIMEOUT_S:.0f} s, but {found}: {self.log_end()}")
            time.sleep(POLL_S)

    def _try(self, call: Call) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(call.method, call.path, call.body, call.headers)
            answer = connection.getresponse()
            answer.read()
            return str(answer.status)
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        finally:
            connection.close()

    def log_end(self) -> str:
        """The last words that the server wrote, on one line."""
        return " ".join(self._log.read_text(errors="replace").split())[-300:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def kill_tree() -> bool:
    """Kill every descendant and collect those that have ended; returns whether none is left."""
    for pid in tree():
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(pid, signal.SIGKILL)
    for pid, (parent, _) in stats().items():
        if parent == os.getpid():
            with contextlib.suppress(ChildProcessError):  # subprocess has collected it
                os.waitpid(pid, os.WNOHANG)
    return not tree()


def tree() -> list[int]:
    """Every descendant of this process that has not ended."""
    processes = stats()
    found: list[int] = []
    parents = {os.getpid()}
    while parents:
        children = {pid for pid, (parent, _) in processes.items() if parent in parents}
        found += [pid for pid in children if processes[pid][1][0] != "Z"]
        parents = children
    return found


def tree_memory_mb() -> float:
    """Proportional set size of every descendant of this process: shared pages count once, in parts."""
    return sum(pss_bytes(pid) for pid in tree()) / 1e6


def stats() -> dict[int, tuple[int, list[str]]]:
    """Parent, and the fields of ``/proc/PID/stat`` from the state on (proc(5)), by pid."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        found[int(path.parent.name)] = (int(fields[1]), fields)
    return found


def cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def bytes_read(pid: int) -> int:
    """What the process has read so far, from files and connections alike: ``rchar`` of ``/proc/PID/io`` (proc(5))."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise ValueError(f"/proc/{pid}/io has no rchar")

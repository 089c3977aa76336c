"""A local Ray in a keeper process, from the side of its owner."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from servekit.errors import InstanceStartError
from servekit.processes import ProcessIdentity, identify, is_alive, module_command, opened

START_TIMEOUT_S = 60.0
"""How long a local Ray may take to start; 5 s are usual."""
END_TIMEOUT_S = 15.0
"""How long it may take to shut down; 2 s are usual."""


class _Record(msgspec.Struct):
    pid: int
    start_ticks: int
    address: str


@dataclass
class Keeper:
    """A keeper process whose Ray is up."""

    address: str
    identity: ProcessIdentity
    child: subprocess.Popen[bytes] | None = None
    """Set when this process started it."""

    @classmethod
    def recorded(cls, path: Path) -> Keeper | None:
        """The one that `record` left at ``path``, if that very process is still there."""
        try:
            found = msgspec.json.decode(path.read_bytes(), type=_Record)
        except FileNotFoundError:
            return None
        keeper = cls(found.address, ProcessIdentity(found.pid, found.start_ticks))
        return keeper if keeper.alive() else None

    def alive(self) -> bool:
        return is_alive(self.identity)

    def record(self, path: Path) -> None:
        """Leave word for a later process, whole or not at all."""
        partial = path.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(_Record(*self.identity, self.address)))
        partial.replace(path)

    def end(self) -> None:
        """Take its Ray down; returns when it is gone. One that takes longer than `END_TIMEOUT_S` is killed."""
        with opened(self.identity) as process:
            if process is not None:
                process.send(signal.SIGTERM)
                if not process.wait(END_TIMEOUT_S):
                    process.send(signal.SIGKILL)
                    process.wait(END_TIMEOUT_S)
        if self.child is not None:
            self.child.poll()  # reaps it


class StartingKeeper:
    """A keeper whose Ray is on its way up.

    Args:
        directory: where its log goes.
        arguments: for ``ray.init``.
        owned: it ends with this process, however that ends; otherwise it stays until `Keeper.end`.
    """

    def __init__(self, directory: str, arguments: Mapping[str, Any], *, owned: bool) -> None:
        self._log = Path(directory) / "ray-keeper.log"
        self._report, report = os.pipe()
        pidfd = os.pidfd_open(os.getpid())
        told = {"report_fd": report, "owner_pidfd": pidfd, "owned": owned, "ray_init": dict(arguments)}
        try:
            with self._log.open("wb") as output:
                self._child = subprocess.Popen(
                    module_command("servekit_ray.keeper", json.dumps(told)),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(report, pidfd),
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._report)
            raise
        finally:
            os.close(report)
            os.close(pidfd)

    def wait(self) -> Keeper:
        """Once its Ray is up; raises `InstanceStartError` with what Ray said, or after `START_TIMEOUT_S`."""
        try:
            answer = _read_all(self._report, START_TIMEOUT_S)
        finally:
            os.close(self._report)
        identity = identify(self._child.pid)
        assert identity is not None  # a child stays in /proc until it is reaped
        keeper = Keeper("", identity, self._child)
        told = json.loads(answer) if answer else {"error": f"it died, or took longer than {START_TIMEOUT_S:g} s"}
        if "error" in told:
            keeper.end()
            raise InstanceStartError(f"a local Ray did not start: {told['error']} (see {self._log})")
        keeper.address = told["address"]
        return keeper


def _read_all(fd: int, timeout_s: float) -> bytes:
    """What arrives until the other end closes; nothing when that takes too long."""
    deadline = time.monotonic() + timeout_s
    chunks: list[bytes] = []
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        chunk = os.read(fd, 65536)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
    return b""

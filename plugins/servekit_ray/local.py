"""The owner's side of a keeper, the process that holds a local Ray."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servekit.errors import InstanceStartError
from servekit.processes import ProcessIdentity, end_group, identify, is_alive, module_command, opened

START_TIMEOUT_S = 60.0
"""The time that a local Ray may take to start; 5 s are usual."""
END_TIMEOUT_S = 15.0
"""The time that a local Ray may take to shut down; 2 s are usual."""


@dataclass
class Keeper:
    """A keeper whose Ray is running."""

    address: str
    identity: ProcessIdentity
    child: subprocess.Popen[bytes] | None = None
    """Set where this process has started the keeper."""

    def alive(self) -> bool:
        return is_alive(self.identity)

    def end(self, grace_s: float = END_TIMEOUT_S) -> None:
        """End the keeper and its Ray, and return when the keeper has ended. After ``grace_s`` it is killed."""
        with opened(self.identity) as process:
            if process is not None:
                process.end(grace_s, END_TIMEOUT_S)
        end_group(self.identity)  # Ray's agents would stay for minutes where the keeper was killed.
        if self.child is not None:
            self.child.poll()  # reaps it


class StartingKeeper:
    """A keeper that is starting its Ray.

    Args:
        directory: the folder for the keeper's log.
        arguments: the arguments of ``ray.init``.
        environ: the keeper's environment.
        owned: True: the keeper ends with this process, however that ends; False: it stays until `Keeper.end`.
    """

    def __init__(
        self, directory: str, arguments: Mapping[str, Any], environ: Mapping[str, str], *, owned: bool
    ) -> None:
        self._log = Path(directory) / "ray-keeper.log"
        self._report, report = os.pipe()
        pidfd = os.pidfd_open(os.getpid())
        told = {
            "instance": Path(directory).name,
            "report_fd": report,
            "owner_pidfd": pidfd,
            "owned": owned,
            "ray_init": dict(arguments),
        }
        try:
            with self._log.open("ab") as output:
                self._child = subprocess.Popen(
                    module_command("servekit_ray.keeper", json.dumps(told)),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environ,
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
        """Wait until the Ray is running. Raises `InstanceStartError` with Ray's message, or after `START_TIMEOUT_S`."""
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
    """All bytes up to the end of the pipe; empty where the end does not come in time."""
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

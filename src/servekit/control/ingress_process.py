"""An ingress worker in a process of its own: started by this controller, or found again after an earlier one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import msgspec

from servekit.private_folders import write_private
from servekit.processes import ProcessIdentity, end_group, exit_reason, identify, is_alive, start_module
from servekit.wire.bootstrap import WorkerBootstrap, pack


class IngressSubprocess:
    """A started worker, held by a pidfd: after an earlier controller it is no child of this one."""

    def __init__(self, identity: ProcessIdentity, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = identity.pid
        self._identity = identity
        self._child = child
        self._pidfd = os.pidfd_open(self.pid)
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended.set)

    async def wait(self) -> str:
        await self._ended.wait()
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        end_group(self._identity)  # What a routing policy has started, say.
        if self._child is None:
            return "ended"
        return exit_reason(self._child.wait())

    def kill(self) -> None:
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


async def launch(bootstrap: WorkerBootstrap) -> IngressSubprocess:
    """The worker that an earlier controller of this instance left running, else a new one."""
    record = Path(bootstrap.directory) / f"{bootstrap.worker_id}.json"
    if record.exists():
        identity = msgspec.json.decode(record.read_bytes(), type=ProcessIdentity)
        if is_alive(identity):
            return IngressSubprocess(identity)
    assert bootstrap.http is not None
    child = start_module("servekit.worker", pack(bootstrap), pass_fds=[bootstrap.http.listen_fd])
    started = identify(child.pid)
    assert started is not None, "a child is in /proc until it is waited for"
    write_private(record, msgspec.json.encode(started))
    return IngressSubprocess(started, child)

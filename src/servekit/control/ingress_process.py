"""An ingress worker in a process of its own, which this controller or an earlier one has started."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import signal
import subprocess
from pathlib import Path

import msgspec

from servekit.errors import InstanceStartError
from servekit.output import printing_into
from servekit.private_folders import write_private
from servekit.processes import ProcessIdentity, end_group, exit_reason, identify, is_alive, start_module
from servekit.wire.bootstrap import WorkerBootstrap, pack
from servekit.wire.frames import PROTOCOL_VERSION

_log = logging.getLogger("servekit.control")


class IngressRecord(msgspec.Struct, array_like=True, frozen=True):
    """The file by which a later controller finds the worker."""

    pid: int
    start_ticks: int
    protocol: int = 0
    """The `PROTOCOL_VERSION` of its links; 0: from a time when that was not recorded."""

    @property
    def identity(self) -> ProcessIdentity:
        return ProcessIdentity(self.pid, self.start_ticks)


class IngressSubprocess:
    """A started worker, watched by a pidfd: one that an earlier controller started is no child of this process."""

    def __init__(
        self, identity: ProcessIdentity, child: subprocess.Popen[bytes] | None = None, *, replaces: bool = False
    ) -> None:
        self.pid = identity.pid
        self.replaces = replaces
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
        end_group(self._identity)  # A routing policy may have started some.
        if self._child is None:
            return "how is not known, for an earlier controller had started it"
        return exit_reason(self._child.wait())

    def kill(self) -> None:
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


async def launch(bootstrap: WorkerBootstrap) -> IngressSubprocess:
    """Return the worker that an earlier controller of this instance left running, or else start one. Raises
    ``OSError``."""
    record = Path(bootstrap.directory) / f"{bootstrap.worker_id}.json"
    found = recorded(record)
    if found is not None and is_alive(found.identity):
        return IngressSubprocess(found.identity)
    assert bootstrap.http is not None
    told, passed = pack(bootstrap), [*filter(None, [bootstrap.http.listen_fd])]
    with printing_into(bootstrap.logs.directory, bootstrap.names) as output:
        child = start_module("servekit.worker", told, pass_fds=passed, output=output)
    started = identify(child.pid)
    assert started is not None, "a child is in /proc until it is waited for"
    try:
        write_private(record, msgspec.json.encode(IngressRecord(*started, PROTOCOL_VERSION)))
    except OSError as error:
        # A controller after this one starts another, and tells this one to end, which dials it under the same id.
        _log.warning("ingress %s serves, but is not recorded: %s", bootstrap.worker_id, error)
    return IngressSubprocess(started, child, replaces=found is not None)


def check_version(directory: str, name: str) -> None:
    """Raise `InstanceStartError` where workers are there that another version of servekit has started: they serve on,
    and nobody here could speak with them."""
    for found in all_recorded(directory):
        if found.protocol != PROTOCOL_VERSION and is_alive(found.identity):
            named = shlex.quote(name)
            raise InstanceStartError(
                "the workers of this instance were started by another version of servekit (link protocol "
                f"{found.protocol or 'unknown'}, {PROTOCOL_VERSION} here), and serve on without a controller. Stop and "
                f"start it, which keeps what is served: servekit stop --name {named}; servekit start --name {named}"
            )


def all_recorded(directory: str) -> list[IngressRecord]:
    """The ingress workers of the instance in this directory, as far as their files say which they are."""
    return [found for path in Path(directory).glob("ingress*.json") if (found := recorded(path)) is not None]


def recorded(record: Path) -> IngressRecord | None:
    """The worker that an earlier controller has started; None where its file says nothing."""
    try:
        return msgspec.json.decode(record.read_bytes(), type=IngressRecord)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        _log.warning("ingress %s is started anew, for %s is damaged: %s", record.stem, record, error)
        return None

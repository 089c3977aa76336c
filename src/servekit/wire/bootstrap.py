"""The message that a worker process is started with: on its standard input, never in argv or the environment."""

from __future__ import annotations

import msgspec

from servekit.config import HttpLimits
from servekit.logs import LogSetup
from servekit.processes import ProcessIdentity
from servekit.wire.control_frames import PluginRef


class WorkerBootstrap(msgspec.Struct):
    """All that a worker needs to find the controller and to prove that it is a worker of the instance."""

    kind: str
    """``replica`` or ``ingress``."""
    worker_id: str
    token: bytes
    control: list[str]
    """The controller's addresses, the nearest first."""
    directory: str
    """The instance's directory on the controller's machine; a worker elsewhere has none of its own."""
    orphan_timeout_s: float
    """How long the worker goes on without a controller."""
    busy_poll_s: float = 0.0
    """How long the worker's data loop looks for more work before it sleeps."""
    http: IngressBootstrap | None = None
    title: str = ""
    """Of the process: see `set_title`."""
    keeper: ProcessIdentity | None = None
    """The process of this machine that starts the controller again: the worker goes on as long as it does, however long
    it takes."""
    backend: str = ""
    """A replica's."""
    logs: LogSetup = LogSetup()

    @property
    def names(self) -> dict[str, str]:
        """What the worker's lines in the log say of it."""
        if self.kind == "replica":
            return {"role": self.kind, "backend": self.backend, "replica": self.worker_id}
        return {"role": self.kind, "worker": self.worker_id}


class IngressBootstrap(msgspec.Struct):
    """The part for ingress workers alone."""

    listen_fd: int | None
    """The listening socket, which the controller has as well; None: there is no HTTP."""
    limits: HttpLimits
    sys_path: list[str]
    hooks: list[str]
    """Import paths of the ``servekit_requests_finished`` implementations."""
    trusted_proxies: tuple[str, ...] = ()
    access_log: bool = False
    observers: list[PluginRef] = []


def pack(bootstrap: WorkerBootstrap) -> bytes:
    return msgspec.msgpack.encode(bootstrap)


def unpack(data: bytes) -> WorkerBootstrap:
    return msgspec.msgpack.decode(data, type=WorkerBootstrap)

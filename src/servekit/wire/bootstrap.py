"""What a worker process is told when it starts: over a pipe, never in argv or the environment."""

from __future__ import annotations

import msgspec

from servekit.config import HttpLimits


class WorkerBootstrap(msgspec.Struct):
    """Enough to find the controller and to be believed by it."""

    kind: str
    """``replica`` or ``ingress``."""
    worker_id: str
    instance_id: str
    token: bytes
    control: list[str]
    """The controller's addresses, the nearest first."""
    directory: str
    """The instance's directory on the controller's machine; a worker elsewhere has none of its own."""
    orphan_timeout_s: float
    """How long to go on without a controller."""
    busy_poll_s: float = 0.0
    """How long its data loop looks for more work before it sleeps."""
    http: IngressBootstrap | None = None


class IngressBootstrap(msgspec.Struct):
    """What only an ingress worker needs."""

    listen_fd: int
    """The listening socket, which the controller keeps too."""
    limits: HttpLimits
    sys_path: list[str]
    observers: list[str]
    """Import paths of the ``servekit_requests_finished`` implementations."""


def pack(bootstrap: WorkerBootstrap) -> bytes:
    return msgspec.msgpack.encode(bootstrap)


def unpack(data: bytes) -> WorkerBootstrap:
    return msgspec.msgpack.decode(data, type=WorkerBootstrap)

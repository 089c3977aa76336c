"""What the controller and its replicas say to each other on the control links."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from servekit.config import config_digest
from servekit.control import user_config
from servekit.control.plan import ReplicaState
from servekit.control.replica import Replica
from servekit.control.state import BackendRecord
from servekit.errors import BackendStartError, ServekitError
from servekit.interfaces import ReplicaEvent
from servekit.wire.control_frames import (
    BLOB_PIECE_BYTES,
    Assign,
    Blob,
    Capabilities,
    Drain,
    Ingresses,
    Ready,
    Reconfigured,
    Report,
    StartFailed,
    Unhealthy,
    WorkerHello,
)
from servekit.wire.link import Link


class ReplicaLinks:
    """The half of `ReplicaFleet` that is on the links: it tells replicas what to serve, and hears how they are."""

    def __init__(
        self,
        blobs: Callable[[BackendRecord, bool], Awaitable[tuple[bytes, bytes]]],
        changed: Callable[[], None],
        observe: Callable[[ReplicaEvent], None],
        *,
        debug: bool,
    ) -> None:
        self._blobs = blobs
        self._changed = changed
        self._observe = observe
        self._debug = debug
        self.replicas: dict[str, Replica] = {}
        self.ingresses: Callable[[], list[list[str]]] = list
        """Where handles dial: the addresses of each ingress worker."""
        self.unhealthy: Callable[[Replica, str], None] = lambda replica, reason: None
        """Told of each replica whose handler's ``check_health()`` failed, and how."""

    async def link_opened(self, link: Link, hello: WorkerHello) -> None:
        """A replica has dialled: tell it what to serve, unless it does already."""
        replica = self.replicas.get(hello.worker_id)
        if replica is None:
            link.send(Drain(0.0))
            return
        replica.link, replica.pid, replica.node = link, hello.pid, hello.node
        replica.moved.set()
        if hello.ready:
            replica.user_config.digest = hello.user_config
            self._ready(replica, hello.addresses, hello.capabilities, serves=True)
            link.send(Ingresses(self._ingresses_for(replica)))
            return
        record = replica.record
        try:
            # Only what is on this machine dials a Unix socket, or memory.
            target, code = await self._blobs(record, isinstance(link.local_address, tuple))
        except ServekitError as error:
            replica.failure = error
            replica.moved.set()
            return
        if not replica.user_config.digest:  # One that lost its link as it was built goes on with the first.
            replica.user_config.digest = config_digest(record.config.user_config)
        link.send(
            Assign(
                record.name,
                len(target),
                list(record.sys_path),
                record.cwd,
                record.adapter_ref,
                record.config,
                self._debug,
                self._ingresses_for(replica),
                record.code,
                len(code),
            )
        )
        blob = target + code
        for at in range(0, len(blob), BLOB_PIECE_BYTES):
            link.send(Blob(blob[at : at + BLOB_PIECE_BYTES]))
            link.flush()

    def tell_ingresses(self) -> None:
        """The addresses of ingress workers have changed: handles in replicas are to dial those."""
        for replica in self.replicas.values():
            if replica.link is not None:
                replica.link.send(Ingresses(self._ingresses_for(replica)))

    def _ingresses_for(self, replica: Replica) -> list[list[str]]:
        if replica.runtime.local_links:
            return self.ingresses()
        remote = [[each for each in addresses if each.startswith("tcp:")] for addresses in self.ingresses()]
        return [addresses for addresses in remote if addresses]

    def frame_received(self, replica_id: str, frame: object) -> None:
        replica = self.replicas.get(replica_id)
        if replica is None:
            return
        if isinstance(frame, Report):
            replica.report = frame
        elif isinstance(frame, Ready):
            self._ready(replica, frame.addresses, frame.capabilities)
        elif isinstance(frame, StartFailed) and replica.failure is None:  # Or else it fails of being stopped.
            replica.failure = BackendStartError(
                f"backend {replica.record.name!r}: its handler {replica.record.target_text} could not be built; "
                f"in the replica:\n\n{frame.message}"
            )
            replica.moved.set()
        elif isinstance(frame, Reconfigured):
            self._reconfigured(replica, frame)
        elif isinstance(frame, Unhealthy) and replica.state is ReplicaState.READY:
            self.unhealthy(replica, frame.reason)

    def link_lost(self, replica_id: str, link: Link) -> None:
        replica = self.replicas.get(replica_id)
        if replica is not None and replica.link is link:
            replica.link = None
            replica.user_config.sent = None
            replica.moved.set()

    def _ready(
        self, replica: Replica, addresses: list[str], capabilities: Capabilities, *, serves: bool = False
    ) -> None:
        replica.addresses, replica.capabilities = tuple(addresses), capabilities
        replica.is_built = True
        user_config.bring(replica)
        if serves or user_config.has_todays(replica):  # What serves already goes on, with whatever it has.
            self._advance(replica)

    def _reconfigured(self, replica: Replica, frame: Reconfigured) -> None:
        user_config.answered(replica, frame)
        refusal = user_config.refused_todays(replica)
        if refusal and replica.state is ReplicaState.STARTING:
            replica.failure = user_config.refused(replica.record, refusal)
            replica.moved.set()
            return
        user_config.bring(replica)
        if replica.is_built and user_config.has_todays(replica):
            self._advance(replica)
        self._changed()

    def _advance(self, replica: Replica) -> None:
        replica.known.set()
        if replica.state is ReplicaState.STARTING:
            replica.state = ReplicaState.READY
            replica.ready_at = time.monotonic()
            self._tell(replica)
            self._changed()
        replica.moved.set()

    def _tell(self, replica: Replica, state: str = "", reason: str = "") -> None:
        self._observe(ReplicaEvent(replica.record.name, replica.id, state or replica.state.value, reason))

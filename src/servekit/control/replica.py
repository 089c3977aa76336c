"""What the controller knows of one replica."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from servekit.control.plan import ReplicaFacts, ReplicaState
from servekit.control.state import BackendRecord
from servekit.errors import ServekitError
from servekit.interfaces import ReplicaRuntime, WorkerHandle
from servekit.wire.control_frames import Capabilities, ReplicaEntry, Report
from servekit.wire.link import Link

FIRST_POLL_S = 0.002
"""Until the first look at a worker whose control link is not there; later looks are further apart."""


class Taken:
    """Which ``user_config`` a replica's handler has, by its digest; and which it was sent."""

    def __init__(self) -> None:
        self.digest = b""
        """Empty: nobody knows."""
        self.number = int.from_bytes(os.urandom(4), "big")
        """Of the last one sent; an answer to an earlier controller must not pass for one to this."""
        self.sent: tuple[int, bytes] | None = None
        """Number and digest of what it has not answered yet."""
        self.refused: tuple[bytes, str] | None = None
        """The digest of what it raised on last, and the traceback."""


class Replica:
    """What the controller knows of one replica. One task owns it, from start to end."""

    def __init__(self, replica_id: str, record: BackendRecord, number: int) -> None:
        self.id = replica_id
        self.record = record
        self.number = number
        self.state = ReplicaState.STARTING
        self.runtime: ReplicaRuntime
        self.handle: WorkerHandle | None = None
        self.link: Link | None = None
        self.moved = asyncio.Event()
        """Something was heard of it: a state, or the loss of its link."""
        self.known = asyncio.Event()
        """It is ready, or gone."""
        self.failure: ServekitError | None = None
        self.pid = 0
        self.node = ""
        self.addresses: tuple[str, ...] = ()
        self.capabilities = Capabilities()
        self.is_built = False
        """It listens. It is ready once it has the ``user_config`` of today as well."""
        self.user_config = Taken()
        self.is_attached = False
        """An earlier controller started it."""
        self.started_at = time.time()
        self.ready_at = 0.0
        self.report = Report()
        self.told_to_go = asyncio.Event()
        self.drain_timeout_s = 0.0
        self.overdue = False
        """It was told to go and did not within that time."""
        self.poll_s = FIRST_POLL_S

    @property
    def facts(self) -> ReplicaFacts:
        return ReplicaFacts(self.id, self.record.name, self.record.revision, self.state, self.number)

    @property
    def may_have_calls(self) -> bool:
        """Whether ingress workers may have links to it, now or from an earlier controller's time."""
        return bool(self.ready_at) or self.is_attached

    @property
    def entry(self) -> ReplicaEntry:
        return ReplicaEntry(self.id, self.node, self.addresses, self.capabilities)


def replica_status(replica: Replica, outstanding: int) -> dict[str, Any]:
    """One replica, for `servekit.status()`."""
    return {
        "id": replica.id,
        "state": replica.state.value,
        "pid": replica.pid,
        "node": replica.node,
        "outstanding": outstanding,
        "busy_s": round(replica.report.busy_s, 3),
        "started": replica.started_at,
        "revision": replica.record.revision,
    }

"""What a change waits for: that the world has become what was asked for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from servekit.control import user_config
from servekit.control.failures import Failures
from servekit.control.ingresses import IngressFleet
from servekit.control.plan import ReplicaState
from servekit.control.replica import Replica
from servekit.control.replicas import ReplicaFleet
from servekit.control.scaling import Autoscalers
from servekit.control.state import BackendRecord, Desired
from servekit.errors import DeadlineError


class Waits:
    """Each looks again at every ``progress``. One for a record ends as well when that is no longer what is desired."""

    def __init__(
        self, ingresses: IngressFleet, replicas: ReplicaFleet, autoscalers: Autoscalers, desired: Callable[[], Desired]
    ) -> None:
        self._ingresses = ingresses
        self._replicas = replicas
        self._autoscalers = autoscalers
        self._desired = desired
        self.progress = asyncio.Event()

    async def ready(self, record: BackendRecord, failures: Failures) -> None:
        """Until as many replicas as asked for are ready and known to every ingress worker. Raises the first failure."""
        seen = failures.start_error
        while self._desired().backends.get(record.name) is record:
            if len(self._ready(record)) >= self._autoscalers.replicas(record):
                await self._ingresses.wait_applied(self._ingresses.version)
                return
            if failures.start_error is not None and failures.start_error is not seen:
                raise failures.start_error
            self.progress.clear()
            await self.progress.wait()

    async def taken(self, record: BackendRecord, timeout_s: float) -> None:
        """Until every ready replica of the revision has the record's ``user_config``. Raises the first refusal.

        One that takes longer than ``timeout_s`` is replaced.
        """
        ends = time.monotonic() + timeout_s
        while self._desired().backends.get(record.name) is record:
            own = self._ready(record)
            for replica in own:
                if trace := user_config.refused_todays(replica):
                    raise user_config.refused(record, trace)
            late = [replica for replica in own if not user_config.has_todays(replica)]
            if not late:
                return
            if time.monotonic() >= ends:
                for replica in late:
                    self._replicas.unhealthy(replica, f"reconfigure() did not return within {timeout_s:g} s")
                raise DeadlineError(f"backend {record.name!r}: reconfigure() did not return within {timeout_s:g} s")
            self.progress.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.progress.wait(), ends - time.monotonic())

    async def gone(self, backend: str) -> None:
        """Until those of its replicas that are on their way out have ended; the name may be taken again already."""
        while any(replica.state is ReplicaState.DRAINING for replica in self._replicas.of(backend)):
            self.progress.clear()
            await self.progress.wait()

    def _ready(self, record: BackendRecord) -> list[Replica]:
        return [
            replica
            for replica in self._replicas.of(record.name)
            if replica.record.revision == record.revision and replica.state is ReplicaState.READY
        ]

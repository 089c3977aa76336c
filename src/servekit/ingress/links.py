"""Keeps a link to every replica of the snapshot: dials, and dials again while the snapshot has the replica."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set

from servekit.ingress.backend import Replica
from servekit.wire.data_links import DataLinks

_log = logging.getLogger("servekit.ingress")

FIRST_DIAL_TIMEOUT_S = 2.0
"""How long applying a snapshot waits for the links to its new replicas."""


class ReplicaLinks:
    """One task per replica, from the snapshot that brings the replica to the one that takes it away."""

    def __init__(self, links: DataLinks) -> None:
        self._links = links
        self._tasks: dict[Replica, asyncio.Task[None]] = {}

    async def open(self, replicas: list[Replica]) -> None:
        """Begin to keep links to these replicas; return when each was dialled once, or after `FIRST_DIAL_TIMEOUT_S`."""
        if not replicas:
            return
        loop = asyncio.get_running_loop()
        dialled: list[asyncio.Future[None]] = []
        for replica in replicas:
            dialled.append(loop.create_future())
            task = self._tasks[replica] = loop.create_task(self._keep(replica, dialled[-1]))
            task.add_done_callback(lambda _, replica=replica: self._tasks.pop(replica, None))  # type: ignore[misc]
        await asyncio.wait(dialled, timeout=FIRST_DIAL_TIMEOUT_S)

    def keep_only(self, replica_ids: Set[str]) -> Set[str]:
        """The processes of all other replicas have ended: their links are lost, whoever else holds the sockets.

        Returns the ids of those whose links had not ended.
        """
        ended = {replica: replica.calls.link for replica in self._tasks if replica.id not in replica_ids}
        for link in ended.values():
            if link is not None:
                link.peer_ended()
        return {replica.id for replica in ended}

    async def close(self) -> None:
        """End every task; links still open are closed, after what they were to send."""
        tasks = list(self._tasks.items())
        for replica, task in tasks:
            task.cancel()
            if replica.calls.link is not None:
                replica.calls.link.close()
        await asyncio.gather(*(task for _, task in tasks), return_exceptions=True)
        for replica, _ in tasks:
            if replica.calls.link is not None:
                replica.calls.link.abort()  # The replica hangs, and does not read.

    async def _keep(self, replica: Replica, dialled: asyncio.Future[None]) -> None:
        def tried(error: OSError | None) -> None:
            if not dialled.done():
                dialled.set_result(None)
            if error is not None:
                _log.debug("replica %s cannot be reached yet: %s", replica.id, error)

        await replica.calls.keep_linked(
            self._links,
            lambda: replica.addresses,
            wanted=lambda: not replica.retired,
            tried=tried,
            companion=lambda: replica.companions,
        )

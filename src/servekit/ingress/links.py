"""Keeps a link to every replica of the snapshot: dials, and dials again while the snapshot has it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set

from servekit.ingress.replica import Replica
from servekit.wire.data_links import DataLinks
from servekit.wire.network import Network

_log = logging.getLogger("servekit.ingress")

FIRST_DIAL_TIMEOUT_S = 2.0
"""How long applying a snapshot waits for the links to its new replicas."""


class ReplicaLinks:
    """One task per replica, from the snapshot that brings it to the one that takes it away."""

    def __init__(self, network: Network, links: DataLinks) -> None:
        self._network = network
        self._links = links
        self._tasks: dict[Replica, asyncio.Task[None]] = {}

    async def open(self, replicas: list[Replica]) -> None:
        """Begin to keep these; return when each was dialled once, or after `FIRST_DIAL_TIMEOUT_S`."""
        if not replicas:
            return
        tried = []
        for replica in replicas:
            event = asyncio.Event()
            tried.append(asyncio.ensure_future(event.wait()))
            task = asyncio.ensure_future(self._keep(replica, event))
            self._tasks[replica] = task
            task.add_done_callback(lambda _, replica=replica: self._tasks.pop(replica, None))  # type: ignore[misc]
        _, late = await asyncio.wait(tried, timeout=FIRST_DIAL_TIMEOUT_S)
        for waiter in late:
            waiter.cancel()

    def keep_only(self, replica_ids: Set[str]) -> Set[str]:
        """The processes of all other replicas have ended: their links are lost, whoever else holds the sockets.

        Returns those whose links were there yet.
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

    async def _keep(self, replica: Replica, tried: asyncio.Event) -> None:
        def note(error: OSError | None) -> None:
            tried.set()
            if error is not None:
                _log.info("replica %s cannot be reached yet: %s", replica.id, error)

        await replica.calls.keep_linked(
            self._network, self._links, lambda: replica.addresses, wanted=lambda: not replica.retired, tried=note
        )

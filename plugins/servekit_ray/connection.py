"""The one connection of this process to Ray: made, made again when a local Ray is lost, and ended."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servekit.errors import InvalidInputError
from servekit.interfaces import RuntimeContext
from servekit_ray import cluster
from servekit_ray.local import Keeper, StartingKeeper

NODES_TTL_S = 1.0
"""How old the list of nodes may be."""


class Connection:
    """To the cluster at ``address``, or to a local Ray of its own, started with ``arguments`` for ``ray.init``."""

    def __init__(self, address: str | None, arguments: Mapping[str, Any]) -> None:
        self._address = address
        self._arguments = dict(arguments)
        self._keeper: Keeper | None = None
        self._connecting = threading.Lock()
        self._nodes: tuple[float, list[dict[str, Any]]] = (0.0, [])
        self.generation = 0
        """Grows with every Ray that this is connected to: what an earlier one hosted is gone."""
        self.node_id = ""
        """Ray's name for this machine."""

    def open(self, context: RuntimeContext) -> None:
        """Raises a `ServekitError` where there is no Ray to be had, within about a minute."""
        cluster.require_unused_ray()
        # Without this, a call after `close` would make Ray start one all by itself.
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
        self._context = context
        with self._connecting:
            self._connect()

    def close(self) -> None:
        """A local Ray ends with it."""
        import ray

        with self._connecting:
            self.generation += 1
            ray.shutdown()
            if self._keeper is not None:
                self._keeper.end()
                self._keeper = None

    def renew(self) -> None:
        """Start the local Ray again, if it was lost: killed, for want of memory perhaps.

        Ray would end this process, 60 s after it lost its GCS.
        """
        import ray

        with self._connecting:
            if self._keeper is not None and not self._keeper.alive():
                self.generation += 1
                ray.shutdown()
                self._connect()

    def has(self, generation: int) -> bool:
        """Whether what was started in that generation can still be there."""
        return generation == self.generation and (self._keeper is None or self._keeper.alive())

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive, as of a second ago."""
        import ray

        read_at, nodes = self._nodes
        if not nodes or time.monotonic() - read_at > NODES_TTL_S:
            nodes = [node for node in ray.nodes() if node["Alive"]]
            self._nodes = (time.monotonic(), nodes)
        return nodes

    def _connect(self) -> None:
        address = cluster.choose_address(self._address, os.environ)
        if address is None:
            address = self._local_ray()
        elif self._arguments:
            raise InvalidInputError(
                f"ray_init and include_dashboard are for a local Ray; the cluster at {address} is running already"
            )
        elif cluster.has_token():
            cluster.use_tokens()
        try:
            cluster.attach(address)
        except BaseException:
            if self._keeper is not None:
                self._keeper.end()
            raise
        import ray

        self.node_id = ray.get_runtime_context().get_node_id()
        self._nodes = (0.0, [])

    def _local_ray(self) -> str:
        """The address of this instance's own Ray: started, or found again by a standing instance's next controller."""
        cluster.use_tokens()
        directory, standing = self._context.directory, self._context.standing
        record = Path(directory) / "ray.json"
        self._keeper = Keeper.recorded(record) if standing else None
        if self._keeper is None:
            starting = StartingKeeper(directory, {"include_dashboard": False, **self._arguments}, owned=not standing)
            import ray  # noqa: F401 - takes half a second, so meanwhile

            self._keeper = starting.wait()
            if standing:
                self._keeper.record(record)
        return self._keeper.address

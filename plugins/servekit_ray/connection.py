"""The one connection of this process to Ray: made, made again when a local Ray is lost, and ended."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from servekit.errors import InstanceStartError, InvalidInputError
from servekit.interfaces import RuntimeContext
from servekit.processes import ProcessIdentity, is_alive
from servekit_ray import cluster
from servekit_ray.driver import DriverRay
from servekit_ray.local import Keeper, StartingKeeper

LET_GO_TIMEOUT_S = 60.0
"""How long letting go of a dead Ray may take; 15 s were seen."""
NODES_TTL_S = 1.0
"""How old the list of nodes may be."""
WATCH_S = 0.25
"""Between two looks at the processes that a Ray ends with."""
SETTLE_S = 1.0
"""How long the calls that are under way when a Ray is lost are given: none survives that Ray is let go of."""


class Connection:
    """To a cluster, to the driver's Ray, or to a local Ray of its own, started with ``arguments`` for ``ray.init``.

    Args:
        address: as the user gave it: see `cluster.choose`.
    """

    def __init__(self, address: str | None, driver: DriverRay | None, arguments: Mapping[str, Any]) -> None:
        self._address = address
        self._driver = driver
        self._arguments = dict(arguments)
        self._keeper: Keeper | None = None
        self._vital: Sequence[ProcessIdentity] = ()
        """The processes that this Ray ends with; none of a cluster's."""
        self._connected = False
        self._letting_go: threading.Thread | None = None
        """Busy with a lost Ray, in the place of which there is no other yet."""
        self._connecting = threading.Lock()
        self._nodes: tuple[float, list[dict[str, Any]]] = (0.0, [])
        self.generation = 0
        """Grows with every Ray that this is connected to: what an earlier one hosted is gone."""
        self.node_id = ""
        """Ray's name for this machine."""
        self.words = ""
        """Which Ray it is."""

    def open(self, context: RuntimeContext) -> None:
        """Raises a `ServekitError` where there is no Ray to be had, within about a minute."""
        cluster.require_unused_ray()
        # Without this, a call after `close` would make Ray start one all by itself.
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
        # Without this, Ray ends a process at once that lets go of a dead Ray and whose parent has ended.
        os.environ["RAY_RAYLET_PID"] = str(os.getpid())
        self._context = context
        with self._connecting:
            self._connect()

    def close(self) -> None:
        """A local Ray ends with it."""
        with self._connecting:
            connected, self._connected, self._letting_go = self._connected, False, None
            self.generation += 1
            # To let go of a dead one takes up to 15 s, and this process is about to end.
            if connected and self._alive():
                cluster.detach()
            if self._keeper is not None:
                self._keeper.end()
                self._keeper = None

    def renew(self) -> None:
        """Start the local Ray again, if it was lost: killed, for want of memory perhaps.

        Raises:
            InstanceStartError: the driver's Ray was lost.
        """
        with self._connecting:
            if self._connected and not self._alive():
                self._lose()
            if self._letting_go is not None:
                self._connect()

    def has(self, generation: int) -> bool:
        """Whether what was started in that generation can still be there."""
        return generation == self.generation and self._alive()

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive, as of a second ago."""
        import ray

        read_at, nodes = self._nodes
        if not nodes or time.monotonic() - read_at > NODES_TTL_S:
            nodes = [node for node in ray.nodes() if node["Alive"]]
            self._nodes = (time.monotonic(), nodes)
        return nodes

    def _alive(self) -> bool:
        return all(map(is_alive, self._vital))

    def _connect(self) -> None:
        choice = cluster.choose(self._address, self._driver, os.environ)
        self.words = choice.words
        self._vital = ()
        if choice.address is None:
            self._keeper = self._local_ray()
            self._vital = [self._keeper.identity]
            self.words += f" {self._keeper.address}"
        else:
            self._join(choice)
        if self._letting_go is not None:
            self._letting_go.join(LET_GO_TIMEOUT_S)
        try:
            cluster.attach(self._keeper.address if self._keeper else choice.address or "")
        except BaseException:
            if self._keeper is not None:
                self._keeper.end()
            raise
        import ray

        self.node_id = ray.get_runtime_context().get_node_id()
        self._nodes = (0.0, [])
        self._connected = True
        self._letting_go = None
        if self._vital:
            threading.Thread(
                target=self._watch, args=(self.generation,), name="servekit-ray-watch", daemon=True
            ).start()

    def _join(self, choice: cluster.Choice) -> None:
        """Make ready to attach to a Ray that is there."""
        if self._arguments:
            raise InvalidInputError(
                f"ray_init and include_dashboard are for a local Ray, and it is to be {choice.words}, which is running "
                "already; address='local' starts one"
            )
        if choice.driver is not None:
            self._vital = choice.driver.processes
            if not self._alive():
                raise InstanceStartError(f"{choice.words}, has ended: this needs a new servekit.init()")
        if cluster.has_token() if choice.driver is None else choice.driver.tokens:
            cluster.use_tokens()

    def _lose(self) -> None:
        """Let go of a Ray that has ended: it would end this process, 60 s after it lost its GCS."""

        def let_go() -> None:
            time.sleep(SETTLE_S)
            cluster.detach()

        self._connected = False
        self.generation += 1
        self._letting_go = threading.Thread(target=let_go, name="ray-let-go", daemon=True)
        self._letting_go.start()

    def _watch(self, generation: int) -> None:
        """Notice the end of that Ray when nobody calls."""
        while self.has(generation):
            time.sleep(WATCH_S)
        with self._connecting:
            if generation == self.generation:
                self._lose()

    def _local_ray(self) -> Keeper:
        """This instance's own Ray: started, or found again by a standing instance's next controller."""
        cluster.use_tokens()
        directory, standing = self._context.directory, self._context.standing
        record = Path(directory) / "ray.json"
        keeper = Keeper.recorded(record) if standing else None
        if keeper is None:
            starting = StartingKeeper(directory, {"include_dashboard": False, **self._arguments}, owned=not standing)
            import ray  # noqa: F401 - takes half a second, so meanwhile

            keeper = starting.wait()
            if standing:
                keeper.record(record)
        return keeper

"""What the controller hears of its workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from servekit.interfaces import ReplicaEvent

if TYPE_CHECKING:
    from servekit.control.replica import ManagedReplica


class WorkerEvents(Protocol):
    """Implemented by the controller; given to the fleets at construction, and called on the controller's loop."""

    def changed(self) -> None:
        """A worker is in another state: the controller may have to do something."""

    def replica_state_changed(self, event: ReplicaEvent) -> None:
        """For plugins that observe replicas."""

    def replica_ended(self, replica: ManagedReplica) -> None:
        """The replica ended without having been told to; its ``failure`` says why."""

    def replica_unhealthy(self, replica: ManagedReplica, reason: str) -> None:
        """The replica serves, and its handler says that it cannot go on."""

    def requests_wait(self) -> None:
        """An ingress worker has requests that wait for a replica."""

    def addresses_changed(self) -> None:
        """Ingress workers are to be dialled by handles at other addresses than before."""

"""Which replicas of a backend have room for a copy of a request."""

from __future__ import annotations

from servekit.ingress.backend import Backend, Replica


def free_for_copies(backend: Backend) -> list[Replica]:
    """The replicas that a copy may go to without being in a live request's way."""
    if backend.waiting or backend.suspects.waiting:
        return []
    room = [replica for replica in backend.ready if replica.has_room]
    if not backend.endpoints:
        return room
    slots = sum(replica.slots for replica in backend.ready)
    idle = sum(max(0, replica.slots - replica.outstanding) for replica in backend.ready)
    return [replica for replica in room if replica.outstanding < replica.slots] if idle >= min(2, slots) else []

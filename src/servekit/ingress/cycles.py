"""Handlers that call handlers: which replicas a call may still go to, when some wait for that call themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servekit.ingress.backend import Backend
    from servekit.ingress.replica import Replica


def open_to(chain: Sequence[str], replicas: Sequence[Replica]) -> list[Replica]:
    """Those of ``replicas`` that have a slot beside the ones that the chain itself occupies until the call ends."""
    return [replica for replica in replicas if chain.count(replica.id) < replica.slots]


def way_of(chain: Iterable[str], backends: Iterable[Backend]) -> str:
    """The chain for people: ``'a' (r1-5f0c) → 'b' (r2-9d41)``."""
    names = {replica_id: backend.name for backend in backends for replica_id in backend.replicas}
    return " → ".join(
        f"{names[replica_id]!r} ({replica_id})" if replica_id in names else replica_id for replica_id in chain
    )

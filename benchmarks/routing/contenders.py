"""What is compared: servekit with each routing policy, by one and by two ingress workers, and Ray Serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import NO_REPORTS, PEERS, SERVEKIT, Peer

POLICIES = {
    "default": "weighted",
    "random": "policies:RandomReplica",
    "round-robin": "policies:RoundRobin",
    "reported": "policies:Reported",
    "expected": "policies:Expected",
}


@dataclass(frozen=True)
class Contender:
    """A server to be measured. ``arguments`` lack the folder in which its replicas agree on who is slow."""

    name: str
    arguments: str
    requirements: tuple[str, ...]
    ingress_workers: int = 1

    def peer(self, folder: Path) -> Peer:
        arguments = self.arguments.replace("FOLDER", str(folder))
        return Peer(self.name, arguments, self.requirements, ("uneven",), environment=NO_REPORTS)


RAY_SERVE = next(peer for peer in PEERS if peer.name == "rayserve")
CONTENDERS = (
    *(
        Contender(
            f"{name} x{workers}",
            f"uneven_servekit.py {policy} {workers} FOLDER {{port}} {{replicas}}",
            SERVEKIT,
            workers,
        )
        for name, policy in POLICIES.items()
        for workers in (1, 2)
    ),
    Contender("rayserve", "uneven_rayserve.py FOLDER {port} {replicas}", RAY_SERVE.requirements),
)
"""``x2``: two ingress workers."""

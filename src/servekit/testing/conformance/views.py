"""The views that a routing policy is given, without an ingress: for the conformance kit, and for tests of your own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, eq=False)
class FakeReplica:
    """A `ReplicaView`, read-only."""

    id: str
    outstanding: int = 0
    queue_length: int = 0
    node: str = "node"


@dataclass(frozen=True, eq=False)
class FakeBackend:
    """A `BackendView`, read-only."""

    name: str
    weight: float = 1.0
    replicas: Sequence[FakeReplica] = ()


@dataclass(frozen=True, eq=False)
class FakeRequest:
    """A `RequestInfo`, read-only like its headers."""

    headers: Mapping[str, str] = field(default_factory=dict)
    """The headers by lower-case name, as the core gives them."""
    method: str = "GET"
    path: str = "/"
    endpoint: str = "endpoint"
    id: str = "request"

    def __post_init__(self) -> None:
        if isinstance(self.headers, dict):
            object.__setattr__(self, "headers", MappingProxyType(self.headers))


class EveryHeader(Mapping[str, str]):
    """Headers in which every name that is looked up has the same value, as a client may send them on purpose."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __getitem__(self, name: str) -> str:
        return self._value

    def __iter__(self) -> Iterator[str]:
        return iter(("cookie", "authorization", "host", "user-agent", "x-request-id"))

    def __len__(self) -> int:
        return 5

    def __repr__(self) -> str:
        return f"every header: {self._value[:20]!r}"


def fake_backends(weights: Mapping[str, float], replicas: int = 1) -> list[FakeBackend]:
    """A `FakeBackend` of each name and weight, with ``replicas`` idle replicas ``name-1``, ``name-2`` …"""
    return [
        FakeBackend(name, weight, [FakeReplica(f"{name}-{number}") for number in range(1, replicas + 1)])
        for name, weight in weights.items()
    ]

"""Conformance kits: what every plugin of a kind must do, as test classes to derive from.

Nothing is imported before it is asked for: a package that tests a routing policy does not need what runtimes need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from servekit.testing.conformance.adapters import RequestAdapterTests
    from servekit.testing.conformance.exchanges import Seen
    from servekit.testing.conformance.judges import RolloutJudgeTests
    from servekit.testing.conformance.policies import RoutingPolicyTests
    from servekit.testing.conformance.runtimes import ReplicaRuntimeTests
    from servekit.testing.conformance.views import FakeBackend, FakeReplica, FakeRequest, fake_backends

__all__ = [
    "RoutingPolicyTests",
    "ReplicaRuntimeTests",
    "RequestAdapterTests",
    "RolloutJudgeTests",
    "FakeBackend",
    "FakeReplica",
    "FakeRequest",
    "fake_backends",
    "Seen",
]

_HOMES = {
    "RoutingPolicyTests": "policies",
    "ReplicaRuntimeTests": "runtimes",
    "RequestAdapterTests": "adapters",
    "RolloutJudgeTests": "judges",
    "FakeBackend": "views",
    "FakeReplica": "views",
    "FakeRequest": "views",
    "fake_backends": "views",
    "Seen": "exchanges",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

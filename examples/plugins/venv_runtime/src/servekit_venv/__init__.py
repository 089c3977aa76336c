"""The runtime ``venv``: replicas as child processes, each backend's in a virtual environment with its own packages."""

from __future__ import annotations

from collections.abc import Mapping

from servekit.hookspecs import hookimpl
from servekit.interfaces import ReplicaRuntimeFactory
from servekit_venv.runtime import VenvRuntime

__all__ = ["VenvRuntime"]


@hookimpl
def servekit_register_replica_runtimes() -> Mapping[str, ReplicaRuntimeFactory]:
    return {"venv": VenvRuntime}

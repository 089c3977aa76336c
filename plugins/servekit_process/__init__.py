"""Replicas as plain child processes of the controller: one machine, no Ray."""

from __future__ import annotations

from collections.abc import Mapping

from servekit.hookspecs import hookimpl
from servekit.interfaces import ReplicaRuntimeFactory
from servekit_process.runtime import ProcessRuntime

__all__ = ["ProcessRuntime"]


@hookimpl
def servekit_register_replica_runtimes() -> Mapping[str, ReplicaRuntimeFactory]:
    return {"process": ProcessRuntime}

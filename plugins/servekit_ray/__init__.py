"""The runtime ``ray``: each replica is a Ray actor. Ray chooses the node, and reserves the CPUs and GPUs; requests
travel on servekit's own links.

Ray is imported when a `RayRuntime` is opened, and not before.
"""

from __future__ import annotations

from collections.abc import Mapping

from servekit.hookspecs import hookimpl
from servekit.interfaces import ReplicaRuntimeFactory
from servekit_ray.runtime import RayRuntime

__all__ = ["RayRuntime"]


@hookimpl
def servekit_register_replica_runtimes() -> Mapping[str, ReplicaRuntimeFactory]:
    return {"ray": RayRuntime}

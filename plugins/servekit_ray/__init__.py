"""Replicas as Ray actors: Ray gives each a place (nodes, CPUs, GPUs), requests travel on servekit's own links.

Ray itself is imported only once a `RayRuntime` is opened.
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

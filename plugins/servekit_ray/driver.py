"""The driver's Ray: the one that the process which calls `init` or `create_backend` is connected to.

The runtime lives in the controller's process, and cannot see it. So the calling process describes its Ray.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from servekit.errors import InvalidInputError
from servekit.processes import ProcessIdentity, identify
from servekit_ray.keeper import vital_children


class DriverRay(msgspec.Struct, forbid_unknown_fields=True):
    """A Ray that another process is connected to."""

    address: str
    """The address of the GCS: ``host:port``."""
    tokens: bool
    """True where that process authenticates by a token."""
    processes: list[ProcessIdentity]
    """The processes without which the Ray ends; none where it is a cluster, which goes on without its driver."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> DriverRay:
        """The object that `msgspec.to_builtins` has turned into ``given``. Raises `InvalidInputError`."""
        try:
            return msgspec.convert(given, cls)
        except msgspec.ValidationError as error:
            raise InvalidInputError(f"driver_ray is for init() to fill in; give address: {error}") from error


def connected_here(*, outlives: bool) -> DriverRay | None:
    """The Ray of this process, or None. Ray is not imported: a process that has not imported it is connected to none.

    Raises:
        InvalidInputError: servekit cannot use that Ray, or not for an instance that ``outlives`` this process.
    """
    client: Any = sys.modules.get("ray.util.client")
    if client is not None and client.ray.is_connected():
        raise InvalidInputError(
            "this process is connected to Ray by the Ray client (ray://), which cannot host servekit: run it on a node "
            "of the cluster, with ray.init(address='auto'); or give runtime_options={'address': 'host:port'}, the "
            "address of the cluster's GCS"
        )
    ray: Any = sys.modules.get("ray")
    is_initialized = getattr(ray, "is_initialized", None)  # another thread may be importing it
    if is_initialized is None or not is_initialized():
        return None
    processes = [identity for pid in vital_children() if (identity := identify(pid)) is not None]
    if processes and outlives:
        raise InvalidInputError(
            "the Ray of this process ends with it, and the instance does not: give runtime_options={'address': …}, "
            "a cluster ('host:port') or 'local', a Ray that ends with the instance"
        )
    address = str(ray.get_runtime_context().gcs_address)
    return DriverRay(address, os.environ.get("RAY_AUTH_MODE", "").lower() == "token", processes)

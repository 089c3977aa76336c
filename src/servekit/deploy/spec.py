"""What a configuration file may say: the records of the Python API, by name."""

from __future__ import annotations

from typing import Any

import msgspec

from servekit.config import DEFAULT_RUNTIME, HttpLimits
from servekit.control.setup import InstanceOptions
from servekit.control.tables import BackendTable, EndpointTable


class InstanceTable(InstanceOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[instance]``: the arguments of `servekit.init`."""

    name: str = "default"
    runtime: str = DEFAULT_RUNTIME
    http_port: int = 8000
    limits: HttpLimits = msgspec.field(name="http_limits", default=HttpLimits())


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A configuration file, or several of which the later ones change the earlier ones."""

    instance: InstanceTable = InstanceTable()
    endpoints: dict[str, EndpointTable] = {}
    backends: dict[str, BackendTable] = {}


def schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file, by which editors check and complete it."""
    return {"title": "servekit.toml", **msgspec.json.schema(Spec)}

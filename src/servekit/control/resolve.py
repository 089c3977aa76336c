"""From what a user named to what a worker loads: names and options of plugins, checked before anything changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from servekit.interfaces import RoutingPolicy
from servekit.plugins import Kind, Registry, build
from servekit.wire.control_frames import PluginRef


class Resolver:
    """Resolves the plugins that endpoints and backends name. The in-process instance has one that takes instances."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def policy(self, name: str, options: Mapping[str, Any]) -> PluginRef:
        """Raises `UnknownPluginError`, `PluginOptionsError` and what else `build` raises."""
        provided = self._registry.get(Kind.POLICY, name)
        # Built once here, so that a policy that cannot be built fails the call and not every request.
        policy: RoutingPolicy = build(provided, options)
        policy.close()
        return PluginRef(provided.path, dict(options))

    def adapter(self, name: str, options: Mapping[str, Any]) -> PluginRef:
        """Raises as `policy` does. Not built: it may import what only replicas need."""
        provided = self._registry.get(Kind.ADAPTER, name)
        self._registry.check_options(provided, options)
        return PluginRef(provided.path, dict(options))

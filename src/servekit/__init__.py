"""Serve Python functions and classes over HTTP, from many processes, with traffic split between versions."""

from typing import TYPE_CHECKING

from servekit import metrics
from servekit.api import (
    abort_rollout,
    apply,
    create_backend,
    create_endpoint,
    current,
    delete_backend,
    delete_endpoint,
    events,
    explain,
    export,
    failures,
    get_backend_config,
    get_handle,
    get_traffic,
    history,
    init,
    last_requests,
    list_backends,
    list_endpoints,
    pause_rollout,
    plan,
    promote_rollout,
    restart_backend,
    resume_rollout,
    rollback,
    rollout,
    set_traffic,
    shadow,
    shadow_report,
    shadow_traffic,
    shutdown,
    stat,
    status,
    stop_shadow,
    update_backend_config,
    wait,
)
from servekit.config import BackendConfig, HttpLimits, nearest
from servekit.context import get_context
from servekit.decorators import accept_batch
from servekit.errors import ServekitError
from servekit.instance import Instance
from servekit.metrics import report
from servekit.old_names import IN_RAY_SERVE

__all__ = [
    "BackendConfig",
    "HttpLimits",
    "Instance",
    "ServekitError",
    "abort_rollout",
    "accept_batch",
    "apply",
    "create_backend",
    "create_endpoint",
    "current",
    "delete_backend",
    "delete_endpoint",
    "events",
    "explain",
    "export",
    "failures",
    "get_backend_config",
    "get_context",
    "get_handle",
    "get_traffic",
    "history",
    "init",
    "last_requests",
    "list_backends",
    "list_endpoints",
    "metrics",
    "pause_rollout",
    "plan",
    "promote_rollout",
    "report",
    "restart_backend",
    "resume_rollout",
    "rollback",
    "rollout",
    "set_traffic",
    "shadow",
    "shadow_report",
    "shadow_traffic",
    "shutdown",
    "stat",
    "status",
    "stop_shadow",
    "update_backend_config",
    "wait",
]

__version__ = "0.1.0"

if not TYPE_CHECKING:  # Type checkers would take it that any name is there.

    def __getattr__(name: str) -> None:
        """Says what an old or a misspelt name is called here."""
        hint = "" if name.startswith("_") else nearest(name, __all__, IN_RAY_SERVE)
        raise AttributeError(f"module 'servekit' has no attribute {name!r}{hint}")

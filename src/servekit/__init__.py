"""Serve Python functions and classes over HTTP, from many processes, with traffic split between versions."""

from servekit.api import (
    create_backend,
    create_endpoint,
    current,
    delete_backend,
    delete_endpoint,
    get_backend_config,
    get_handle,
    get_traffic,
    init,
    list_backends,
    list_endpoints,
    set_traffic,
    shutdown,
    stat,
    status,
    update_backend_config,
)
from servekit.config import BackendConfig, HttpLimits
from servekit.context import get_context
from servekit.errors import ServekitError
from servekit.instance import Instance
from servekit.marks import accept_batch

__all__ = [
    "BackendConfig",
    "HttpLimits",
    "Instance",
    "ServekitError",
    "accept_batch",
    "create_backend",
    "create_endpoint",
    "current",
    "delete_backend",
    "delete_endpoint",
    "get_backend_config",
    "get_context",
    "get_handle",
    "get_traffic",
    "init",
    "list_backends",
    "list_endpoints",
    "set_traffic",
    "shutdown",
    "stat",
    "status",
    "update_backend_config",
]

__version__ = "0.1.0"

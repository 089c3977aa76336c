"""What is called otherwise in Ray Serve, for the hints of messages."""

from __future__ import annotations

PAGE = "docs/from_ray_serve.md"

IN_RAY_SERVE = {
    # Keys of a config.
    "max_ongoing_requests": "max_concurrent_queries",
    "batch_wait_timeout_s": "batch_wait_timeout",
    "graceful_shutdown_timeout_s": "drain_timeout_s",
    "experimental_graceful_shutdown_timeout_s": "drain_timeout_s",
    "autoscaling_config": "autoscaling",
    # Arguments.
    "http_options": "http_host, http_port and http_limits",
    "ray_init_kwargs": "runtime_options={'address': …}",
    "blocking": "nothing, as init() waits until HTTP is answered",
    "start_server": "http_host=None, for no HTTP",
    "detached": "the command `servekit start`",
    "proxy_location": "ingress_workers",
    "queueing_policy": "policy",
    "policy_kwargs": "policy_options",
    "route_prefix": "route",
    "force": 'update_backend_config(name, {"drain_timeout_s": 0}), before the backend is deleted',
    "sync": "nothing, as each future can be awaited",
    "slo_ms": "handle.options(timeout_s=…)",
    "relative_slo_ms": "handle.options(timeout_s=…)",
    "absolute_slo_ms": "handle.options(timeout_s=…)",
    # Of the module.
    "start": "init()",
    "connect": "init(address='auto')",
    "run": "create_backend() and create_endpoint()",
    "route": "create_endpoint(name, route)",
    "deployment": "the class itself, given to create_backend()",
    "ingress": "adapter='asgi', for an application given to create_backend()",
    "batch": "accept_batch",
    "multiplexed": "nothing",
    "set_backend_config": "update_backend_config",
    "get_replica_context": "get_context",
    "get_app_handle": "get_handle",
    "get_deployment_handle": "get_handle",
    "delete": "delete_endpoint() and delete_backend()",
    "exceptions": "ServekitError, and its family in servekit.errors",
}
"""By the name there, the name here, or what to write in its place."""

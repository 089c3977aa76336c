"""Placement options: which are the user's, what they ask of a cluster, and what to say when it has no room."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from servekit.config import nearest
from servekit.errors import InvalidInputError
from servekit.interfaces import WorkerSpec

USER_OPTIONS = frozenset(
    {
        "num_cpus",
        "num_gpus",
        "memory",
        "object_store_memory",
        "resources",
        "accelerator_type",
        "runtime_env",
        "scheduling_strategy",
        "label_selector",
        "fallback_strategy",
        "placement_group",
        "placement_group_bundle_index",
        "placement_group_capture_child_tasks",
        "enable_task_events",
    }
)
SERVEKIT_OPTIONS = frozenset(
    {
        "name",
        "namespace",
        "lifetime",
        "get_if_exists",
        "max_restarts",
        "max_task_retries",
        "max_concurrency",
        "max_pending_calls",
        "concurrency_groups",
        "allow_out_of_order_execution",
    }
)

_SLOW_SETUP = frozenset({"pip", "uv", "conda", "container", "image_uri", "working_dir", "py_modules"})
_DEFAULT_SETUP_S = 600.0  # Ray's own default of runtime_env["config"]["setup_timeout_seconds"]
_AMOUNTS = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory", "object_store_memory": "object_store_memory"}
_BYTES = frozenset({"memory", "object_store_memory"})


def check_names(options: Mapping[str, Any]) -> None:
    """Raise `InvalidInputError` for an option that Ray does not have, or that servekit sets itself."""
    for name in options:
        if name in SERVEKIT_OPTIONS:
            raise InvalidInputError(f"ray_actor_options: servekit sets {name!r} itself; leave it out")
        if name not in USER_OPTIONS:
            raise InvalidInputError(f"ray_actor_options: Ray has no option {name!r}{nearest(name, USER_OPTIONS)}")


def with_code(spec: WorkerSpec) -> dict[str, Any]:
    """The options of a worker's actor. Ray tasks of code that imports Ray are to run the frozen code as well: they
    inherit the actor's environment. It costs the first actor about a second, so others go without it."""
    options = dict(spec.options)
    if spec.code_folders and "ray" in spec.distributions:
        runtime_env = dict(options.get("runtime_env") or {})
        variables = dict(runtime_env.get("env_vars") or {})
        own = variables.get("PYTHONPATH", "${PYTHONPATH}")
        variables["PYTHONPATH"] = os.pathsep.join([*spec.code_folders, own])
        options["runtime_env"] = {**runtime_env, "env_vars": variables}
    return options


def demand(options: Mapping[str, Any]) -> dict[str, float]:
    """What one node must have free to take a worker, by Ray's names.

    Without ``num_cpus`` an actor is placed where a CPU is free, though it holds none if it asks for nothing else:
    https://docs.ray.io/en/latest/ray-core/scheduling/resources.html
    """
    needs = {ours: float(options[name]) for name, ours in _AMOUNTS.items() if options.get(name) is not None}
    needs.setdefault("CPU", 1.0)
    needs.update(options.get("resources") or {})
    if kind := options.get("accelerator_type"):
        needs[f"accelerator_type:{kind}"] = 0.001
    return {name: amount for name, amount in needs.items() if amount > 0}


def fits(options: Mapping[str, Any], amounts: Mapping[str, float]) -> bool:
    """Whether ``amounts`` hold what a worker asks for.

    What labels, a placement group or a strategy ask besides is not looked at: of those only time tells.
    """
    return all(amounts.get(name, 0.0) >= amount for name, amount in demand(options).items())


def setup_allowance_s(options: Mapping[str, Any]) -> float:
    """Seconds that Ray may take to prepare ``runtime_env`` before it starts the process."""
    runtime_env = options.get("runtime_env") or {}
    if not _SLOW_SETUP & set(runtime_env):
        return 0.0
    config = runtime_env.get("config") or {}
    return float(config.get("setup_timeout_seconds", _DEFAULT_SETUP_S)) if isinstance(config, Mapping) else 0.0


def describe(amounts: Mapping[str, float]) -> str:
    """``2 CPU, 1 GPU, 1.5 GiB memory``: without what Ray counts for its own use."""
    shown = {name: amount for name, amount in sorted(amounts.items()) if not name.startswith("node:")}
    parts = [
        f"{amount / 2**30:.3g} GiB {name}" if name in _BYTES else f"{amount:g} {name}" for name, amount in shown.items()
    ]
    return ", ".join(parts) or "nothing"

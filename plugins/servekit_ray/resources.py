"""Placement options: the options that users may set, and the resources that they ask of a cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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

NODE_ID = "ray.io/node-id"
"""The label by which Ray knows each node."""
_SLOW_SETUP = frozenset({"pip", "uv", "conda", "container", "image_uri", "working_dir", "py_modules"})
_DEFAULT_SETUP_S = 600.0  # Ray's own default of runtime_env["config"]["setup_timeout_seconds"]
_AMOUNTS = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory", "object_store_memory": "object_store_memory"}
_BYTES = frozenset({"memory", "object_store_memory"})


def check_names(options: Mapping[str, Any]) -> None:
    """Raise `InvalidInputError` for an option that Ray does not have, or that servekit sets itself."""
    for name in options:
        if name in SERVEKIT_OPTIONS:
            raise InvalidInputError(f"placement: servekit sets {name!r} itself; leave it out")
        if name not in USER_OPTIONS:
            raise InvalidInputError(f"placement: Ray has no option {name!r}{nearest(name, USER_OPTIONS)}")


def with_code(spec: WorkerSpec) -> dict[str, Any]:
    """The options of a worker's actor, with the folders of frozen code in ``PYTHONPATH`` where that code imports Ray.

    Ray tasks that the code starts inherit the actor's environment, and so run the frozen code as well. A changed
    environment costs the first actor about a second; therefore other code goes without it.
    """
    options = dict(spec.options)
    if spec.code_folders and "ray" in spec.distributions:
        runtime_env = dict(options.get("runtime_env") or {})
        variables = dict(runtime_env.get("env_vars") or {})
        own = variables.get("PYTHONPATH", "${PYTHONPATH}")
        variables["PYTHONPATH"] = os.pathsep.join([*spec.code_folders, own])
        options["runtime_env"] = {**runtime_env, "env_vars": variables}
    return options


def avoiding(options: dict[str, Any], nodes: Sequence[str]) -> dict[str, Any]:
    """``options``, such that Ray places the actor on none of these nodes, of which it may believe that they live. Where
    the user has chosen the node, by a strategy, a placement group or the label, that choice stands."""
    strategy = options.get("placement_group") or options.get("scheduling_strategy")
    if not nodes or strategy not in (None, "DEFAULT", "SPREAD"):
        return options
    return {**options, "label_selector": {NODE_ID: f"!in({','.join(nodes)})", **(options.get("label_selector") or {})}}


def demand(options: Mapping[str, Any]) -> dict[str, float]:
    """The resources that one node must have free to take a worker, by Ray's names.

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
    """True where ``amounts`` are enough for a worker with these options.

    Labels, placement groups and strategies are not considered: whether those fit, only Ray can tell.
    """
    return all(amounts.get(name, 0.0) >= amount for name, amount in demand(options).items())


def setup_allowance_s(options: Mapping[str, Any]) -> float:
    """The seconds that Ray may take to prepare ``runtime_env`` before it starts the process."""
    runtime_env = options.get("runtime_env") or {}
    if not _SLOW_SETUP & set(runtime_env):
        return 0.0
    config = runtime_env.get("config") or {}
    return float(config.get("setup_timeout_seconds", _DEFAULT_SETUP_S)) if isinstance(config, Mapping) else 0.0


def describe(amounts: Mapping[str, float]) -> str:
    """A list for people: ``2 CPU, 1 GPU, 1.5 GiB memory``, without the entries that Ray makes for its own use."""
    shown = {name: amount for name, amount in sorted(amounts.items()) if not name.startswith("node:")}
    parts = [
        f"{amount / 2**30:.3g} GiB {name}" if name in _BYTES else f"{amount:g} {name}" for name, amount in shown.items()
    ]
    return ", ".join(parts) or "nothing"

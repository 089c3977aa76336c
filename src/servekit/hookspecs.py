"""The hooks that a servekit plugin may implement.

A plugin is a module (or any object) behind an entry point of the group ``servekit``::

    [project.entry-points.servekit]
    my_policy = "my_package"

Registration hooks run once, at start-up. Nothing here is called per request: the objects that the factories make are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pluggy

from servekit.interfaces import (
    ReplicaEvent,
    ReplicaRuntimeFactory,
    RequestAdapterFactory,
    RequestObserverFactory,
    RequestRecord,
    RolloutJudgeFactory,
    RoutingPolicyFactory,
    TrafficEvent,
)

PROJECT = "servekit"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def servekit_register_routing_policies() -> Mapping[str, RoutingPolicyFactory]:  # type: ignore[empty-body]
    """Routing policies by name. A factory takes the endpoint's ``policy_options`` as keyword arguments.

    The ingress workers load a factory by its import path, so it must be a class or function at the top of a module.
    """


@hookspec
def servekit_register_replica_runtimes() -> Mapping[str, ReplicaRuntimeFactory]:  # type: ignore[empty-body]
    """Replica runtimes by name. A factory takes ``runtime_options`` as keyword arguments; it runs in the controller."""


@hookspec
def servekit_register_request_adapters() -> Mapping[str, RequestAdapterFactory]:  # type: ignore[empty-body]
    """Request adapters by name. A factory takes ``adapter_options`` as keyword arguments; it runs in the replica.

    The replicas load a factory by its import path, so it must be a class or function at the top of a module.
    """


@hookspec
def servekit_register_request_observers() -> Mapping[str, RequestObserverFactory]:  # type: ignore[empty-body]
    """Request observers by name. A factory takes the options in `init(observers={name: options})` as keyword arguments;
    it runs in the ingress workers, and once in the controller, to see whether it takes the options.

    The ingress workers load a factory by its import path, so it must be a class or function at the top of a module.
    """


@hookspec
def servekit_register_rollout_judges() -> Mapping[str, RolloutJudgeFactory]:  # type: ignore[empty-body]
    """Judges of roll-outs by name. A factory takes the roll-out's ``judge_options`` as keyword arguments; it runs in
    the controller."""


@hookspec
def servekit_requests_finished(records: Sequence[RequestRecord]) -> None:
    """Requests that ended since the last call: called in the ingress worker, about once a second, off the hot path."""


@hookspec
def servekit_replica_state_changed(event: ReplicaEvent) -> None:
    """A replica is starting, ready, draining or gone: called in the controller."""


@hookspec
def servekit_traffic_changed(event: TrafficEvent) -> None:
    """An endpoint's traffic was set: called in the controller, after every ingress worker has applied it."""

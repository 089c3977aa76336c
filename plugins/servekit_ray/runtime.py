"""The runtime ``ray``: each worker is hosted by one Ray actor."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import msgspec

from servekit.errors import BackendStartError, DeadlineError, InvalidInputError, ResourcesUnavailableError
from servekit.interfaces import Exit, ReplicaRuntime, RuntimeContext, WorkerHandle, WorkerSpec
from servekit.processes import OpenProcess, ProcessIdentity, end_group, is_alive, opened
from servekit_ray import actor, resources
from servekit_ray.connection import SETTLE_S, Connection
from servekit_ray.driver import DriverRay, connected_here
from servekit_ray.endings import exit_of
from servekit_ray.keeper import NAMESPACE

KILL_WAIT_S = 10.0
"""How long Ray may take to end a process that it was told to kill."""
GONE_WAIT_S = 2.0
"""How long Ray may take to tell of the end of a process that is gone, or a process to be gone after Ray told so."""
LOOK_S = 0.2
"""Between two looks at a process of this machine while Ray is waited for."""
ASK_AGAIN_S = 0.05
"""Between two questions to an actor that answers, or that cannot be reached."""


LOST = Exit("lost: the local Ray that hosted it has ended")


class _State(msgspec.Struct):
    worker_id: str
    actor_name: str
    node_id: str
    pid: int
    start_ticks: int


@dataclass(frozen=True)
class _ActorHandle(WorkerHandle):
    """A hosted worker. ``ended`` is a call that gets its answer, an error, when the process ends."""

    actor: Any = field(repr=False)
    ended: list[Any] = field(repr=False)
    generation: int
    process: ProcessIdentity | None
    """Where it is one of this machine, and so can be looked at."""


class RayRuntime(ReplicaRuntime):
    """Places each worker with a Ray actor, named ``servekit:INSTANCE:WORKER`` in the namespace ``servekit``.

    Args:
        address: ``"host:port"`` of a cluster's GCS; ``"auto"``, the cluster that ``RAY_ADDRESS`` names, or else the one
            that ``ray start`` runs on this machine; ``"local"``, a Ray that ends with the instance. Default: the Ray
            that the calling process is connected to, else the one that ``RAY_ADDRESS`` names, else a local one.
        links: ``"auto"``: workers are reached over TCP when the cluster has several nodes; ``"tcp"``: always.
        placement_timeout_s: how long a worker may wait for a place while no other gets one either.
        autoscaling: the cluster adds nodes on demand, so what no node has now may still come, within that time.
        include_dashboard: start a local Ray with its dashboard: 3 s more, and ``ray list actors`` works.
        ray_init: more arguments of ``ray.init`` for a local Ray: ``num_cpus``, ``num_gpus``, ``resources``, …
        driver_ray: given by `complete_options`: the Ray that the calling process is connected to.
    """

    worker_options_name: ClassVar[str] = "ray_actor_options"
    worker_module: ClassVar[str] = "servekit.worker"
    """The module whose ``run`` is the worker."""

    def __init__(
        self,
        *,
        address: str | None = None,
        links: Literal["auto", "tcp"] = "auto",
        placement_timeout_s: float = 30.0,
        autoscaling: bool = False,
        include_dashboard: bool = False,
        ray_init: Mapping[str, Any] | None = None,
        driver_ray: Mapping[str, Any] | None = None,
    ) -> None:
        if links not in ("auto", "tcp"):
            raise InvalidInputError(f"links is 'auto' or 'tcp', not {links!r}")
        arguments = {"include_dashboard": True} if include_dashboard else {}
        driver = None if driver_ray is None else DriverRay.of(driver_ray)
        self._connection = Connection(address, driver, {**arguments, **(ray_init or {})})
        self._links = links
        self.local_links = links != "tcp"
        self._placement_timeout_s = placement_timeout_s
        self._autoscaling = autoscaling
        self._last_placed = 0.0

    @classmethod
    def complete_options(cls, options: Mapping[str, Any], *, outlives: bool) -> Mapping[str, Any]:
        """Beside ``options``, where they name no address, the Ray that this process is connected to."""
        found = None if options.get("address") else connected_here(outlives=outlives)
        return options if found is None else {"driver_ray": msgspec.to_builtins(found), **options}

    def describe(self) -> str:
        return self._connection.words

    def open(self, context: RuntimeContext) -> None:
        self._context = context
        self._connection.open(context)
        import ray

        self._actor_class = ray.remote(actor.WorkerHost)

    def close(self) -> None:
        self._connection.close()

    def advertise_host(self) -> str | None:
        self._connection.renew()
        if self._links == "auto" and len(self._connection.nodes()) < 2:
            return None
        import ray

        return str(ray.util.get_node_ip_address())

    def check_worker_options(self, options: Mapping[str, Any]) -> None:
        import ray

        resources.check_names(options)
        try:
            ray.runtime_env.RuntimeEnv(**(options.get("runtime_env") or {}))
            self._actor_class.options(**options)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"ray_actor_options: {error}") from error

    def start(self, spec: WorkerSpec) -> WorkerHandle:
        from ray.exceptions import RayError

        self._connection.renew()
        generation = self._connection.generation
        totals = [node["Resources"] for node in self._connection.nodes()]
        if not self._autoscaling and not any(resources.fits(spec.options, node) for node in totals):
            raise ResourcesUnavailableError(self._no_place(spec, "no node has that even when idle"))
        name = f"servekit:{self._context.instance_id}:{spec.worker_id}"
        options = {
            **resources.with_code(spec),
            "name": name,
            "namespace": NAMESPACE,
            "lifetime": "detached" if self._context.standing else None,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        try:
            hosted = self._actor_class.options(**options).remote(spec.backend)
        except (RayError, ValueError, TypeError) as error:
            raise BackendStartError(f"a replica of {spec.backend!r}: Ray refused its actor: {error}") from error
        try:
            place = self._await_place(spec, hosted)
        except BaseException:
            _kill(hosted)
            raise
        state = _State(spec.worker_id, name, place[actor.NODE_ID], place[actor.PID], place[actor.START_TICKS])
        ended = hosted.run.remote(self.worker_module, spec.bootstrap)
        process = self._visible(state)
        return _ActorHandle(spec.worker_id, msgspec.json.encode(state), hosted, [ended], generation, process)

    def poll(self, handle: WorkerHandle) -> Exit | None:
        return self._wait(_actor_handle(handle), 0)

    def stop(self, handle: WorkerHandle, grace_s: float) -> None:
        handle = _actor_handle(handle)
        state = msgspec.json.decode(handle.state, type=_State)
        with self._on_this_node(state) as process:
            if self._wait(handle, 0) is None:
                if process is not None:
                    process.send(signal.SIGTERM)
                if self._wait(handle, grace_s) is None:
                    _kill(handle.actor)
            # Ray tells of an end some milliseconds before the process is gone.
            if self._wait(handle, KILL_WAIT_S) is None or not (process is None or process.wait(KILL_WAIT_S)):
                raise DeadlineError(
                    f"worker {state.worker_id} (pid {state.pid} on Ray node {state.node_id}) is still there "
                    f"{KILL_WAIT_S:g} s after Ray was told to kill it"
                )

    def attach(self, state: bytes) -> WorkerHandle:
        import ray

        found = msgspec.json.decode(state, type=_State)
        gone = f"worker {found.worker_id} (Ray actor {found.actor_name}) is gone"
        # The list, because `get_actor` still knows one that this very process saw die.
        if found.actor_name not in ray.util.list_named_actors():
            raise LookupError(gone)
        try:
            # The name is this worker's alone and the actor never restarts: what has the name is the same process.
            hosted = ray.get_actor(found.actor_name, namespace=NAMESPACE)
        except ValueError as error:
            raise LookupError(gone) from error
        # Behind `run`, this call is never carried out: it fails when the process ends.
        ended = hosted.where.remote()
        return _ActorHandle(found.worker_id, state, hosted, [ended], self._connection.generation, self._visible(found))

    def _visible(self, state: _State) -> ProcessIdentity | None:
        with self._on_this_node(state) as process:
            return None if process is None else ProcessIdentity(state.pid, state.start_ticks)

    @contextmanager
    def _on_this_node(self, state: _State) -> Iterator[OpenProcess | None]:
        """The worker's process, where it is one of this machine and there."""
        if state.node_id != self._connection.node_id:
            yield None
            return
        # In a container the pid is another one here; then the start differs, and nobody is hit.
        with opened(ProcessIdentity(state.pid, state.start_ticks)) as process:
            yield process

    def _await_place(self, spec: WorkerSpec, hosted: Any) -> dict[str, Any]:
        """Where the actor is; raises once `placement_timeout_s` have passed without anyone's being placed."""
        import ray
        from ray.exceptions import RayError

        ref = hosted.where.remote()
        since = time.monotonic()
        allowance_s = self._placement_timeout_s + resources.setup_allowance_s(spec.options)
        while True:
            # Of many replicas started together the last may wait long, but not without progress.
            left_s = max(since, self._last_placed) + allowance_s - time.monotonic()
            if left_s <= 0:
                raise self._not_placed(spec, allowance_s)
            ready, _ = ray.wait([ref], timeout=min(left_s, 1.0))
            if ready:
                break
        try:
            place: dict[str, Any] = ray.get(ref)
        except RayError as error:
            raise BackendStartError(f"a replica of {spec.backend!r}: Ray could not start its actor: {error}") from error
        self._last_placed = time.monotonic()
        return place

    def _not_placed(self, spec: WorkerSpec, waited_s: float) -> BackendStartError:
        import ray

        if resources.fits(spec.options, ray.available_resources()):
            return BackendStartError(
                f"a replica of {spec.backend!r} did not start within {waited_s:g} s, though what it asks for is free: "
                "no node fits its labels or strategy, or its process does not come up (Ray's logs on the nodes say why)"
            )
        return ResourcesUnavailableError(self._no_place(spec, f"others have held it for {waited_s:g} s"))

    def _no_place(self, spec: WorkerSpec, what: str) -> str:
        import ray

        needs, total, free = map(
            resources.describe, (resources.demand(spec.options), ray.cluster_resources(), ray.available_resources())
        )
        return (
            f"a replica of {spec.backend!r} asks for {needs} on one node, and {what}. The Ray cluster has {total}; "
            f"of that are free: {free}. Ask for less in ray_actor_options, or add nodes"
        )

    def _wait(self, handle: _ActorHandle, timeout_s: float) -> Exit | None:
        """How the process ended, or None when it has not within ``timeout_s``. What it has started ends with it."""
        worker = handle.process
        if worker is None:
            return self._told(handle, timeout_s)
        deadline = time.monotonic() + timeout_s
        while True:
            ended = self._told(handle, min(LOOK_S, max(0.0, deadline - time.monotonic())))
            if ended is not None:
                _end_group(worker)
                return ended
            if not is_alive(worker):
                # Ray knows by the end of a socket, of which a child that the worker forked has a copy.
                _end_group(worker)
                return self._told(handle, GONE_WAIT_S) or Exit("killed or crashed: its process is gone")
            if time.monotonic() >= deadline:
                return None

    def _told(self, handle: _ActorHandle, timeout_s: float) -> Exit | None:
        """As `_wait`, by Ray's word alone."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayError

        deadline = time.monotonic() + timeout_s
        while self._connection.has(handle.generation):
            left_s = max(0.0, deadline - time.monotonic())
            try:
                # In short waits, so that none is under way when a lost Ray is let go of.
                ready, _ = ray.wait(handle.ended, timeout=min(left_s, SETTLE_S / 2))
                if ready:
                    ray.get(ready)
                    # It answered: its controller was killed before it could tell it to `run`. Ask anew.
                    handle.ended[:] = [handle.actor.where.remote()]
            except ActorUnavailableError:
                # The network, perhaps: the process may live. Ask anew.
                handle.ended[:] = [handle.actor.where.remote()]
            except RayError as error:
                return exit_of(str(error)) if self._connection.has(handle.generation) else LOST
            if time.monotonic() >= deadline:
                return None
            if ready:
                time.sleep(ASK_AGAIN_S)
        return LOST


def _actor_handle(handle: WorkerHandle) -> _ActorHandle:
    if not isinstance(handle, _ActorHandle):
        raise TypeError(f"worker {handle.worker_id}: this handle is from neither start nor attach of this runtime")
    return handle


def _end_group(worker: ProcessIdentity) -> None:
    """Ray puts each worker at the head of a process group, and leaves the others there when the worker is killed."""
    with opened(worker) as process:
        # Ray tells of an end some milliseconds before the process is gone.
        if process is None or process.wait(GONE_WAIT_S):
            end_group(worker)


def _kill(hosted: Any) -> None:
    import ray

    ray.kill(hosted, no_restart=True)

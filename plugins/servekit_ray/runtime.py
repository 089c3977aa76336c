"""Replicas as Ray actors. This process never calls Ray: `Connection` has another do it, by `asks`."""

from __future__ import annotations

import logging
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import msgspec

from servekit.errors import (
    BackendStartError,
    DeadlineError,
    InstanceStartError,
    InvalidInputError,
    ResourcesUnavailableError,
    ServekitError,
)
from servekit.interfaces import Exit, ReplicaRuntime, RuntimeContext, WorkerHandle, WorkerSpec
from servekit.oom_kills import OomKills
from servekit.processes import ProcessIdentity, end_group, is_alive, opened
from servekit_ray import asks, resources
from servekit_ray.agent_link import RefusedError
from servekit_ray.asks import Place, machine
from servekit_ray.connection import ANSWER_TIMEOUT_S, Connection
from servekit_ray.driver import DriverRay, connected_here

_log = logging.getLogger("servekit.ray")

KILL_WAIT_S = 10.0
"""The time that Ray may take to end a process that it was told to kill."""
GONE_WAIT_S = 2.0
"""The time that Ray may take to report the end of a process."""
LOOK_S = 0.05
"""The time between two looks at a process whose end is waited for."""
CREATE_TIMEOUT_S = 60.0
"""The time that Ray may take to register an actor, without that for its ``runtime_env``."""

LOST = Exit("lost: the Ray that hosted it has ended")


class _State(msgspec.Struct):
    worker_id: str
    actor_name: str
    place: Place
    session: str
    """Ray's name for the Ray that hosts the actor."""


@dataclass(frozen=True)
class _ActorHandle(WorkerHandle):
    actor_name: str
    place: Place
    session: str
    process: ProcessIdentity | None
    """Set where the worker is a process of this machine, which can be looked at."""
    ended: list[Exit] = field(default_factory=list, compare=False, repr=False)
    """How the worker ended, once that is known: Ray forgets it."""
    oom_kills: OomKills = field(default_factory=OomKills, compare=False, repr=False)


class RayRuntime(ReplicaRuntime):
    """Starts each worker in a Ray actor, which is named ``servekit:INSTANCE:WORKER`` in the namespace ``servekit``.

    Args:
        address: ``"host:port"`` of a cluster's GCS; ``"auto"``, the cluster that ``RAY_ADDRESS`` names, or else the one
            that ``ray start`` runs on this machine; ``"local"``, a Ray that ends with the instance. Default: the Ray
            that the calling process is connected to, else the one that ``RAY_ADDRESS`` names, else a local one.
        links: ``"auto"``: workers are reached over TCP when the cluster has several nodes; ``"tcp"``: always.
        placement_timeout_s: the time that a worker may wait for a place while no other worker gets one either.
        autoscaling: the cluster adds nodes on demand, so that resources that no node has may still come in that time.
        include_dashboard: start a local Ray with its dashboard: 3 s more, and ``ray list actors`` works.
        ray_init: more arguments of ``ray.init`` for a local Ray: ``num_cpus``, ``num_gpus``, ``resources``, …
        driver_ray: given by `complete_options`: the Ray that the calling process is connected to.
    """

    worker_module: ClassVar[str] = "servekit.worker"
    """The module whose ``run`` runs the worker."""

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
        """``options``, with the Ray that this process is connected to where they name no address."""
        found = None if options.get("address") else connected_here(outlives=outlives)
        return options if found is None else {"driver_ray": msgspec.to_builtins(found), **options}

    def describe(self) -> str:
        return self._connection.describe()

    def open(self, context: RuntimeContext) -> None:
        self._context = context
        self._connection.open(context)

    def close(self) -> None:
        self._connection.close()

    def advertise_host(self) -> str | None:
        if self._links == "auto" and len(self._nodes()) < 2:
            return None
        return self._connection.host

    def check_worker_options(self, options: Mapping[str, Any]) -> None:
        resources.check_names(options)
        problem = self._connection.ask(asks.Check(dict(options)), str)
        if problem:
            raise InvalidInputError(f"placement: {problem}")

    def start(self, spec: WorkerSpec) -> WorkerHandle:
        if not self._autoscaling and not any(resources.fits(spec.options, node) for node in self._nodes()):
            raise ResourcesUnavailableError(self._no_place(spec, "no node has that even when idle"))
        session = self._connection.session
        name = f"servekit:{self._context.instance_id}:{spec.worker_id}"
        options = resources.avoiding(resources.with_code(spec), spec.avoid)
        create = asks.Create(name, spec.backend, options, self.worker_module, spec.bootstrap)
        setup_s = resources.setup_allowance_s(spec.options)
        try:
            self._connection.ask(create, type(None), CREATE_TIMEOUT_S + setup_s)
        except RefusedError as error:
            raise BackendStartError(f"a replica of {spec.backend!r}: Ray refused its actor: {error}") from error
        try:
            place = self._await_place(spec, name, self._placement_timeout_s + setup_s)
        except BaseException:
            self._kill(name, is_asked_for=False)
            raise
        return _handle(_State(spec.worker_id, name, place, session))

    def poll(self, handle: WorkerHandle) -> Exit | None:
        handle = _actor_handle(handle)
        ended = self._wait(handle, 0)
        if ended is not None:
            return handle.oom_kills.named(ended)
        if handle.process is not None:
            handle.oom_kills.look(handle.process.pid)
        return None

    def doomed(self, handle: WorkerHandle) -> str:
        session = self._connection.session
        if not session or _actor_handle(handle).session == session:
            return ""
        return "the Ray that hosts it was lost, and another has taken its place"

    def stop(self, handle: WorkerHandle, grace_s: float) -> None:
        handle = _actor_handle(handle)
        if handle.process is not None:
            with opened(handle.process) as process:
                if process is not None:
                    process.send(signal.SIGTERM)
        if self._wait(handle, grace_s) is not None:
            return
        self._kill(handle.actor_name, is_asked_for=True)
        if handle.process is not None:
            # Ray may be lost, or have other things to do, and takes 5 s for one that is stopped.
            with opened(handle.process) as process:
                if process is not None:
                    process.send(signal.SIGKILL)
        elif self._wait(handle, GONE_WAIT_S) is None and self.doomed(handle):
            return  # Its Ray has ended, and nobody knows more.
        if self._wait(handle, KILL_WAIT_S) is None:
            raise DeadlineError(
                f"worker {handle.worker_id} (pid {handle.place.pid} on Ray node {handle.place.node_id}) is still there "
                f"{KILL_WAIT_S:g} s after Ray was told to kill it"
            )

    def attach(self, state: bytes) -> WorkerHandle:
        """Does not wait for a Ray that is lost: on this machine the process is looked at, and elsewhere `poll` tells
        later whether the worker is there."""
        handle = _handle(msgspec.json.decode(state, type=_State))
        is_gone = self._told(handle) if handle.process is None else not is_alive(handle.process)
        if is_gone:
            raise LookupError(f"worker {handle.worker_id} (Ray actor {handle.actor_name}) is gone")
        return handle

    def _nodes(self) -> list[dict[str, float]]:
        """The resources of each node."""
        try:
            return self._connection.ask(asks.Nodes(), list[dict[str, float]])
        except RefusedError as error:
            raise InstanceStartError(f"Ray does not say which nodes it has: {error}") from error

    def _kill(self, actor_name: str, *, is_asked_for: bool) -> None:
        """Have Ray kill the actor, as far as there is a connection."""
        try:
            self._connection.ask(asks.Kill(actor_name, is_asked_for), type(None), wait_s=0)
        except (ServekitError, RefusedError) as error:
            _log.warning("Ray could not be told to kill %s: %s", actor_name, error)

    def _await_place(self, spec: WorkerSpec, name: str, allowance_s: float) -> Place:
        """The actor's place. Raises once no actor has got a place for ``allowance_s``."""
        since = time.monotonic()
        while True:
            # Of many replicas started together the last may wait long, but not without progress.
            left_s = max(since, self._last_placed) + allowance_s - time.monotonic()
            if left_s <= 0:
                raise self._not_placed(spec, allowance_s)
            wait_s = min(left_s, 1.0)
            try:
                ask = asks.AwaitPlace(name, wait_s)
                # Another agent would not know of this actor.
                place = self._connection.ask(ask, Place | None, wait_s + ANSWER_TIMEOUT_S, wait_s=0)  # type: ignore[arg-type]
            except RefusedError as error:
                raise BackendStartError(
                    f"a replica of {spec.backend!r}: Ray could not start its actor: {error}"
                ) from error
            if place is not None:
                self._last_placed = time.monotonic()
                return place

    def _not_placed(self, spec: WorkerSpec, waited_s: float) -> BackendStartError:
        _, free = self._resources()
        if resources.fits(spec.options, free):
            return BackendStartError(
                f"a replica of {spec.backend!r} did not start within {waited_s:g} s, though what it asks for is free: "
                "no node fits its labels or strategy, or its process does not come up (Ray's logs on the nodes say why)"
            )
        return ResourcesUnavailableError(self._no_place(spec, f"others have held it for {waited_s:g} s"))

    def _no_place(self, spec: WorkerSpec, what: str) -> str:
        needs, total, free = map(resources.describe, (resources.demand(spec.options), *self._resources()))
        return (
            f"a replica of {spec.backend!r} asks for {needs} on one node, and {what}. The Ray cluster has {total}; "
            f"of that are free: {free}. Ask for less in placement, or add nodes"
        )

    def _resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """The resources of the whole cluster, and those that are free."""
        try:
            return self._connection.ask(asks.Resources(), tuple[dict[str, float], dict[str, float]])
        except RefusedError as error:
            raise InstanceStartError(f"Ray does not say which resources it has: {error}") from error

    def _wait(self, handle: _ActorHandle, timeout_s: float) -> Exit | None:
        """Wait for the end of the process; None after ``timeout_s``. The rest of its process group is killed then."""
        deadline = time.monotonic() + timeout_s
        while True:
            if not handle.ended and (found := self._look(handle)) is not None:
                handle.ended.append(found)
            if handle.ended:
                return handle.ended[0]
            if time.monotonic() >= deadline:
                return None
            time.sleep(LOOK_S)

    def _look(self, handle: _ActorHandle) -> Exit | None:
        worker = handle.process
        if worker is None:
            return self._told(handle)
        if is_alive(worker):
            return None
        # Ray makes each worker the leader of a group, and does not end the other members when the worker is killed.
        end_group(worker)
        deadline = time.monotonic() + GONE_WAIT_S
        while not self._connection.has_lost(handle.session):
            if (ended := self._told(handle)) is not None:
                return ended
            if time.monotonic() >= deadline:
                # Ray knows by the end of a socket, of which a child that the worker forked has a copy.
                return Exit("killed or crashed: its process is gone")
            time.sleep(LOOK_S)
        return LOST

    def _told(self, handle: _ActorHandle) -> Exit | None:
        """The end of the process as Ray reports it; None where Ray says that it is there, or cannot be asked."""
        if handle.session != self._connection.session or not self._connection.is_up:
            return None
        try:
            words = self._connection.ask(asks.Look(handle.actor_name), str, wait_s=0)
        except InstanceStartError:
            return None
        except RefusedError as error:
            _log.warning("Ray does not say how worker %s is: %s", handle.worker_id, error)
            return None
        return exit_of(words) if words else None


def exit_of(message: str) -> Exit:
    """How a process ended, by Ray's message about its dead actor."""
    if found := re.search(r"exit code (\d+)", message):
        code = int(found[1])
        return Exit(f"exit code {code}", code)
    if "killed by `ray.kill`" in message:
        return Exit("killed by ray.kill")
    if "connection error code 2" in message:
        return Exit("killed or crashed: its connection to Ray broke off")
    detail = re.search(r"(?:exit detail: |actor is dead because )(.*)", message)
    return Exit(detail[1] if detail else message)


def _actor_handle(handle: WorkerHandle) -> _ActorHandle:
    if not isinstance(handle, _ActorHandle):
        raise TypeError(f"worker {handle.worker_id}: this handle is from neither start nor attach of this runtime")
    return handle


def _handle(state: _State) -> _ActorHandle:
    place = state.place
    process = ProcessIdentity(place.pid, place.start_ticks) if place.machine == machine() else None
    encoded = msgspec.json.encode(state)
    return _ActorHandle(state.worker_id, encoded, state.actor_name, place, state.session, process, node=place.node_id)

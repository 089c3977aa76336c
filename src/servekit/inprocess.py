"""An instance inside one process: the same controller, ingress, links and replicas, with threads for processes.

A worker runs elsewhere than in a real instance, and HTTP comes by a Unix socket; all else is the very same code.
Targets are pickled, for the same errors, but the original object runs: a test can look at what its handler saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import select
import shutil
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias, TypeVar

from servekit.client import DirectClient, who
from servekit.config import HttpLimits
from servekit.control.directories import scratch_directory
from servekit.control.operations import Resolver
from servekit.control.rollout import RolloutOptions
from servekit.control.service import Service
from servekit.control.setup import InstanceOptions, InstanceSetup
from servekit.errors import InternalError, NotRunningError
from servekit.factories import load_path
from servekit.forks import forks
from servekit.handles.caller import Caller
from servekit.ingress.apply import build_policy
from servekit.ingress.worker import IngressWorker
from servekit.instance import Instance, shut_down
from servekit.interfaces import (
    DrawnUnit,
    Exit,
    ReplicaRuntime,
    RequestAdapter,
    RolloutJudge,
    RoutingPolicy,
    WorkerHandle,
    WorkerSpec,
)
from servekit.plugins import Registry
from servekit.replica.target import Target
from servekit.replica.worker import ReplicaWorker
from servekit.targets import Packed, pack_target
from servekit.wire.bootstrap import WorkerBootstrap, unpack
from servekit.wire.control_frames import PluginRef
from servekit.wire.loop_thread import LoopThread
from servekit.wire.network import bind_unix

T = TypeVar("T")

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
"""For what is in flight at the end; and then replicas have some time to end in."""
END_TIMEOUT_S = 10.0
_TURNS_TO_READ = 5
"""Turns of the loop, from the first in which no connection waits to be accepted and no call of a handle for a link: a
connection that is accepted in the turn before is read from in the fourth."""
_MOST_TURNS = 10_000
"""For all that clients may have sent: a turn takes microseconds."""
BY_INSTANCE = "instance:"
"""So begins the path of a plugin that was given by instance."""

BuildPolicy: TypeAlias = Callable[[PluginRef], RoutingPolicy]


class Originals:
    """The objects of the test: targets, which replicas run in the place of a pickle, and plugins given by instance."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._targets: dict[bytes, Target] = {}
        self._plugins: dict[str, Any] = {}

    def pack_target(
        self, target: Any, init_args: tuple[Any, ...], init_kwargs: Mapping[str, Any] | None, *more: Any
    ) -> Packed:
        """Return the pickle, with a number behind it that leads back to the original."""
        packed = pack_target(target, init_args, init_kwargs, *more)
        mark = next(self._numbers).to_bytes(8, "big")
        self._targets[mark] = Target(target, init_args, dict(init_kwargs or {}))
        return packed._replace(data=packed.data + mark)

    def load_target(self, data: bytes) -> Target:
        original = self._targets[data[-8:]]
        if isinstance(original.target, str):
            # Kept, so that every replica of the backend has what the first had.
            original.target = load_path(original.target)
        return original

    def keep_plugin(self, plugin: Any) -> str:
        name = f"{BY_INSTANCE}{next(self._numbers)}"
        self._plugins[name] = plugin
        return name

    def policy(self, ref: PluginRef) -> RoutingPolicy:
        return self._plugins[ref.path] if ref.path in self._plugins else build_policy(ref)

    def judge(self, name: str) -> RolloutJudge:
        judge: RolloutJudge = self._plugins[name]
        return judge

    def adapter(self, path: str) -> Callable[..., RequestAdapter]:
        if path in self._plugins:
            return lambda: self._plugins[path]
        factory: Callable[..., RequestAdapter] = load_path(path)
        return factory


class InProcessResolver(Resolver):
    """A `Resolver` to which a policy, an adapter or a judge can be given by instance."""

    def __init__(self, registry: Registry, originals: Originals) -> None:
        super().__init__(registry)
        self._originals = originals

    def policy(self, name: str, options: Mapping[str, Any]) -> PluginRef:
        return PluginRef(name) if name.startswith(BY_INSTANCE) else super().policy(name, options)

    def adapter(self, name: str, options: Mapping[str, Any]) -> PluginRef:
        return PluginRef(name) if name.startswith(BY_INSTANCE) else super().adapter(name, options)

    def drawn_unit(self, ref: PluginRef) -> DrawnUnit:
        if not ref.path.startswith(BY_INSTANCE):
            return super().drawn_unit(ref)
        policy = self._originals.policy(ref)  # It serves already, as it did before.
        unit = policy.draw_order(0)
        policy.draw_order(None)
        return unit

    def judge(self, options: RolloutOptions) -> RolloutJudge:
        named = options.judge
        return self._originals.judge(named) if named.startswith(BY_INSTANCE) else super().judge(options)


class InProcessRuntime(ReplicaRuntime):
    """Each worker is a thread of this process, with an event loop of its own."""

    def __init__(self, originals: Originals, control_loop: asyncio.AbstractEventLoop) -> None:
        self._originals = originals
        self._control_loop = control_loop
        self._workers: dict[str, tuple[ReplicaWorker, threading.Thread]] = {}

    def check_worker_options(self, options: Mapping[str, Any]) -> None:
        """All are taken, and none has a meaning here: a test need not say where its service is placed."""

    def start(self, spec: WorkerSpec) -> WorkerHandle:
        worker = ReplicaWorker(
            unpack(spec.bootstrap),
            load_target=self._originals.load_target,
            load_plugin=self._originals.adapter,
            own_process=False,
        )
        thread = threading.Thread(target=worker.run, args=(self._control_loop,), name=spec.worker_id, daemon=True)
        self._workers[spec.worker_id] = (worker, thread)
        thread.start()
        return WorkerHandle(spec.worker_id, b"")

    def poll(self, handle: WorkerHandle) -> Exit | None:
        found = self._workers.get(handle.worker_id)
        if found is None or not found[1].is_alive():
            return Exit("its thread has ended")
        return Exit("its thread hangs, and is left behind") if found[0].left_behind else None

    def stop(self, handle: WorkerHandle, grace_s: float) -> None:
        """A thread that hangs in a handler cannot be ended: after ``grace_s`` it is left behind, as a daemon."""
        found = self._workers.pop(handle.worker_id, None)
        if found is not None:
            worker, thread = found
            worker.end("stopped")
            thread.join(0.0 if worker.left_behind else grace_s)

    def attach(self, state: bytes) -> WorkerHandle:
        raise LookupError("threads do not outlive their process")


class _InProcessIngress:
    """An ingress worker as a task of the instance's loop."""

    replaces = False

    def __init__(self, worker: IngressWorker) -> None:
        self.pid = os.getpid()
        self._task = asyncio.ensure_future(worker.run())

    async def wait(self) -> str:
        await asyncio.wait([self._task])
        error = None if self._task.cancelled() else self._task.exception()
        return f"ended: {error!r}" if error is not None else "ended"

    def kill(self) -> None:
        self._task.cancel()


class InProcessInstance(Instance):
    """An instance without processes. It has no port: HTTP comes by the Unix socket at `http_socket`."""

    _code_travels = False

    def __init__(
        self,
        registry: Registry,
        *,
        http_limits: HttpLimits | None = None,
        debug: bool = False,
        around_policy: Callable[[PluginRef, BuildPolicy], RoutingPolicy] | None = None,
        clock: Any = None,
        observers: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """
        Args:
            around_policy: builds a routing policy, with what is handed to it, and may put something around it.
            clock: what requests' deadlines and roll-outs run on: the `time` and `call_later` of a loop; default, the
                loop's own and the time of the day.
            observers: as of `servekit.init`.
        """
        forks.guard(worker=False)
        self._pid = os.getpid()
        self._originals = Originals()
        self._around_policy = around_policy
        self._clock = clock
        self._ingress: IngressWorker
        with contextlib.ExitStack() as closing:
            directory = scratch_directory()
            closing.callback(shutil.rmtree, directory, ignore_errors=True)
            opened = os.open(directory, os.O_PATH | os.O_DIRECTORY)
            closing.callback(os.close, opened)
            short = f"/proc/self/fd/{opened}"  # However long TMPDIR is, a socket's path is short enough.
            self.http_socket = f"{short}/http.sock"
            """The path of the socket, for this process alone: ``httpx.HTTPTransport(uds=instance.http_socket)``."""
            self._http = closing.enter_context(bind_unix(self.http_socket))
            self._http.listen(socket.SOMAXCONN)
            closing.callback(forks.let_go, forks.hold(self._http))
            self._loop_thread = LoopThread("servekit-inprocess")
            closing.callback(self._loop_thread.close)
            setup = InstanceSetup(
                options=InstanceOptions(
                    name="in-process",
                    runtime="process",
                    limits=http_limits or HttpLimits(),
                    debug=debug,
                    observers={name: dict(options) for name, options in (observers or {}).items()},
                ),
                instance_id="in-process",
                directory=short,
                token=secrets.token_bytes(32),
                http_url="http://servekit",
                http_fd=self._http.fileno(),
                sys_path=[],
            )
            service = self._service = self.submit(self._start(setup, registry), START_TIMEOUT_S)
            closing = closing.pop_all()

        def end() -> None:
            if not self._is_here:
                return  # Its threads are not here, and its directory is the parent's.
            with closing:
                try:
                    self.submit(service.stop(STOP_TIMEOUT_S), END_TIMEOUT_S)
                finally:
                    self._close_caller()

        client = DirectClient(lambda name, body: self.submit(service.operations.call(name, body, who=who())))
        super().__init__(setup.options.name, setup.http_url, client, end, directory, setup.token.hex())

    @property
    def _is_here(self) -> bool:
        """False in a child that was forked from its process: the threads are not there."""
        return os.getpid() == self._pid

    def submit(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run ``work`` on the instance's loop, and return its result. Raises `NotRunningError` after `shutdown`."""
        if not self._is_here:
            work.close()
            raise _elsewhere()
        if self._loop_thread.loop.is_closed():
            work.close()
            raise shut_down("in-process")
        if threading.current_thread() is self._loop_thread.thread:
            work.close()
            raise InternalError("this would wait for itself: it was called on the instance's own event loop")
        return asyncio.run_coroutine_threadsafe(work, self._loop_thread.loop).result(timeout_s)

    def connect(self) -> socket.socket:
        """A new connection to the ingress, for a client that brings its own. Raises `NotRunningError` after
        `shutdown`."""
        if self._loop_thread.loop.is_closed():
            raise shut_down("in-process")
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.http_socket)
        return client

    async def read_all(self) -> None:
        """Return when the ingress has read all that was sent to it before, over HTTP and by handles.

        To be awaited on the instance's loop. Each turn of it reads what is there on every connection, but takes in one
        new connection alone; and handles have to dial first. Clients that send on and on are not waited for.
        """
        unaccepted, left = select.poll(), _TURNS_TO_READ
        unaccepted.register(self._http, select.POLLIN)
        for _ in range(_MOST_TURNS):
            caller = self._callers.made()
            left = _TURNS_TO_READ if unaccepted.poll(0) or (caller and caller.is_waiting) else left - 1
            if not left:
                return
            await asyncio.sleep(0)

    async def rollouts_idle(self) -> None:
        """Return when no roll-out is being looked at. To be awaited on the instance's loop."""
        await self._service.rollouts.idle()

    async def _start(self, setup: InstanceSetup, registry: Registry) -> Service:
        service = Service(
            setup,
            registry,
            launch_ingress=self._launch_ingress,
            control_address=f"unix:{setup.directory}/control.sock",
            resolver=InProcessResolver(registry, self._originals),
            fixed_runtime=InProcessRuntime(self._originals, self._loop_thread.loop),
            clock=self._clock,
        )
        try:
            await service.start()
        except BaseException:
            await service.stop(0.0)
            raise
        return service

    async def _launch_ingress(self, bootstrap: WorkerBootstrap) -> _InProcessIngress:
        assert bootstrap.http is not None
        assert bootstrap.http.listen_fd is not None
        bootstrap.http.listen_fd = os.dup(bootstrap.http.listen_fd)  # It closes its own; the next one has another.
        self._ingress = IngressWorker(bootstrap, build_policy=self._build_policy, own_process=False, clock=self._clock)
        return _InProcessIngress(self._ingress)

    def _build_policy(self, ref: PluginRef) -> RoutingPolicy:
        build = self._originals.policy
        return build(ref) if self._around_policy is None else self._around_policy(ref, build)

    # -- what the Python API asks of it ------------------------------------------------------------------------------

    def _new_caller(self, ingresses: list[list[str]]) -> Caller:
        if not self._is_here:
            raise _elsewhere()
        return Caller(bytes.fromhex(self.token), "in-process", self._loop_thread.loop, ingresses)

    def _pack_target(self, *arguments: Any) -> Packed:
        return self._originals.pack_target(*arguments)

    def _runtime_options(self, runtime: str | None, given: Mapping[str, Any] | None) -> dict[str, Any] | None:
        # Checked, but of no use: every worker is a thread of this process.
        return None if given is None else dict(given)

    def _plugin(self, what: str, named: str | Any) -> str:
        kind = {"policy": RoutingPolicy, "adapter": RequestAdapter, "judge": RolloutJudge}[what]
        return self._originals.keep_plugin(named) if isinstance(named, kind) else super()._plugin(what, named)


def _elsewhere() -> NotRunningError:
    return NotRunningError(
        "this process was forked from the one that has the in-process instance: use it there, or start another here"
    )
